"""The reader's layers: what they start from, what sees what, and where the pointer lands."""

from __future__ import annotations

import itertools

import pytest
import torch

from rag_owl.model.nano import minilm
from rag_owl.model.nano.pointing import LONGEST, best_span, spans
from rag_owl.model.nano.reader import Layer, Reader, ReaderConfig, Reading, Rows, Sight, rotate
from rag_owl.model.nano.window import Piece, Tokens, collate, lay_out, tokenise

SMALL = ReaderConfig(
    vocabulary=50, width=24, heads=3, layers=3, inner=48, hyper_layers=(1, 2), patch_width=6,
    pooled_width=5,
)  # fmt: skip


def test_it_starts_as_minilm_itself():
    from transformers import BertModel

    ids = torch.tensor([[101, 7592, 2088, 102, 0, 0], [101, 2054, 2003, 1996, 3007, 102]])
    mask = ids > 0
    published = BertModel.from_pretrained(str(minilm.folder()), add_pooling_layer=False).eval()
    reader = Reader()
    reader.load_minilm(minilm.weights())
    with torch.no_grad():
        expected = published(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        found = reader.encode_plain(ids, mask)
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-4, rtol=1e-4)


def rows(tokens: int = 9) -> Rows:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, SMALL.vocabulary, (2, tokens), generator=generator)
    every = torch.ones_like(ids, dtype=torch.bool)
    return Rows(ids, torch.zeros_like(ids), every, every, torch.tensor([[3, 6], [3, 6]]))


def sight(visible: torch.Tensor) -> Sight:
    generator = torch.Generator().manual_seed(2)
    B, _, N = visible.shape
    return Sight(
        torch.randn(B, N, 4, SMALL.patch_width, generator=generator),
        torch.randn(B, N, SMALL.pooled_width, generator=generator),
        torch.tensor([[1, 3]] * B),
        visible,
    )


def small_reader() -> Reader:
    torch.manual_seed(0)
    return Reader(SMALL).eval()


def test_pictures_that_nobody_sees_change_nothing():
    reader, batch = small_reader(), rows()
    plain = reader(batch)
    batch.sight = sight(torch.zeros(2, 9, 2, dtype=torch.bool))
    blind = reader(batch)
    torch.testing.assert_close(blind.start, plain.start)
    torch.testing.assert_close(blind.item, plain.item)


def test_a_token_looks_at_its_own_picture_and_no_other():
    torch.manual_seed(0)
    layer = Layer(SMALL, hyper=True).eval()
    x = torch.randn(1, 6, SMALL.width)
    visible = torch.zeros(1, 6, 2, dtype=torch.bool)
    visible[0, 2:4, 0] = True
    visible[0, 4:6, 1] = True
    seen = sight(visible)
    visual = torch.randn(1, 2, 5, SMALL.width)
    mask = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    before = layer(x, mask, seen, visual, False)
    changed = visual.clone()
    changed[:, 0] += 1
    moved = (layer(x, mask, seen, changed, False) - before).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [False, False, True, True, False, False]


def test_watched_mass_is_where_the_token_may_look():
    reader, batch = small_reader(), rows()
    visible = torch.zeros(2, 9, 2, dtype=torch.bool)
    visible[:, 5:, 1] = True
    batch.sight = sight(visible)
    with torch.no_grad():
        reader(batch, watch=True)
    watched = reader.layers[1].watched
    assert (watched.shape[0], *watched.shape[2:]) == (2, 9, 2, 5)
    assert float(watched[:, :, :5].abs().max()) == 0
    assert float(watched[:, :, :, 0].abs().max()) == 0
    assert float(watched[:, :, 5:, 1].sum(-1).min()) > 0


