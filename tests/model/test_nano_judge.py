"""The support head as judge: what citations are checked with."""

from __future__ import annotations

import pytest

from rag_owl.model.nano import NanoJudge
from rag_owl.types import Item, TextLocation

RIVER = "The Amur is a river in East Asia. It is 2,824 kilometres long."
FISH = "The kaluga is a large sturgeon. It can live for more than 80 years."


def item(text: str | None, title: str = "") -> Item:
    return Item(
        id="i", document_id="d", document_name="d.txt", revision=1, ordinal=0, kind="passage",
        title=title, location=TextLocation(0, len(text or "")), text=text,
    )  # fmt: skip


@pytest.fixture(scope="module")
def judge() -> NanoJudge:
    return NanoJudge.load()


def test_a_statement_bears_on_the_text_that_speaks_of_it(judge: NanoJudge) -> None:
    said = "The Amur is 2,824 kilometres long."
    own, other = judge.judge(said, item(RIVER)), judge.judge(said, item(FISH))
    assert own is not None
    assert other is not None
    assert 0 <= own.supported + own.contradicted <= 1 + 1e-4
    assert own.supported > other.supported


def test_the_end_of_a_long_text_counts_as_much_as_its_beginning(judge: NanoJudge) -> None:
    said = "The Amur is 2,824 kilometres long."
    long = " ".join([FISH] * 40) + " " + RIVER
    found, without = judge.judge(said, item(long)), judge.judge(said, item(FISH))
    assert found is not None
    assert without is not None
    assert found.supported > without.supported


def test_what_it_cannot_read_it_does_not_judge(judge: NanoJudge) -> None:
    assert judge.judge("Der Amur ist ein Fluss und er ist sehr lang.", item(RIVER)) is None
    assert judge.judge("The Amur is long.", item(None)) is None
    assert judge.judge("The Amur is long.", item("")) is None
