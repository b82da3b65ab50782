"""With `require_support` only supported statements are let through, each after its check."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rag_owl.checking import Checker
from rag_owl.evidence import verify
from rag_owl.gate import NOTHING_SUPPORTED, Gate
from rag_owl.statements import statements
from rag_owl.types import (
    Answer,
    Attribution,
    Context,
    Draft,
    Item,
    Question,
    Retrieved,
    TextLocation,
)

ONE = "Owls are birds. The boreal owl weighs 120 grams."
TWO = "It nests in holes. It hunts at night."
TEXT = "Owls are birds. [1] They can fly to the moon. [2] It hunts at night [2]. Nobody knows why."


def context() -> Context:
    items = [
        Item(f"i{n}", "d", "d", 1, n, "passage", "", TextLocation(0, len(t)), t)
        for n, t in enumerate((ONE, TWO))
    ]
    return Context(Question("c", "What are owls?"), tuple(Retrieved(i, 1.0) for i in items))


def passed(pieces: Sequence[str], text: str = "") -> tuple[list[str], Answer]:
    """What is sent of an answer that comes in pieces, and the answer."""
    sent: list[str] = []
    shown = context()
    checker = Checker("What are owls?", [s.item for s in shown.sources], lambda: None)
    gate = Gate(checker, sent.append)
    for piece in pieces:
        gate.on_text(piece)
    text = text or "".join(pieces)
    found = statements(text, 2)
    draft = Draft(text, tuple(Attribution(a, b, s) for a, b, marked in found for s in marked))
    answer = gate.finish(verify(draft, shown, 1, checker=checker))
    return [s for s in sent if s], answer


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1000])
def test_what_is_sent_is_the_answer_and_nothing_else(size: int) -> None:
    pieces = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
    sent, answer = passed(pieces)
    # "It hunts at night" lacks its full stop, and without a judge only whole sentences count.
    assert "".join(sent) == answer.text == answer.text.strip()
    assert "moon" not in answer.text
    assert "Nobody" not in answer.text
    assert answer.text.startswith("Owls are birds. [1]")
    for one in (*answer.citations, *answer.statements):
        assert "moon" not in answer.text[one.start : one.end]
    assert answer.text[answer.citations[0].start : answer.citations[0].end] == "Owls are birds."
    assert any("Left out: 3 statements" in note for note in answer.notes)


def test_a_sentence_is_sent_before_the_answer_ends() -> None:
    sent: list[str] = []
    shown = context()
    gate = Gate(Checker("", [s.item for s in shown.sources], lambda: None), sent.append)
    for piece in ("Owls are", " birds. [1", "] They"):
        gate.on_text(piece)
    assert [s for s in sent if s] == []
    gate.on_text(" fly.")
    assert [s for s in sent if s] == ["Owls are birds. [1]"]


def test_offsets_move_with_what_is_left_out() -> None:
    text = "Pigs fly. [1] It nests in holes. [2] Owls are birds. [1]"
    _, answer = passed([text])
    assert answer.text == "It nests in holes. [2] Owls are birds. [1]"
    said = [answer.text[c.start : c.end] for c in answer.citations]
    assert said == ["It nests in holes.", "Owls are birds."]
    assert [s.verdict for s in answer.statements] == ["supported", "supported"]


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Owls are birds. [1] Pigs fly. [1]", "Owls are birds. [1]"),
        ("Owls are birds. [1]\n\nPigs fly. [1]\n", "Owls are birds. [1]"),
        ("Pigs fly. [1] Owls are birds. [1] ", "Owls are birds. [1]"),
        (
            "Owls are birds. [1]\n\nPigs fly. [1] It nests in holes. [2] Cows too. [1]",
            "Owls are birds. [1]\n\nIt nests in holes. [2]",
        ),
    ],
)
def test_no_space_is_left_where_a_statement_was_left_out(size: int, text: str, wanted: str) -> None:
    sent, answer = passed([text[i : i + size] for i in range(0, len(text), size)])
    assert "".join(sent) == answer.text == wanted
    for citation in answer.citations:
        assert answer.text[citation.start : citation.end].endswith(".")


def test_an_answer_without_support_is_an_abstention() -> None:
    sent, answer = passed(["Pigs fly. [1] ", "Cows too. [7]"])
    assert answer.abstained
    assert answer.text == NOTHING_SUPPORTED == "".join(sent)
    assert (answer.citations, answer.statements, answer.dangling_markers) == ((), (), ())


def test_a_statement_without_a_marker_is_kept_with_the_source_that_bears_it_out() -> None:
    text = "It nests in holes. Pigs fly. Owls are birds."
    sent, answer = passed([text[i : i + 5] for i in range(0, len(text), 5)])
    assert "".join(sent) == answer.text == "It nests in holes. Owls are birds."
    assert [(c.marker, c.filled) for c in answer.citations] == [(2, True), (1, True)]


def test_whoever_stops_listening_is_heard() -> None:
    class Gone(Exception):
        pass

    def leave(_: str) -> None:
        raise Gone

    shown = context()
    gate = Gate(Checker("", [s.item for s in shown.sources], lambda: None), leave)
    with pytest.raises(Gone):
        gate.on_text("Owls")
