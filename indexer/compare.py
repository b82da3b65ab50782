"""Comparing what two generations find: how much of it is the same, and how long it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from rag_owl.errors import RagOwlError
from rag_owl.types import (
    Item,
    Location,
    PageLocation,
    Question,
    Retrieved,
    TextLocation,
    VideoLocation,
)

Retrieve = Callable[[Question], list[Retrieved]]

MOST_QUESTIONS = 50
_TEXT = 200  # characters of an item that stand for a question
_WARM = 3  # questions asked first, so that no model's loading is measured


@dataclass(frozen=True, slots=True)
class Comparison:
    """Overlaps are fractions from 0 to 1, of the k best that the live generation finds; latencies
    milliseconds of the whole search."""

    basis: str  # "questions": stored ones; "items": texts of items, because none were stored
    questions: int  # compared
    failed: int  # that one of the two could not be asked
    same_documents: float | None = None  # mean overlap at k by document
    same_locations: float | None = None  # mean overlap at k by place in the document
    same_first: float | None = None  # how often both put the same place first
    live_ms: float | None = None  # median
    live_p95_ms: float | None = None
    new_ms: float | None = None
    new_p95_ms: float | None = None
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(live: Retrieve, new: Retrieve, asked: Sequence[Question], basis: str) -> Comparison:
    """Ask both the same, in turns. What one of them cannot be asked is left out and counted."""
    documents: list[float] = []
    places: list[float] = []
    first: list[float] = []
    times: tuple[list[float], list[float]] = ([], [])
    failed, note = 0, None
    with suppress(RagOwlError):
        for question in asked[:_WARM]:
            live(question)
            new(question)
    for at, question in enumerate(asked):
        found: list[list[Item]] = [[], []]
        took = [0.0, 0.0]
        try:
            # In turns: what the one warms for the other is fair then.
            for which in (0, 1) if at % 2 else (1, 0):
                begun = time.perf_counter()
                hits = (live, new)[which](question)
                took[which] = time.perf_counter() - begun
                found[which] = [hit.item for hit in hits]
        except RagOwlError as error:
            failed, note = failed + 1, str(error)
            continue
        for seconds, second in zip(times, took, strict=True):
            seconds.append(second)
        documents.append(same_documents(*found))
        places.append(same_places(*found))
        first.append(same_places(found[0][:1], found[1][:1]))
    return Comparison(
        basis,
        len(documents),
        failed,
        _mean(documents),
        _mean(places),
        _mean(first),
        *_latency(times[0]),
        *_latency(times[1]),
        note,
    )


def questions_of(collection: str, sample: Sequence[Item], k: int) -> list[Question]:
    """Items' own texts as questions, and pictures where they have no text."""
    asked = []
    for item in sample:
        if item.text and item.text.strip():
            text = item.text.strip()[:_TEXT]
            asked.append(
                Question(collection, text.rsplit(None, 1)[0] if " " in text else text, k=k)
            )
        elif item.picture:
            asked.append(Question(collection, "", (item.picture,), k=k))
    return asked


def same_documents(old: Sequence[Item], new: Sequence[Item]) -> float:
    """Which part of the documents found by either are found by both (Jaccard)."""
    mine, theirs = ({item.document_id for item in items} for items in (old, new))
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0


def same_places(old: Sequence[Item], new: Sequence[Item]) -> float:
    """Which part of the old places are found again; all of nothing is 1."""
    if not old:
        return 1.0 if not new else 0.0
    return sum(any(is_same_place(a, b) for b in new) for a in old) / len(old)


def is_same_place(one: Item, other: Item) -> bool:
    """Whether they overlap in the same revision of a document."""
    if (one.document_id, one.revision) != (other.document_id, other.revision):
        return False
    return one.id == other.id or _overlap(one.location, other.location)


def _overlap(one: Location, other: Location) -> bool:
    if isinstance(one, TextLocation) and isinstance(other, TextLocation):
        return one.start < other.end and other.start < one.end
    if isinstance(one, PageLocation) and isinstance(other, PageLocation):
        if one.page != other.page:
            return False
        if None in (one.start, one.end, other.start, other.end):
            return True
        return one.start < other.end and other.start < one.end  # type: ignore[operator]
    if isinstance(one, VideoLocation) and isinstance(other, VideoLocation):
        return one.start_seconds < other.end_seconds and other.start_seconds < one.end_seconds
    return one.type == other.type  # regions of one picture


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def _latency(seconds: Sequence[float]) -> tuple[float | None, float | None]:
    """Median and 95th percentile, in milliseconds."""
    if not seconds:
        return None, None
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return round(1e3 * statistics.median(ordered), 2), round(1e3 * p95, 2)


def in_words(comparison: Mapping[str, Any]) -> str:
    """One line for people."""
    number = comparison["questions"]
    if not number:
        return f"not compared: {comparison.get('note') or 'there is nothing to ask'}"
    plural = "" if number == 1 else "s"
    what = f"stored question{plural}"
    if comparison["basis"] == "items":
        what = f"text{plural} of its items (no question is stored yet)"
    line = (
        f"compared on {number} {what}: "
        f"{comparison['same_documents']:.0%} of documents and "
        f"{comparison['same_locations']:.0%} of places are the same, "
        f"{comparison['same_first']:.0%} of the first; "
        f"{comparison['live_ms']:.1f} ms before, {comparison['new_ms']:.1f} ms after"
    )
    if comparison["failed"]:
        line += f"; {comparison['failed']} could not be asked: {comparison['note']}"
    return line
