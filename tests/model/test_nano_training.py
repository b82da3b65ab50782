"""What owl-nano learns from: episodes, statements, warps, and their losses."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from rag_owl.model.nano import minilm
from rag_owl.model.nano.eyes import Eyes, normalise
from rag_owl.model.nano.likeness import similarities
from rag_owl.model.nano.pointing import behind
from rag_owl.model.nano.reader import Reader
from rag_owl.model.nano.window import collate, tokenise
from rag_owl.model.train.nano import lean, warp
from rag_owl.model.train.nano.episodes import FACTS, PictureEpisodes
from rag_owl.model.train.nano.export import logistic
from rag_owl.model.train.nano.eyes import Heads, contrastive, precision_at_5, set_rest
from rag_owl.model.train.nano.passages import (
    Article,
    Asked,
    Passage,
    crop,
    occurrences,
    sentence_tokens,
    squad_episode,
    token_range,
)
from rag_owl.model.train.nano.pictures import FLAG_SIDE, SIDE, Flags, Pictures, load, same_looking
from rag_owl.model.train.nano.reader import SIGHT, pointer_loss, windows_of, with_pictures
from rag_owl.model.train.nano.statements import CONTRADICTED, SUPPORTED, statement, swaps
from rag_owl.model.train.nano.tables import TableQuestion, markdown, markdown_episode
from rag_owl.statements import declare

TEXTS = [
    "The owl Athene lived in Athens. It was 27 years old in 1850. Florence Nightingale owned it.",
    "Barn owls hunt at night. They eat 3 or 4 mice. Many live in Scotland and in Wales.",
    "Snowy owls nest in the Arctic. Their eggs hatch after 32 days.",
]


@pytest.fixture(scope="module")
def tokenizer():
    return minilm.tokenizer()


@pytest.fixture(scope="module")
def article(tokenizer):
    coded = tokenise(tokenizer, TEXTS)
    passages = [Passage(t, c, sentence_tokens(t, c)) for t, c in zip(TEXTS, coded, strict=True)]
    return Article("Owls", passages)


def test_occurrences_are_whole_words():
    assert occurrences("cat concat cat, cats", "cat") == [(0, 3), (11, 14)]


@pytest.mark.parametrize("seed", range(8))
def test_the_answer_stands_in_its_piece_of_the_table(tokenizer, seed):
    rows = [[f"Owl {n}", str(100 + n), f"Place {n}"] for n in range(20)]
    asked = TableQuestion(
        "Where does Owl 13 live?", "Place 13", 13, ("name", "grams", "place"), rows
    )
    episode = markdown_episode(asked, random.Random(seed), tokenizer)
    texts = [tokenizer.decode(item[1].ids.tolist()) for item in episode.items]
    assert 1 <= len(texts) <= 3
    held = [i for i, text in enumerate(texts) if "place 13" in text]
    if held:
        [(item, first, last)] = episode.answers
        ids = episode.items[item][1].ids[first : last + 1]
        assert ([item], tokenizer.decode(ids.tolist())) == (held, "place 13")
    else:
        assert episode.answers == episode.gold == []


def test_a_markdown_table():
    told = markdown(("a", "b"), [("1", "x  y"), ("2", "z")])
    assert told == "| a | b |\n|---|---|\n| 1 | x y |\n| 2 | z |"
    assert markdown(None, [("1",)]) == "| 1 |"


def test_token_range_finds_the_words_of_the_characters(article):
    text, tokens = TEXTS[0], article.passages[0].tokens
    start = text.index("Florence")
    first, last = token_range(tokens, start, start + len("Florence Nightingale"))
    assert text[tokens.spans[first, 0] : tokens.spans[last, 1]] == "Florence Nightingale"
    assert token_range(tokens.cut(0, 4), start, start + 8) is None


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_is_whole_sentences_around_the_answer(article, seed):
    passage = article.passages[0]
    start = TEXTS[0].index("1850")
    around = token_range(passage.tokens, start, start + 4)[0]
    shown = crop(passage, around, random.Random(seed), 22)
    assert len(shown.ids) <= 22
    said = TEXTS[0][shown.spans[0, 0] : shown.spans[-1, 1]]
    assert "1850" in said
    assert said.endswith(".")


@pytest.mark.parametrize("answerable", [True, False])
def test_an_episode_points_at_the_answer_or_at_nothing(article, answerable):
    start = TEXTS[1].index("Scotland")
    asked = Asked("Where?", "Scotland", [(start, start + 8)], 1)
    none = np.zeros(0, np.int32)
    for seed in range(5):
        episode = squad_episode(
            article, asked, random.Random(seed), none, passages=3, answerable=answerable, limit=60
        )
        whole = article.passages[1].tokens.ids.tolist()
        assert any(t.ids.tolist() == whole for _, t in episode.items) == answerable
        for item, first, last in episode.answers:
            spans = episode.items[item][1].spans
            assert TEXTS[1][spans[first, 0] : spans[last, 1]] == "Scotland"
        assert bool(episode.answers) == answerable


def test_the_pointer_loss_is_least_where_the_answer_is(article, tokenizer):
    start = TEXTS[1].index("Scotland")
    asked = Asked("Where?", "Scotland", [(start, start + 8)], 1)
    none = np.zeros(0, np.int32)
    episode = squad_episode(
        article, asked, random.Random(0), none, passages=2, answerable=True, limit=60
    )
    windows = windows_of(tokenizer, [episode])
    item, first, last = episode.answers[0]
    logits = torch.zeros(2, 1, len(windows[0].ids))
    losses = []
    for at in (windows[0].starts[item] + first, 0):
        sharp = logits.clone()
        sharp[0, 0, at] = sharp[1, 0, at + (last - first if at else 0)] = 9.0
        losses.append(float(pointer_loss(sharp[0], sharp[1], windows, [episode])))
    assert losses[0] < 0.1 < 5 < losses[1]


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("Who wrote Hamlet?", "Shakespeare", "Shakespeare wrote Hamlet."),
        ("What is the capital of Peru?", "Lima", "The capital of Peru is Lima."),
        ("Where is Lima?", "Peru", "Lima is in Peru."),
        ("Which owl was white?", "Hedwig", "Hedwig was white."),
        ("How did it end?", "badly", "How did it end? badly."),
    ],
)
def test_questions_become_statements(question, answer, said):
    assert declare(question, answer) == said


def test_swaps_are_of_the_answer_s_kind():
    assert swaps("1850", TEXTS[0]) == ["27"]
    assert "Athens" in swaps("Florence Nightingale", TEXTS[0])
    assert not any("Florence" in s for s in swaps("Florence Nightingale", TEXTS[0]))


@pytest.mark.parametrize("seed", range(6))
def test_a_contradicting_statement_does_not_hold_the_answer(article, seed):
    start = TEXTS[0].index("1850")
    asked = Asked("In what year was it 27?", "1850", [(start, start + 4)], 0)
    said, kind = statement(article, asked, random.Random(seed), CONTRADICTED)
    assert kind == CONTRADICTED
    assert "1850" not in said
    said, kind = statement(article, asked, random.Random(seed), SUPPORTED)
    assert kind == SUPPORTED
    assert "1850" in said


def test_warps_keep_the_shape_and_the_range_and_repeat():
    flags = warp.invent(4, 32, torch.Generator().manual_seed(3))
    assert flags.shape == (4, 3, 32, 32)
    assert 0 <= float(flags.min()) <= float(flags.max()) <= 1
    ground = torch.zeros(4, 3, 24, 24)
    photos = [
        warp.photograph(flags, torch.full((4,), 1.5), ground, 24, torch.Generator().manual_seed(5))
        for _ in range(2)
    ]
    assert photos[0].shape == (4, 3, 24, 24)
    assert 0 <= float(photos[0].min()) <= float(photos[0].max()) <= 1
    torch.testing.assert_close(photos[0], photos[1], atol=0, rtol=0)


def test_a_mixed_picture_is_of_two_classes_by_area():
    plain = torch.arange(32.0)[:, None, None, None].expand(32, 3, 16, 16) / 32
    mixed, other, own = warp.cut_mix(plain, torch.Generator().manual_seed(1))
    assert 20 < int((own < 1).sum()) < 32  # four of five
    for row in range(32):
        same = (mixed[row] == plain[row]).float().mean()
        assert same == pytest.approx(1.0 if other[row] == row else own[row].item())
        assert ((mixed[row] == plain[row]) | (mixed[row] == plain[other[row]])).all()


def test_identical_flags_count_as_one():
    a, b = np.zeros((2, 8, 8, 3), np.uint8)
    b[:4] = 255
    assert same_looking(np.stack([a, b, a, b, a])).tolist() == [0, 1, 0, 1, 0]


def test_contrast_is_least_when_views_of_one_thing_agree():
    things = torch.eye(4)
    labels = torch.arange(4).repeat(2)
    agree = contrastive(torch.cat([things, things]), labels)
    differ = contrastive(torch.cat([things, things.flip(0)]), labels)
    assert float(agree) < 0.01 < 1 < float(differ)


def test_precision_at_five_of_perfect_and_of_useless_vectors():
    labels = torch.arange(40).repeat_interleave(6)
    assert precision_at_5(torch.eye(40)[labels], labels, rounds=20) == pytest.approx(1.0)
    torch.manual_seed(0)
    noise = torch.nn.functional.normalize(torch.randn(240, 16), dim=-1)
    assert precision_at_5(noise, labels, rounds=100) < 0.2


def test_likeness_says_which_item_stands_out():
    eyes = Eyes()
    one, two = torch.eye(640)[:2]
    one[[128 + 5, 512 + 5]] = two[[128 + 6, 512 + 6]] = 1.0
    eyes.kinds.weight.copy_(10 * torch.eye(253, 128))
    rows = similarities(one[None], [two, None, one], eyes)
    assert rows[1] == [0.0] * 9
    assert all(mine > other for mine, other in zip(rows[2][1:5], rows[0][1:5], strict=True))
    assert all(mine > 0 > other for mine, other in zip(rows[2][5:], rows[0][5:], strict=True))
    assert similarities(torch.zeros(0, 640), [one], eyes) == [[0.0] * 9]


@pytest.fixture
def pictures(tokenizer):
    """Classes and countries that differ by their colour alone."""
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 255, (8, 1, 1, 3), np.uint8)
    labels = np.arange(8).repeat(3)
    plain = np.broadcast_to(colours, (8, FLAG_SIDE, FLAG_SIDE, 3))
    things = Pictures(plain[labels, :SIDE, :SIDE].copy(), labels, [f"thing {i}" for i in range(8)])
    facts = [{kind: f"{kind.title()}{letter}" for kind in FACTS} for letter in "ABCDEFGH"]
    for country in facts:
        country["flag"] = f"description: plain {country['name']} meaning: luck {country['name']}"
    flags = Flags(plain.copy(), np.full(8, 1.5, np.float32), np.arange(8), facts)
    return PictureEpisodes(tokenizer, things, flags)


def test_of_strange_things_only_their_appearance_is_told(pictures):
    rng, eyes = random.Random(3), Eyes().eval()
    episodes = [pictures.thing(rng) for _ in range(4)]
    for strange, kept in ((False, 9), (True, 3)):
        for episode in episodes:
            episode.strange = strange
        windows = windows_of(pictures.tokenizer, episodes)
        rows = collate(windows)
        with torch.no_grad():
            features, *parts = eyes(pictures.render(episodes, torch.Generator().manual_seed(1)))
            pooled = torch.cat(parts, 1)
            with_pictures(rows, windows, episodes, features, pooled, [False] * 4, eyes)
        told = rows.similarities.abs().sum((0, 1)).nonzero()[:, 0].tolist()
        assert told == (list(range(9)) if kept == 9 else [0, 3, 7])


def test_what_learns_of_sight_alone_leaves_texts_as_they_were_read(pictures, article):
    torch.manual_seed(0)
    reader, eyes, rng = Reader().eval(), Eyes().eval(), random.Random(3)
    start = TEXTS[1].index("Scotland")
    asked = Asked("Where?", "Scotland", [(start, start + 8)], 1)
    none = np.zeros(0, np.int32)
    episode = squad_episode(article, asked, rng, none, passages=2, answerable=True, limit=60)
    texts = collate(windows_of(pictures.tokenizer, [episode]))
    looked = [pictures.thing(rng)]
    windows = windows_of(pictures.tokenizer, looked)
    rows = collate(windows)

    def read() -> list[torch.Tensor]:
        return [
            torch.cat([r.start.flatten(), r.end.flatten(), r.item.flatten(), r.support.flatten()])
            for r in (reader.infer(texts), reader.infer(rows))
        ]

    with torch.no_grad():
        features, *parts = eyes(pictures.render(looked, torch.Generator().manual_seed(1)))
        with_pictures(rows, windows, looked, features, torch.cat(parts, 1), [False], eyes)
        before = read()
        for name, parameter in reader.named_parameters():
            if any(part in name for part in SIGHT):
                parameter += 0.1 * torch.randn(parameter.shape)
        after = read()
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_pictures_that_are_alike_are_leaned_towards(pictures):
    torch.manual_seed(0)
    reader, eyes = Reader().eval(), Eyes().eval()
    body = {k: v.clone() for k, v in reader.state_dict().items() if k != "lean.weight"}
    before, after = lean.fit(reader, eyes, pictures, batches=4, size=4)
    assert after < before - 0.05
    over = reader.lean.weight[0, 5:]
    assert over.abs().sum() > 0.1
    assert all(torch.equal(v, body[k]) for k, v in reader.state_dict().items() if k in body)


def test_the_grid_of_patches_is_the_same_at_any_side():
    eyes = Eyes().eval()
    with torch.no_grad():
        for side in (48, 64, 80, 96):
            assert eyes(torch.zeros(2, 3, side, side))[0].shape == (2, 64, 192)


def test_turned_and_slanted_pictures_are_whole_pictures():
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    plain, turned = (
        warp.crop_and_flip(x, 24, torch.Generator().manual_seed(3), 1.0, turn) for turn in (0, 0.25)
    )
    assert turned.shape == plain.shape == (6, 3, 24, 24)
    assert 0 <= turned.min() < turned.max() <= 1
    assert (turned - plain).abs().mean() > 0.02


def test_eyes_go_on_from_written_weights(pictures):
    torch.manual_seed(0)
    eyes = Eyes().eval()
    eyes.kinds.weight.copy_(20 * torch.nn.functional.normalize(torch.randn(253, 128)))
    heads = Heads(eyes.config, 253, 8)

    class Drawn:
        flag_pixels = torch.from_numpy(pictures.flags.pixels).permute(0, 3, 1, 2).float() / 255
        groups = torch.from_numpy(pictures.flags.groups)

    heads.begin(eyes, Drawn())
    seen = torch.rand(5, 128)
    logits = heads.logits(seen, heads.classes, 0)
    torch.testing.assert_close(logits, eyes.kinds(seen), rtol=1e-4, atol=1e-4)
    assert heads.flags.norm(dim=-1).min() > 0.9


def test_what_is_measured_on_was_not_learned_from(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).repeat(SIDE * SIDE * 3).reshape(12, SIDE, SIDE, 3)
    np.save(tmp_path / f"pictures-val-{SIDE}.npy", pixels)
    (tmp_path / f"pictures-val-{SIDE}.json").write_text(json.dumps(["owl", "bat", "owl"] * 4))
    held, val = (load(tmp_path, tmp_path, part) for part in ("held", "val"))
    assert held.names == val.names == ["bat", "owl"]
    assert sorted([*held.pixels[:, 0, 0, 0], *val.pixels[:, 0, 0, 0]]) == list(range(12))
    for half in (held, val):
        assert np.bincount(half.labels).tolist() == [2, 4]
        assert [half.names[i] for i in half.labels] == [
            "bat" if n % 3 == 1 else "owl" for n in half.pixels[:, 0, 0, 0]
        ]


def test_the_rest_of_the_eyes_is_what_explains_most():
    eyes, pixels = Eyes(), np.random.default_rng(0).integers(0, 255, (80, SIDE, SIDE, 3), np.uint8)
    set_rest(eyes, Heads(eyes.config, 253, 3), pixels)
    assert eyes.training
    rows = eyes.appearance.weight
    torch.testing.assert_close(rows @ rows.T, torch.eye(128), atol=1e-4, rtol=0)
    eyes.eval()
    with torch.no_grad():
        pooled = eyes.look(normalise(torch.from_numpy(pixels)))[1]
    kept = (pooled @ rows.T).square().sum() / pooled.square().sum()
    assert kept > 0.99  # 80 pictures lie in no more than 80 of the 128 directions


def test_only_near_items_fall_behind_a_text_that_is_more_like_the_question():
    scores, alike = np.array([20.0, 15.0, 9.0, 7.9]), np.array([0.2, 0.5, 0.6, 0.9])
    taken = behind(scores, alike, 10.0)
    assert taken == pytest.approx([4.0, 1.0, 0.0, 0.0])
    assert behind(scores[:1], alike[:1], 10.0).tolist() == [0.0]


def test_the_logistic_fit_finds_the_curve():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, 4000)
    truths = rng.random(4000) < 1 / (1 + np.exp(-(0.8 * scores - 1)))
    (slope,), offset = logistic(scores[:, None], truths)
    assert slope == pytest.approx(0.8, abs=0.1)
    assert offset == pytest.approx(-1.0, abs=0.2)
