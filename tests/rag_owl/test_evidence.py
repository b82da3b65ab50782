"""Context and evidence: markers are sources, places are exact, nothing unsupported is shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rag_owl.context import interleave
from rag_owl.evidence import verify
from rag_owl.types import (
    Attribution,
    Bearing,
    Claim,
    Context,
    Draft,
    ImageLocation,
    Item,
    Location,
    Moment,
    PageLocation,
    Question,
    Retrieved,
    Support,
    TextBox,
    TextLocation,
    TextTime,
    VideoLocation,
)

TEXT = "Owls are birds. The boreal owl weighs 120 grams. It nests in holes."


def source(
    text: str | None = TEXT,
    location: Location | None = None,
    number: int = 0,
    boxes: tuple[TextBox, ...] = (),
    heading: str = "",
) -> Retrieved:
    item = Item(
        id=f"d{number}.1.0", document_id=f"d{number}", document_name=f"{number}.txt", revision=1,
        ordinal=0, kind="passage", title=f"T{number}", text=text, heading=heading,
        location=location or TextLocation(100, 100 + len(text or "")), text_boxes=boxes,
    )  # fmt: skip
    return Retrieved(item, 1.0)


QUESTION = Question("c", "How heavy is it?")
SENTENCE = "The boreal owl weighs 120 grams."
START = TEXT.index(SENTENCE)


def test_a_citation_points_to_the_characters_of_the_document() -> None:
    draft = Draft(
        f"{SENTENCE} [1]", (Attribution(0, len(SENTENCE), 0, START, START + len(SENTENCE)),)
    )
    answer = verify(draft, Context(QUESTION, (source(),)), generation=3)
    (citation,) = answer.citations
    assert citation.quote == SENTENCE
    assert citation.location == TextLocation(100 + START, 100 + START + len(SENTENCE))
    assert citation.support.verdict == "supported"
    assert (answer.generation, answer.abstained, answer.dangling_markers) == (3, False, ())


def test_words_that_are_not_in_the_quoted_place_are_not_called_supported() -> None:
    said = "The boreal owl weighs 130 grams."
    draft = Draft(f"{said} [1]", (Attribution(0, len(said), 0, START, START + len(SENTENCE)),))
    (citation,) = verify(draft, Context(QUESTION, (source(),)), 1).citations
    assert citation.support.verdict == "unchecked"


def test_a_marker_to_nothing_is_reported_and_never_a_citation() -> None:
    draft = Draft("It weighs 120 grams. [1] [7]", (Attribution(0, 20, 0), Attribution(0, 20, 6)))
    answer = verify(draft, Context(QUESTION, (source(),)), 1)
    assert answer.dangling_markers == (7,)
    assert [citation.marker for citation in answer.citations] == [1]


def test_a_citation_that_was_filled_in_points_to_the_nearest_sentence() -> None:
    draft = Draft(SENTENCE)
    (citation,) = verify(draft, Context(QUESTION, (source(),)), 1).citations
    assert (citation.filled, citation.quote, citation.marker) == (True, SENTENCE, 1)
    assert citation.location == TextLocation(100 + START, 100 + START + len(SENTENCE))
    assert citation.support.verdict == "supported"


def test_without_any_support_it_is_an_abstention() -> None:
    answer = verify(Draft("It weighs a ton.", ()), Context(QUESTION, (source(),)), 1)
    assert answer.abstained
    assert verify(Draft("x [9]", (Attribution(0, 1, 8),)), Context(QUESTION, ()), 1).abstained


def test_a_place_outside_the_item_is_not_quoted() -> None:
    draft = Draft("It does. [1]", (Attribution(0, 8, 0, 5, 10_000),))
    (citation,) = verify(draft, Context(QUESTION, (source(),)), 1).citations
    assert citation.quote is None
    assert citation.location == TextLocation(100, 100 + len(TEXT))
    assert citation.support.verdict == "unchecked"


def test_a_span_on_a_page_has_the_boxes_of_its_lines() -> None:
    boxes = tuple(
        TextBox(100 + at, 100 + at + 20, (0.1, at / 100, 0.9, at / 100 + 0.05))
        for at in range(0, 60, 20)
    )
    page = PageLocation(4, (), 100, 100 + len(TEXT))
    draft = Draft("x", (Attribution(0, 1, 0, 25, 45),))
    (citation,) = verify(
        draft, Context(QUESTION, (source(location=page, boxes=boxes),)), 1
    ).citations
    assert citation.location == PageLocation(4, (boxes[1].box, boxes[2].box), 125, 145)


def test_a_picture_is_cited_with_its_box() -> None:
    box = (0.1, 0.2, 0.3, 0.4)
    picture = source(text=None, location=ImageLocation())
    draft = Draft("x", (Attribution(0, 1, 0, box=box),))
    (citation,) = verify(draft, Context(QUESTION, (picture,)), 1).citations
    assert citation.location == ImageLocation(box)


def test_interleave_keeps_rank_and_says_what_it_left_out() -> None:
    found = [source("word " * 100, number=n, heading="h" * 10) for n in range(4)]
    context = interleave(found, QUESTION, budget=1_300)
    assert [s.item.id for s in context.sources] == ["d0.1.0", "d1.1.0", "d2.1.0"]
    assert context.left_out == ("d2.1.0", "d3.1.0")  # the third was cut, the fourth dropped
    cut = context.sources[2].item.text or ""
    assert ("word " * 100).startswith(cut)
    assert 200 <= len(cut) <= 280
    assert sum(len(s.item.text or "") + 10 for s in context.sources) <= 1_300


def test_interleave_of_nothing_is_an_empty_context() -> None:
    assert interleave([], QUESTION, 100) == Context(QUESTION, ())


def test_a_video_is_cited_by_the_seconds_that_the_answer_rests_on() -> None:
    film = source("A goal.", VideoLocation(10, 20))
    for seconds, expected in (
        (None, (10, 20)),
        ((12.0, 15.0), (12, 15)),
        ((8.0, 11.0), (10, 11)),  # never outside the item
        ((30.0, 40.0), (10, 20)),
    ):
        draft = Draft("It scores. [1]", (Attribution(0, 10, 0, seconds=seconds),))
        (citation,) = verify(draft, Context(QUESTION, (film,)), 1).citations
        assert citation.location == VideoLocation(*expected)


def test_words_of_a_film_are_cited_by_the_seconds_of_their_subtitles() -> None:
    text = "It is raining. Kenya is green."
    times = (TextTime(0, 14, 10.5, 12.0), TextTime(15, 30, 17.25, 19.0))
    film = source(text, VideoLocation(10, 20))
    film = replace(film, item=replace(film.item, text_times=times))
    for start, end, expected in ((15, 20, (17.25, 19)), (0, 30, (10.5, 19)), (14, 15, (10, 20))):
        draft = Draft("x [1]", (Attribution(0, 1, 0, start, end),))
        (citation,) = verify(draft, Context(QUESTION, (film,)), 1).citations
        assert citation.location == VideoLocation(*expected)


def test_what_rests_on_the_users_own_video_is_no_abstention() -> None:
    moment = Moment(0, 10, 12.0, 15.0, 0.8)
    asked = Question("c", "When?", video="0" * 64)
    draft = Draft("It scores.", moments=(moment,), left_out=("d1.1.0", "d0.1.0"), notes=("So.",))
    answer = verify(draft, Context(asked, (source(),), ("d0.1.0",)), 1)
    assert not answer.abstained
    assert answer.video == "0" * 64
    assert answer.moments == (moment,)
    assert answer.left_out == ("d0.1.0", "d1.1.0")
    assert answer.notes == ("So.",)
    none = verify(Draft("No.", moments=(moment,), abstained=True), Context(asked, ()), 1)
    assert none.moments == ()


class Reads:
    """A judge that goes by words: what it is asked, and a verdict that follows from the text."""

    name = "words"
    supported_from = 0.5
    unsupported_below = 0.5
    contradicted_from = 0.5

    def __init__(self) -> None:
        self.asked: list[str] = []

    def judge_all(self, claims: Sequence[Claim]) -> list[Bearing | None]:
        return [self._judge(claim.statement, claim.item) for claim in claims]

    def _judge(self, statement: str, item: Item) -> Bearing | None:
        self.asked.append(statement)
        if statement.startswith("Die"):
            return None
        weights = set(re.findall(r"[0-9]+", statement))
        there = set(re.findall(r"[0-9]+", item.text or ""))
        if not weights:
            return Bearing(0.1, 0.1)
        return Bearing(0.9, 0.0) if weights <= there else Bearing(0.0, 0.9)


def _verdict(said: str, short: str | None = None, span: tuple[int, int] | None = None) -> Support:
    where = span or (None, None)
    draft = Draft(f"{said} [1]", (Attribution(0, len(said), 0, *where),), short)
    (citation,) = verify(draft, Context(QUESTION, (source(),)), 1, Reads()).citations
    return citation.support


def test_the_judge_says_whether_an_item_bears_a_statement_out() -> None:
    assert _verdict("It has 120 grams.") == Support("supported", entailment=0.9)
    assert _verdict("It has 130 grams.") == Support(
        "unsupported", entailment=0.0, contradicted=True
    )
    assert _verdict("It is heavy.") == Support("unsupported", entailment=0.1)
    assert _verdict("Die Eule ist schwer.") == Support("unchecked")


def test_a_sentence_word_for_word_needs_no_judge() -> None:
    judge = Reads()
    draft = Draft(
        f"{SENTENCE} [1]", (Attribution(0, len(SENTENCE), 0, START, START + len(SENTENCE)),)
    )
    (citation,) = verify(draft, Context(QUESTION, (source(),)), 1, judge).citations
    assert (citation.support, judge.asked) == (Support("supported"), [])


def test_a_bare_answer_is_judged_as_the_answer_to_its_question() -> None:
    at = TEXT.index("120")
    assert _verdict("120 grams", "120 grams", (at, at + 9)).verdict == "supported"
    at = TEXT.index("holes")
    assert _verdict("holes", "holes", (at, at + 5)) == Support("partly", entailment=0.1)
