"""From a model's draft to an answer whose citations were checked.

Without a model it is checked that a marker points to a source, and that the place an answerer
points to exists and says what is quoted. A `Judge` reads the cited item and says whether it bears
the statement out. A marker that points to nothing is reported and is never shown as support; an
answer without any support is an abstention.
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import replace

from rag_owl.ports import Judge
from rag_owl.statements import declare
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
    Support,
    TextLocation,
    VideoLocation,
)

MARKER = re.compile(r"\[(\d{1,4})\]")


def verify(draft: Draft, context: Context, generation: int, judge: Judge | None = None) -> Answer:
    """The draft as an `Answer`, with a `Citation` per attribution that holds."""
    question = context.question
    sources = len(context.sources)
    dangling = sorted(
        {int(m) for m in MARKER.findall(draft.text) if not 1 <= int(m) <= sources}
    ) if not draft.abstained else []  # fmt: skip
    citations = tuple(
        _cite(attribution, draft, context, judge)
        for attribution in draft.attributions
        if 0 <= attribution.source < sources
    )
    return Answer(
        id=uuid.uuid4().hex,
        collection=question.collection,
        question=question.words or question.text,
        text=draft.text,
        abstained=draft.abstained or not (citations or draft.moments),
        citations=() if draft.abstained else citations,
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
    )


def _cite(
    attribution: Attribution, draft: Draft, context: Context, judge: Judge | None
) -> Citation:
    item = context.sources[attribution.source].item
    start, end = attribution.item_start, attribution.item_end
    quote = None
    if start is not None and end is not None and item.text and 0 <= start < end <= len(item.text):
        quote = item.text[start:end]
    else:
        start = end = None
    statement = MARKER.sub("", draft.text[attribution.start : attribution.end]).strip()
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
        support=replace(
            _check(statement, quote, item, draft, context, judge), attention=attribution.attention
        ),
        picture=item.picture,
    )


def _check(
    statement: str,
    quote: str | None,
    item: Item,
    draft: Draft,
    context: Context,
    judge: Judge | None,
) -> Support:
    """The verdict on one statement and one item.

    A sentence that stands in the item word for word is supported, which needs no model. A bare
    answer ("Lima") also stands there, but says nothing alone: the judge is asked whether the item
    supports it as the answer to the question. Where it cannot confirm that, support is partial.
    """
    verbatim = quote is not None and bool(statement) and _plain(statement) in _plain(quote)
    bare = draft.short is not None and statement in draft.short
    if verbatim and not bare:
        return Support("supported")
    asked = context.question.words or context.question.text
    said = declare(asked, statement) if bare else statement
    bearing = judge.judge(said, item) if judge is not None and statement else None
    if judge is None or bearing is None:
        return Support("supported" if verbatim else "unchecked")
    if bearing.supported >= judge.supported_from:
        return Support("supported", entailment=bearing.supported)
    if bearing.contradicted >= judge.contradicted_from:
        return Support("unsupported", entailment=bearing.supported, contradicted=True)
    return Support("partly" if verbatim else "unsupported", entailment=bearing.supported)


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


def _plain(text: str) -> str:
    return " ".join(text.split())
