"""Whether evidence lies where a dataset says it is: characters, pages, boxes, seconds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rag_owl.types import Box, Item


@dataclass(frozen=True, slots=True)
class Gold:
    """Where an answer stands, as a dataset says it; what it leaves open is None."""

    document: str  # name or id
    start: int | None = None  # characters of the document's text
    end: int | None = None
    page: int | None = None  # from 1
    box: Box | None = None  # of the page or picture
    start_seconds: float | None = None
    end_seconds: float | None = None


def place_of(item: Item) -> dict[str, Any]:
    """As `holds` takes it."""
    return {
        "item_id": item.id,
        "document_id": item.document_id,
        "document_name": item.document_name,
        "location": asdict(item.location),
    }


def holds(place: Mapping[str, Any], gold: Gold) -> bool:
    """Whether an item or a citation bears on a gold place: same document, and they overlap.

    place: `document_id`, `document_name` and `location` as on the wire. What either leaves open
    does not part them: a whole picture overlaps every box in it.
    """
    if gold.document not in (place["document_id"], place["document_name"]):
        return False
    location = place["location"]
    if not _overlap(location.get("start"), location.get("end"), gold.start, gold.end):
        return False
    if gold.page is not None and location.get("page") not in (None, gold.page):
        return False
    return _overlap(
        location.get("start_seconds"),
        location.get("end_seconds"),
        gold.start_seconds,
        gold.end_seconds,
    )


def _overlap(a: float | None, b: float | None, c: float | None, d: float | None) -> bool:
    if a is None or b is None or c is None or d is None:
        return True
    return (a < d and c < b) or (a, b) == (c, d)


def ranks(places: Sequence[Mapping[str, Any]], golds: Sequence[Gold]) -> list[int | None]:
    """The rank, from 1, of the first place that holds each gold place; None: none does."""
    return [
        next((rank for rank, place in enumerate(places, 1) if holds(place, gold)), None)
        for gold in golds
    ]


# --- boxes ----------------------------------------------------------------------------------------


def boxes_of(location: Mapping[str, Any]) -> list[Box]:
    """What a citation points at in its picture or page; empty: the whole of it."""
    if location.get("box"):
        return [tuple(location["box"])]
    return [tuple(box) for box in location.get("boxes") or ()]


def pointed(boxes: Sequence[Box], gold: Box) -> bool:
    """Whether the middle of what is pointed at lies in the gold box (a whole picture: its middle).

    The pointing game of Zhang et al. 2016 with the middle of the box that encloses what is cited as
    the point.
    """
    left, top, right, bottom = enclosing(boxes)
    x, y = (left + right) / 2, (top + bottom) / 2
    return gold[0] <= x <= gold[2] and gold[1] <= y <= gold[3]


def enclosing(boxes: Sequence[Box]) -> Box:
    if not boxes:
        return (0.0, 0.0, 1.0, 1.0)
    columns = list(zip(*boxes, strict=True))
    return (min(columns[0]), min(columns[1]), max(columns[2]), max(columns[3]))


def iou(boxes: Sequence[Box], golds: Sequence[Box]) -> float:
    """Intersection over union of two unions of boxes, exactly; no box: the whole picture."""
    one, other = list(boxes) or [(0.0, 0.0, 1.0, 1.0)], list(golds) or [(0.0, 0.0, 1.0, 1.0)]
    xs = sorted({x for box in (*one, *other) for x in (box[0], box[2])})
    ys = sorted({y for box in (*one, *other) for y in (box[1], box[3])})
    both = either = 0.0
    for left, right in itertools.pairwise(xs):
        for top, bottom in itertools.pairwise(ys):
            x, y = (left + right) / 2, (top + bottom) / 2
            a, b = (
                any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in group)
                for group in (one, other)
            )
            area = (right - left) * (bottom - top)
            both += area * (a and b)
            either += area * (a or b)
    return both / either if either else 0.0
