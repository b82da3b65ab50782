"""What sources say to a statement: exact words, the judge's thresholds, and who says otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from rag_owl.checking import Asked, Checker, names_and_numbers
from rag_owl.types import Bearing, Claim, Item, TextLocation

QUESTION = "What is the capital of Peru?"
PERU = "Peru lies in South America. The capital of Peru is Lima. It has 34 million people."
LIAR = "Peru lies in South America. The capital of Peru is Cusco. It has 34 million people."
CHILE = "Chile lies in South America. The capital of Chile is Santiago. It has 19 million people."
SAID = "The capital of Peru is Lima."


def item(text: str | None, title: str = "", number: int = 0) -> Item:
    return Item(
        id=f"i{number}", document_id="d", document_name="d", revision=1, ordinal=0, kind="passage",
        title=title, location=TextLocation(0, 1), text=text,
    )  # fmt: skip


class Judge:
    """Says what it is told to; keeps what it was asked."""

    name = "told"
    supported_from = 0.8
    unsupported_below = 0.4
    contradicted_from = 0.5

    def __init__(self, supported: float = 0.0, contradicted: float = 0.0) -> None:
        self.bearing: Bearing | None = Bearing(supported, contradicted)
        self.claims: list[Claim] = []

    def judge_all(self, claims: Sequence[Claim]) -> list[Bearing | None]:
        self.claims += claims
        return [self.bearing] * len(claims)


def checker(*texts: str, judge: Judge | None = None, question: str = QUESTION) -> Checker:
    return Checker(question, [item(t, number=i) for i, t in enumerate(texts)], lambda: judge)


def test_a_verdict_follows_the_judges_thresholds() -> None:
    for supported, contradicted, verdict in (
        (0.8, 0.0, "supported"), (0.79, 0.2, "partly"), (0.4, 0.6, "partly"),
        (0.39, 0.1, "unsupported"),
    ):  # fmt: skip
        (found,) = checker(PERU, judge=Judge(supported, contradicted)).check([Asked("Lima.", 0)])
        assert (found.verdict, found.entailment) == (verdict, supported)
        assert not found.contradicted
    (found,) = checker(PERU, judge=Judge(0.1, 0.7)).check([Asked("Lima rules.", 0)])
    assert (found.verdict, found.contradicted) == ("unsupported", True)


def test_the_judge_reads_everything_in_one_batch_and_only_once() -> None:
    judge = Judge(0.9)
    asking = checker(PERU, CHILE, judge=judge)
    asked = [Asked("Lima leads.", 0), Asked("Lima leads.", 1), Asked(SAID, 0)]
    verdicts = [support.verdict for support in asking.check(asked)]
    assert verdicts == ["supported"] * 3
    assert [(c.statement, c.item.id) for c in judge.claims] == [
        ("Lima leads.", "i0"), ("Lima leads.", "i1"),
    ]  # fmt: skip
    asking.check(asked)
    assert len(judge.claims) == 2


def test_a_judge_is_loaded_only_when_it_is_needed() -> None:
    def load() -> Judge:
        raise AssertionError("nothing had to be judged")

    asking = Checker(QUESTION, [item(PERU), item(CHILE)], load)
    assert asking.check([Asked(SAID, 0)])[0].verdict == "supported"
    assert asking.contradicting(SAID, [0]) == []


def test_a_copy_that_says_something_else_is_found_without_a_judge() -> None:
    asking = checker(PERU, LIAR, CHILE)
    assert asking.contradicting(SAID, [0]) == [1]
    assert asking.contradicting("Lima", [0], bare=True) == [1]
    assert checker(LIAR, PERU).contradicting("The capital of Peru is Cusco.", [0]) == [1]


def test_a_text_about_something_else_contradicts_nothing() -> None:
    judge = Judge(0.0, 1.0)
    assert checker(PERU, CHILE, judge=judge).contradicting(SAID, [0]) == []
    titled = [item("The capital is Lima.", "Peru"), item("The capital is Santiago.", "Chile")]
    asking = Checker("What is its capital?", titled, lambda: judge)
    assert asking.contradicting("The capital is Lima.", [0]) == []
    assert judge.claims == []


def test_other_words_for_the_contrary_are_for_the_judge() -> None:
    other = "In truth Cusco is the capital that Peru has."
    said = "Lima is the capital that Peru has."
    assert checker(PERU, other, judge=Judge(0.1, 0.9)).contradicting(said, [0]) == [1]
    assert checker(PERU, other, judge=Judge(0.1, 0.2)).contradicting(said, [0]) == []
    assert checker(PERU, other).contradicting(said, [0]) == []


def test_a_statement_without_a_marker_finds_its_source() -> None:
    assert checker(CHILE, PERU).best(SAID) == 1
    assert checker(CHILE, PERU).best("Owls hunt at night.") is None
    assert checker(CHILE, PERU, judge=Judge(0.9)).best("Peru's capital is called Lima.") == 1
    assert checker(CHILE, PERU, judge=Judge(0.1)).best("Peru's capital is called Lima.") is None


def test_names_and_numbers() -> None:
    assert names_and_numbers("The river Amur is 2,824 km long, in 3D.") == ["Amur", "2,824", "3D"]
    assert names_and_numbers("Lima grew.") == ["Lima"]
    assert names_and_numbers("") == []


def test_hostile_texts_end_soon() -> None:
    asking = checker("a. " * 20_000, "1 " * 50_000, judge=Judge(0.5))
    assert asking.check([Asked("9" * 30_000, 0)])[0].verdict == "partly"
    assert asking.best("") is None
    assert asking.check([Asked("", 0)])[0].verdict == "unchecked"