def test_visual_keys_turn_with_the_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8)

    def score(q: int, k: int) -> torch.Tensor:
        a, b = rotate(query, torch.tensor([[q]]), 1e4), rotate(key, torch.tensor([[k]]), 1e4)
        return (a * b).sum(-1)

    torch.testing.assert_close(score(7, 3), score(107, 103), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(score(7, 3), score(7, 4), atol=1e-4)


def test_padding_changes_nothing():
    reader, batch = small_reader(), rows()
    expected = reader(batch)
    short = (batch.ids, batch.types, batch.mask, batch.pointable)
    wide = Rows(*(torch.nn.functional.pad(t, (0, 4)) for t in short), batch.separators)
    found = reader(wide)
    torch.testing.assert_close(found.start[:, :9], expected.start, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.support, expected.support, atol=1e-5, rtol=1e-5)
    assert bool(found.start[:, 9:].isneginf().all())


@pytest.mark.parametrize("seed", range(5))
def test_the_best_span_is_the_best_of_all(seed):
    torch.manual_seed(seed)
    start, end = torch.randn(60), torch.randn(60)
    every = [
        (float(start[i] + end[j]), i, j)
        for i, j in itertools.product(range(60), range(60))
        if i <= j < i + LONGEST
    ]
    assert best_span(start, end)[1:] == max(every)[1:]


def test_spans_of_several_windows_are_measured_against_their_own_nothing():
    tokenizer = minilm.tokenizer()
    [question, one, two] = tokenise(tokenizer, ["q", "Alpha Beta", "Gamma Delta"])
    windows = [
        lay_out(question.ids, [Piece(i, question.ids[:0], t)]) for i, t in enumerate((one, two))
    ]
    batch = collate(windows)
    T = batch.ids.shape[1]
    start = torch.full((2, T), -5.0).masked_fill(~batch.pointable, -torch.inf)
    end = start.clone()
    first = windows[0].starts[0], windows[1].starts[0]
    start[0, first[0]], end[0, first[0]] = 3.0, 3.0  # against a likely "nothing"
    start[0, 0], end[0, 0] = 3.0, 2.0
    start[1, first[1] + 1], end[1, first[1] + 1] = 1.0, 1.0
    reading = Reading(start, end, torch.zeros(2, 1), torch.zeros(2, 1, 3))
    best, other = spans(reading, windows)
    assert (best.item, "Gamma Delta"[best.start : best.end]) == (1, "Delta")
    assert best.score == pytest.approx(12.0)
    assert (other.item, "Alpha Beta"[other.start : other.end]) == (0, "Alpha")
    assert other.score == pytest.approx(1.0)


def test_a_span_stays_in_one_cell_of_a_table():
    [question, row] = tokenise(minilm.tokenizer(), ["q", "| port | 8000 | where |"])
    window = lay_out(question.ids, [Piece(0, question.ids[:0], row)])
    batch = collate([window])
    start = torch.zeros(batch.ids.shape)
    end = start.clone()
    at = window.starts[0]
    start[0, at], end[0, at + 4] = 9.0, 8.0  # the first bar to 8000
    start[0, at + 1] = 3.0  # port
    reading = Reading(start, end, torch.zeros(1, 1), torch.zeros(1, 1, 3))
    [found] = spans(reading, [window])
    assert "| port | 8000 | where |"[found.start : found.end] == "8000"
    [bars] = tokenise(minilm.tokenizer(), ["| | |"])
    window = lay_out(question.ids, [Piece(0, question.ids[:0], bars)])
    batch = collate([window])
    zeros = torch.zeros(batch.ids.shape)
    assert not spans(Reading(zeros, zeros, torch.zeros(1, 1), torch.zeros(1, 1, 3)), [window])


def test_an_empty_piece_has_no_span():
    [question] = tokenise(minilm.tokenizer(), ["q"])
    empty = Tokens(question.ids[:0], question.spans[:0])
    window = lay_out(question.ids, [Piece(0, question.ids[:0], empty)])
    batch = collate([window])
    zeros = torch.zeros(batch.ids.shape)
    assert spans(Reading(zeros, zeros, torch.zeros(1, 1), torch.zeros(1, 1, 3)), [window]) == []
