"""From a model's draft to an answer whose citations were checked.

Each statement is compared with each item that it cites (`rag_owl.checking`); a marker that points
to nothing is reported and is never shown as support; a statement without a marker gets the source
that attention or a judge says, and is marked as filled; a statement that nothing bears out is
marked, or left out where the question requires support. An answer without any support is an
abstention.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest

from rag_owl.checking import ORDER, Asked, Checker, without_markers
from rag_owl.ports import Grounding, Judge
from rag_owl.statements import MARKER, statements
from rag_owl.types import (
    Answer,
    Attribution,
    Citation,
    Context,
    Draft,
    ImageLocation,
    Item,
    Location,
    PageLocation,
    Statement,
    Support,
    TextLocation,
    Verdict,
    VideoLocation,
)

UNCALIBRATED = Grounding()


def checker_of(context: Context, judge: Callable[[], Judge | None]) -> Checker:
    """judge: called when it is first needed."""
    asked = context.question.words or context.question.text
    return Checker(asked, [source.item for source in context.sources], judge)


def verify(
    draft: Draft,
    context: Context,
    generation: int,
    judge: Judge | None = None,
    *,
    checker: Checker | None = None,
    grounding: Grounding = UNCALIBRATED,
    drops: Sequence[float | None] = (),
) -> Answer:
    """The draft as an `Answer`, with a `Citation` per attribution that holds.

    checker: instead of the judge alone, with what it was asked already. grounding: thresholds of
    the model that wrote it. drops: per attribution of the draft, what leaving it out costs.
    """
    question = context.question
    sources = len(context.sources)
    checker = checker or checker_of(context, lambda: judge)
    dangling = sorted(
        {int(m) for m in MARKER.findall(draft.text) if not 1 <= int(m) <= sources}
    ) if not draft.abstained else []  # fmt: skip
    citations: tuple[Citation, ...] = ()
    said: tuple[Statement, ...] = ()
    if not draft.abstained:
        measured = zip_longest(draft.attributions, drops[: len(draft.attributions)])
        grounds = [(a, d) for a, d in measured if a is not None and 0 <= a.source < sources]
        spans = _spans(draft, grounds)
        grounds += [(a, None) for a in _filled(draft, spans, checker)]
        grounds.sort(key=lambda pair: (pair[0].start, pair[0].end))
        citations = _cite_all(draft, context, grounds, checker, grounding)
        said = tuple(_statement(draft, span, citations, checker) for span in spans)
    return Answer(
        id=uuid.uuid4().hex,
        collection=question.collection,
        question=question.words or question.text,
        text=draft.text,
        abstained=draft.abstained or not (citations or draft.moments or draft.looks),
        citations=citations,
        model=draft.model,
        generation=generation,
        short=None if draft.abstained else draft.short,
        answerable=draft.answerable,
        dangling_markers=tuple(dangling),
        left_out=(*context.left_out, *(i for i in draft.left_out if i not in context.left_out)),
        pictures=question.pictures,
        created_at=time.time(),
        video=question.video,
        moments=() if draft.abstained else draft.moments,
        notes=draft.notes,
        conversation_id=question.conversation_id,
        reading=question.text if question.words is not None else None,
        sources=tuple(source.item.id for source in context.sources),
        exclude_items=question.exclude_items,
        replay_of=question.replay_of,
        usage=draft.usage,
        statements=said,
        looks=() if draft.abstained else draft.looks,
    )


# --- statements -----------------------------------------------------------------------------------


def _spans(
    draft: Draft, grounds: Sequence[tuple[Attribution, float | None]]
) -> list[tuple[int, int]]:
    """Every statement of the draft: what is attributed, and the sentences besides."""
    given = {(a.start, a.end) for a, _ in grounds} | _own(draft)
    rest = [
        (start, end)
        for start, end, _ in statements(draft.text, 0)
        if not any(a < end and start < b for a, b in given)
        and draft.text[end - 1] not in ":："  # what follows is the statement
    ]
    return sorted({*given, *rest})


def _own(draft: Draft) -> set[tuple[int, int]]:
    """What rests on the user's own video or pictures."""
    moments = {(moment.start, moment.end) for moment in draft.moments}
    return moments | {(look.start, look.end) for look in draft.looks}


def _filled(draft: Draft, spans: Sequence[tuple[int, int]], checker: Checker) -> list[Attribution]:
    """Sources for statements that have neither a marker nor an attribution of the model's."""
    found = []
    given = {(each.start, each.end) for each in draft.attributions} | _own(draft)
    for start, end in spans:
        if (start, end) in given:
            continue
        said = without_markers(draft.text[start:end])
        source = checker.best(said)
        if source is not None:
            first, last = checker.place(said, source) or (None, None)
            found.append(Attribution(start, end, source, first, last, filled=True))
    return found


def _statement(
    draft: Draft, span: tuple[int, int], citations: Sequence[Citation], checker: Checker
) -> Statement:
    """The best verdict of its citations; one that another source denies is partly supported."""
    mine = [c for c in citations if (c.start, c.end) == span]
    verdicts: list[Verdict] = [c.support.verdict for c in mine]
    verdicts += ["unchecked"] if span in _own(draft) else []  # nobody else saw it
    verdicts = verdicts or ["unsupported"]
    verdict = max(verdicts, key=ORDER.index)
    said = without_markers(draft.text[slice(*span)])
    against = [c.marker for c in mine if c.support.contradicted]
    pictured = any(c.support.alike is not None for c in mine)  # it says nothing of texts
    if mine and verdict != "unsupported" and not pictured:
        cited = [c.marker - 1 for c in mine]
        others = checker.contradicting(said, cited, bare=_is_bare(draft, said))
        against += [source + 1 for source in others]
    if against and verdict == "supported":
        verdict = "partly"
    return Statement(*span, verdict, tuple(sorted(set(against))))


