"""ALCE's citation recall and precision on cases that were computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rag_owl.evaluation.alce import (
    Cited,
    Entails,
    cited_sentences,
    entailment,
    score,
    statement_of,
)


def judged(**supporting: Sequence[set[int]]) -> Entails:
    """Per statement the sets of sources that entail it, from 0; so does every larger set."""

    def entails(sources: Sequence[int], statement: str) -> bool:
        return any(needed <= set(sources) for needed in supporting[statement])

    return entails


def test_recall_counts_sentences_and_precision_counts_citations() -> None:
    sentences = [
        Cited("a", (1,)),  # entailed: recall 1, its citation counts
        Cited("b", (2,)),  # not entailed: neither
        Cited("c", ()),  # nothing cited
        Cited("d", (1, 2)),  # 1 alone entails, 2 does not and is not needed: irrelevant
    ]
    found = score(sentences, 2, judged(a=[{0}], b=[], c=[], d=[{0}]))
    assert found is not None
    assert found.recall == pytest.approx(2 / 4)
    assert found.precision == pytest.approx(2 / 4)  # of 1, 2, 1, 2
    assert (found.sentences, found.citations, found.unread) == (4, 4, 0)


def test_citations_that_entail_only_together_both_count() -> None:
    found = score([Cited("a", (1, 2))], 2, judged(a=[{0, 1}]))
    assert found is not None
    assert (found.recall, found.precision) == (1.0, 1.0)


def test_each_of_two_that_are_sufficient_counts() -> None:
    found = score([Cited("a", (1, 2, 3))], 3, judged(a=[{0}, {1}]))
    assert found is not None
    assert found.recall == 1.0
    assert found.precision == pytest.approx(2 / 3)


def test_a_marker_to_nothing_makes_its_sentence_unsupported_and_counts_no_precision() -> None:
    found = score([Cited("a", (1, 9)), Cited("a", (1,))], 2, judged(a=[{0}]))
    assert found is not None
    assert (found.recall, found.precision, found.citations) == (0.5, 1.0, 1)


def test_at_most_three_citations_of_a_sentence_count() -> None:
    found = score([Cited("a", (2, 3, 4, 1))], 4, judged(a=[{0}]))
    assert found is not None
    assert (found.recall, found.citations) == (0.0, 3)


def test_an_answer_that_cites_nothing_has_no_precision_to_show() -> None:
    found = score([Cited("a", ())], 2, judged(a=[{0}]))
    assert found is not None
    assert (found.recall, found.precision) == (0.0, 0.0)
    assert score([], 2, judged()) is None


def test_what_the_judge_cannot_read_is_left_out_and_counted() -> None:
    def entails(sources: Sequence[int], statement: str) -> bool | None:
        return None if statement == "unread" else True

    found = score([Cited("unread", (1,)), Cited("a", (1,))], 1, entails)
    assert found is not None
    assert (found.recall, found.precision, found.unread) == (1.0, 1.0, 1)
    only = score([Cited("unread", (1,))], 1, entails)
    assert only is not None
    assert (only.recall, only.precision) == (None, None)


def test_markers_belong_to_the_sentence_before_them() -> None:
    text = "Lima is the capital. [1] It lies by the sea [2][3]. Nobody knows why.\nLima [4]"
    assert cited_sentences(text) == [
        Cited("Lima is the capital.", (1,)),
        Cited("It lies by the sea.", (2, 3)),
        Cited("Nobody knows why.", ()),
        Cited("Lima", (4,)),
    ]
    assert cited_sentences("[1]") == []


def test_what_is_cited_without_a_marker_counts_where_it_stands() -> None:
    text = "Lima is the capital. It lies by the sea [2]."
    assert cited_sentences(text, [(0, 20, 1), (21, 39, 2), (21, 39, 3)]) == [
        Cited("Lima is the capital.", (1,)),
        Cited("It lies by the sea.", (2, 3)),
    ]


def test_a_bare_answer_is_read_with_its_question() -> None:
    asked = "What is the capital of Peru?"
    assert statement_of(asked, "Lima", "Lima") == "The capital of Peru is Lima."
    assert statement_of(asked, "Peru's capital is Lima.", "Lima") == "Peru's capital is Lima."
    assert statement_of(asked, "Lima", None) == "Lima"


def test_owl_nano_reads_joined_items() -> None:
    """The real judge on real items: what neither says alone, the two say together."""
    from rag_owl.model.nano import NanoJudge
    from rag_owl.types import Item, TextLocation

    def item(name: str, text: str | None) -> Item:
        return Item(
            id=name, document_id=name, document_name=name, revision=1, ordinal=0, kind="passage",
            title="", location=TextLocation(0, 1), text=text,
        )  # fmt: skip

    river = item("river", "The Amur is a river in East Asia. It is 2,824 kilometres long.")
    fish = item("fish", "The kaluga is a large sturgeon. It can live for more than 80 years.")
    entails = entailment(NanoJudge.load(), [fish, river, None, item("picture", None)])
    said = "The Amur is a river in East Asia."
    assert entails([1], said) is True
    assert entails([0, 1], said) is True
    assert entails([2], said) is None  # deleted since then
    assert entails([3], said) is None  # it has no text
