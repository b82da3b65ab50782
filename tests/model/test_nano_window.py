"""Texts to token windows and back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rag_owl.model.nano import minilm
from rag_owl.model.nano.window import CLS, OVERLAP, SEP, collate, pack, tokenise

NONE = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def tokenizer():
    return minilm.tokenizer()


def test_structure_in_a_text_stays_text(tokenizer):
    [tokens] = tokenise(tokenizer, ["[SEP] [CLS] [PAD]"])
    assert not {CLS, SEP, 0} & set(tokens.ids.tolist())


def test_spans_count_the_characters_of_the_text_as_given(tokenizer):
    text = "Größe: ÅNGSTRÖM – 日本 🦉 Kyōto"
    [tokens] = tokenise(tokenizer, [text])
    pieces = {text[a:b] for a, b in tokens.spans}
    assert {"日", "本"} <= pieces
    last = text.index("Kyōto")
    assert tokens.spans[-1, 1] == len(text)
    assert any(a == last for a in tokens.spans[:, 0])


def test_items_are_never_divided_when_they_fit(tokenizer):
    [question, *items] = tokenise(tokenizer, ["who?"] + ["word " * 200] * 5)
    windows = pack(question.ids, [(NONE, t) for t in items])
    assert [[p.item for p in w.pieces] for w in windows] == [[0, 1], [2, 3], [4]]
    assert all(len(w.ids) <= 512 for w in windows)
    assert all(len(p.text.ids) == 200 for w in windows for p in w.pieces)


def test_a_long_item_is_read_whole_in_overlapping_pieces(tokenizer):
    words = " ".join(str(i) for i in range(3000))
    [question, item, short] = tokenise(tokenizer, ["which?", words, "short"])
    windows = pack(question.ids, [(NONE, item), (NONE, short)])
    assert all(len(w.ids) <= 512 for w in windows)
    pieces = [p for w in windows for p in w.pieces if p.item == 0]
    covered = np.zeros(len(words), bool)
    for piece in pieces:
        covered[piece.text.spans[0, 0] : piece.text.spans[-1, 1]] = True
    assert covered.all()
    for one, other in pairwise(pieces):
        assert one.text.ids[-OVERLAP:].tolist() == other.text.ids[:OVERLAP].tolist()
    assert [p.item for w in windows for p in w.pieces][-1] == 1


def test_a_question_and_a_title_beyond_their_limit_are_cut(tokenizer):
    [question, title, item] = tokenise(tokenizer, ["why " * 400, "title " * 300, "text"])
    [window] = pack(question.ids, [(title.ids, item)])
    assert len(window.ids) < 160
    assert window.ids[window.starts[0]] == int(item.ids[0])


def test_only_text_and_no_answer_can_be_pointed_at(tokenizer):
    [question, title, item] = tokenise(tokenizer, ["who is it?", "a title", "the text"])
    [window] = pack(question.ids, [(title.ids, item)])
    rows = collate([window])
    pointable = rows.pointable[0].nonzero()[:, 0].tolist()
    assert pointable == [0, window.starts[0], window.starts[0] + 1]
    assert rows.types[0, : window.question_end].sum() == 0
    assert bool(rows.types[0, window.question_end :].all())
    assert rows.ids[0, rows.separators[0, 0]] == SEP


def test_an_item_without_text_has_a_place_and_no_pointer(tokenizer):
    [question, empty, item] = tokenise(tokenizer, ["who?", "", "him"])
    [window] = pack(question.ids, [(NONE, empty), (NONE, item)])
    assert len(window.pieces) == 2
    assert collate([window]).pointable.sum() == 2
