"""Documents to items: passages of about 800 characters that end where sentences end.

An item's text is exactly `document_text[start:end]`; between an item and the next there is nothing
but white space. Items belong to `SPLITTER_VERSION`: any change here that moves a boundary needs
the next number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rag_owl.indexer.graphemes import extends, grapheme_end
from rag_owl.indexer.loaders.values import Loaded, Picture, Section
from rag_owl.sentences import line_spans, sentence_spans
from rag_owl.types import (
    Box,
    ImageLocation,
    ItemKind,
    Location,
    PageLocation,
    TextBox,
    TextLocation,
    TextTime,
    VideoLocation,
)

SPLITTER_VERSION = 1
TARGET_CHARS = 800
MAX_CHARS = 1_200
SMALL_CHARS = 200  # a last piece this small is joined to the one before

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ItemDraft:
    """An `rag_owl.types.Item` before it has ids; the picture is still pixels."""

    kind: ItemKind
    text: str | None
    heading: str
    location: Location
    text_boxes: tuple[TextBox, ...] = ()
    text_times: tuple[TextTime, ...] = ()
    picture: Picture | None = None


def split(loaded: Loaded) -> Iterator[ItemDraft]:
    """The items of a document, in order, a section at a time. Raises what `sections` raises."""
    for section in loaded.sections():
        spans = passages(section.text, by_lines=section.unit == "line")
        for i, (start, end) in enumerate(spans):
            yield _passage(section, start, end, first=i == 0)
        if not spans and section.picture is not None:
            kind: ItemKind = "picture"
            location: Location = ImageLocation()
            if section.page is not None:
                kind, location = "page", PageLocation(section.page, ())
            elif section.seconds is not None:
                kind, location = "video", VideoLocation(*section.seconds)
            yield ItemDraft(kind, None, section.heading, location, picture=section.picture)


def _passage(section: Section, start: int, end: int, first: bool) -> ItemDraft:
    begins, ends = section.start + start, section.start + end
    runs = tuple(
        TextBox(max(run.start, begins), min(run.end, ends), run.box)
        for run in section.text_boxes
        if run.start < ends and begins < run.end
    )
    heading = section.heading
    if section.columns and not first:  # the first piece has them in its text
        heading = f"{heading}\n{section.columns}" if heading else section.columns
    kind: ItemKind = "passage"
    location: Location = TextLocation(begins, ends)
    if section.page is not None:
        kind = "page"
        location = PageLocation(section.page, merge_lines(runs), begins, ends)
    times: tuple[TextTime, ...] = ()
    if section.seconds is not None:
        kind, location = "video", VideoLocation(*section.seconds)
        times = tuple(
            TextTime(
                max(t.start - start, 0), min(t.end, end) - start, t.start_seconds, t.end_seconds
            )
            for t in section.text_times
            if t.start < end and start < t.end
        )
    return ItemDraft(kind, section.text[start:end], heading, location, runs, times, section.picture)


def passages(text: str, by_lines: bool = False) -> list[Span]:
    """Spans of at most `MAX_CHARS` that together hold all of `text` but white space.

    Whole sentences (or lines) are gathered until the next would go beyond `TARGET_CHARS`; only one
    that is itself longer than `MAX_CHARS` is cut.
    """
    units = line_spans(text) if by_lines else sentence_spans(text)
    spans: list[Span] = []
    for start, end in _bounded(text, units):
        if spans:
            begin, last = spans[-1]
            room = TARGET_CHARS if last - begin >= TARGET_CHARS // 2 else MAX_CHARS
            if end - begin <= room:
                spans[-1] = (begin, end)
                continue
        spans.append((start, end))
    if len(spans) > 1:
        (begin, _), (start, end) = spans[-2:]
        if end - start < SMALL_CHARS and end - begin <= MAX_CHARS:
            spans[-2:] = [(begin, end)]
    return spans


def _bounded(text: str, units: Iterator[Span]) -> Iterator[Span]:
    """Units longer than `MAX_CHARS` in pieces near `TARGET_CHARS`, cut at white space if any."""
    for start, end in units:
        while end - start > MAX_CHARS:
            cut = _cut_at_space(text, start)
            stop = cut
            while text[stop - 1].isspace():
                stop -= 1
            yield start, stop
            start = cut
            while start < end and text[start].isspace():
                start += 1
        if start < end:
            yield start, end


def _cut_at_space(text: str, start: int) -> int:
    """The place nearest to the target where the text may be cut; never `start` itself."""
    low, high = start + TARGET_CHARS // 2, start + MAX_CHARS
    for area_start, area_end in ((low, start + TARGET_CHARS), (start + TARGET_CHARS, high)):
        line = text.rfind("\n", area_start, area_end)
        if line >= 0:
            return line
        places = range(area_end - 1, area_start - 1, -1)
        for place in places if area_end < high else reversed(places):
            if text[place].isspace() and not extends(text[place + 1]):
                return place
    return grapheme_end(text, start, TARGET_CHARS)


def merge_lines(runs: Sequence[TextBox]) -> tuple[Box, ...]:
    """The boxes of runs, with lines that stand closely under each other as one box."""
    boxes: list[Box] = []
    last: Box | None = None  # the line that was joined last
    for run in runs:
        box = run.box
        if last is not None and _is_next_line(last, box):
            left, top, right, bottom = boxes[-1]
            boxes[-1] = (
                min(left, box[0]),
                min(top, box[1]),
                max(right, box[2]),
                max(bottom, box[3]),
            )
        else:
            boxes.append(box)
        last = box
    return tuple(boxes)


def _is_next_line(above: Box, below: Box) -> bool:
    line = min(above[3] - above[1], below[3] - below[1])
    side_by_side = min(above[2], below[2]) - max(above[0], below[0])
    narrower = min(above[2] - above[0], below[2] - below[0])
    gap = below[1] - above[3]
    return -line < gap < 0.6 * line and side_by_side > 0.5 * narrower and below[1] > above[1]
