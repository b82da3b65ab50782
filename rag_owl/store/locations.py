"""Locations and text boxes to JSON columns and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rag_owl.types import (
    ImageLocation,
    Location,
    PageLocation,
    TextBox,
    TextLocation,
    TextTime,
    VideoLocation,
)

_TYPES: dict[str, type[TextLocation | PageLocation | ImageLocation | VideoLocation]] = {
    "text": TextLocation,
    "page": PageLocation,
    "image_region": ImageLocation,
    "video": VideoLocation,
}


def dump(location: Location) -> dict[str, Any]:
    if isinstance(location, TextLocation):  # nearly all there are; `asdict` copies at length
        return {name: getattr(location, name) for name in TextLocation.__slots__}
    return asdict(location)


def load(stored: dict[str, Any]) -> Location:
    values = dict(stored)
    if values.get("boxes") is not None:
        values["boxes"] = tuple(tuple(box) for box in values["boxes"])
    if values.get("box") is not None:
        values["box"] = tuple(values["box"])
    return _TYPES[values["type"]](**values)


def dump_boxes(boxes: tuple[TextBox, ...]) -> list[Any] | None:
    # Four decimals: a twentieth of a millimetre on a page, and half the bytes.
    return [[b.start, b.end, *(round(edge, 4) for edge in b.box)] for b in boxes] or None


def dump_times(times: tuple[TextTime, ...]) -> list[Any] | None:
    return [
        [t.start, t.end, round(t.start_seconds, 3), round(t.end_seconds, 3)] for t in times
    ] or None


# Both are kept in one column: runs of text with four numbers of where, or two of when.


def load_boxes(stored: list[Any] | None) -> tuple[TextBox, ...]:
    runs = (run for run in stored or () if len(run) == 6)
    return tuple(TextBox(b[0], b[1], (b[2], b[3], b[4], b[5])) for b in runs)


def load_times(stored: list[Any] | None) -> tuple[TextTime, ...]:
    return tuple(TextTime(*run) for run in stored or () if len(run) == 4)