def _is_bare(draft: Draft, said: str) -> bool:
    return draft.short is not None and said in draft.short


# --- citations ------------------------------------------------------------------------------------


def _cite_all(
    draft: Draft,
    context: Context,
    grounds: Sequence[tuple[Attribution, float | None]],
    checker: Checker,
    grounding: Grounding,
) -> tuple[Citation, ...]:
    asked, places, quotes = [], [], []
    said_of_texts = [a.alike is None for a, _ in grounds]
    for attribution, _ in grounds:
        item = context.sources[attribution.source].item
        place = _place(attribution, item)
        said = without_markers(draft.text[attribution.start : attribution.end])
        quote = item.text[slice(*place)] if item.text and place else None
        own = attribution.filled and attribution.attention is None  # found by its own words
        ground = None if own else quote
        asked.append(Asked(said, attribution.source, _is_bare(draft, said), ground))
        places.append(place)
        quotes.append(quote)
    read = iter(
        checker.check([a for a, of_text in zip(asked, said_of_texts, strict=True) if of_text])
    )
    checked = [next(read) if of_text else Support() for of_text in said_of_texts]
    return tuple(
        _cite(attribution, context, place, quote, weigh(support, attribution, drop, grounding))
        for (attribution, drop), quote, place, support in zip(
            grounds, quotes, places, checked, strict=True
        )
    )


def weigh(
    support: Support, attribution: Attribution, drop: float | None, grounding: Grounding
) -> Support:
    """The judge's verdict beside the model's own signs, where those are calibrated.

    A statement that loses nothing without the item does not rest on it: partly at most. Where
    nobody could compare texts, a model that looked at the item supports the citation in part.
    """
    if attribution.alike is not None:
        return replace(
            support, verdict=_same(attribution.alike, grounding), alike=attribution.alike
        )
    support = replace(support, relevance=attribution.relevance)
    verdict = support.verdict
    least, most = grounding.drop_from, grounding.attention_from
    if drop is not None and least is not None:
        if verdict == "supported" and drop < least:
            verdict = "partly"
        elif verdict == "unchecked":
            verdict = "partly" if drop >= least else "unsupported"
    elif verdict == "unchecked" and attribution.attention is not None and most is not None:
        verdict = "partly" if attribution.attention >= most else "unchecked"
    return replace(support, verdict=verdict, attention=attribution.attention, ablation_drop=drop)


def _same(alike: float, grounding: Grounding) -> Verdict:
    """The verdict on "this looks like that", which only the model that saw both can check."""
    if grounding.alike_from is None or grounding.alike_below is None:
        return "unchecked"
    if alike >= grounding.alike_from:
        return "supported"
    return "partly" if alike >= grounding.alike_below else "unsupported"


def _place(attribution: Attribution, item: Item) -> tuple[int, int] | None:
    """The characters of the item that are pointed to, where there are such."""
    start, end = attribution.item_start, attribution.item_end
    well = start is not None and end is not None and item.text
    if well and 0 <= start < end <= len(item.text or ""):  # type: ignore[operator]
        return start, end  # type: ignore[return-value]
    return None


def _cite(
    attribution: Attribution,
    context: Context,
    place: tuple[int, int] | None,
    quote: str | None,
    support: Support,
) -> Citation:
    item = context.sources[attribution.source].item
    start, end = place or (None, None)
    return Citation(
        start=attribution.start,
        end=attribution.end,
        marker=attribution.source + 1,
        item_id=item.id,
        document_id=item.document_id,
        document_name=item.document_name,
        revision=item.revision,
        title=item.title,
        location=_locate(item, start, end, attribution),
        quote=quote,
        support=support,
        picture=item.picture,
        filled=attribution.filled,
    )


def _locate(item: Item, start: int | None, end: int | None, attribution: Attribution) -> Location:
    """Where in the document: the pointed span inside the item, or the whole item."""
    place = item.location
    if isinstance(place, ImageLocation):
        return replace(place, box=attribution.box) if attribution.box else place
    if isinstance(place, VideoLocation) and attribution.seconds is not None:
        first = max(place.start_seconds, attribution.seconds[0])
        last = min(place.end_seconds, attribution.seconds[1])
        return VideoLocation(first, last) if first <= last else place
    if start is None or end is None:
        return place
    if isinstance(place, VideoLocation):
        said = [t for t in item.text_times if t.start < end and t.end > start]
        if not said:
            return place
        return VideoLocation(min(t.start_seconds for t in said), max(t.end_seconds for t in said))
    if isinstance(place, TextLocation):
        return TextLocation(place.start + start, place.start + end)
    if isinstance(place, PageLocation) and place.start is not None:
        first, last = place.start + start, place.start + end
        boxes = tuple(b.box for b in item.text_boxes if b.start < last and b.end > first)
        return PageLocation(place.page, boxes or place.boxes, first, last)
    return place
