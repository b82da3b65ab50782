"""What an answer is worth without one of its items: the reader reads again with it masked out.

The pointer gives each span of a window a score against the window's own "no answer here"; over all
windows, P(span) = exp(score) / (1 + sum of exp(score) over all spans). A statement's probability is
that of its answer wherever in the context it stands, so that an item loses nothing by being left
out where another one says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rag_owl.model.nano.pointing import pairs
from rag_owl.model.nano.reader import Reader, Reading, Rows
from rag_owl.model.nano.window import Window
from rag_owl.types import Attribution, Context, Draft

LEAST = -20.0  # log-probability of what nothing in the context says
ITEM_WEIGHT = 0.5  # as in pointing.spans

Masses = tuple[float, float]  # logarithms of the sums over the answer's spans, and over all spans


def drops(
    reader: Reader,
    windows: Sequence[Window],
    rows_of: Callable[[Sequence[Window]], Rows],
    context: Context,
    draft: Draft,
) -> list[float | None]:
    """Per attribution: nats that its answer loses when its item alone is masked out.

    rows_of: windows -> a batch with its pictures, which were looked at before. One batch has all
    windows as they are, and each again without each cited item that stands in it.
    """
    said = [_answer(each, draft, context) for each in draft.attributions]
    cited = sorted({a.source for a, s in zip(draft.attributions, said, strict=True) if s})
    variants = [(w, None) for w in range(len(windows))] + [
        (w, source)
        for source in cited
        for w, window in enumerate(windows)
        if any(piece.item == source for piece in window.pieces)
    ]
    rows = rows_of([windows[w] for w, _ in variants])
    for b, (w, source) in enumerate(variants):
        if source is not None:
            _mask(rows, b, windows[w], source)
    reading = reader.infer(rows)
    at = {variant: b for b, variant in enumerate(variants)}
    out: list[float | None] = []
    for attribution, answer in zip(draft.attributions, said, strict=True):
        if not answer:
            out.append(None)
            continue
        source = attribution.source
        whole = [_masses(reading, at[w, None], windows[w], context, answer, None)
                 for w in range(len(windows))]  # fmt: skip
        without = [
            _masses(reading, at.get((w, source), at[w, None]), windows[w], context, answer, source)
            for w in range(len(windows))
        ]
        out.append(_log_probability(whole) - _log_probability(without))
    return out


def _answer(attribution: Attribution, draft: Draft, context: Context) -> str:
    """The words of the item that the statement rests on: the shortest place pointed to within."""
    inside = [
        (other.item_end - other.item_start, other.item_start, other.item_end)
        for other in draft.attributions
        if other.source == attribution.source
        and other.item_start is not None
        and other.item_end is not None
        and attribution.item_start is not None
        and attribution.item_end is not None
        and attribution.item_start <= other.item_start
        and other.item_end <= attribution.item_end
    ]
    if not inside:
        return ""
    _, start, end = min(inside)
    return (context.sources[attribution.source].item.text or "")[start:end].strip()


def _mask(rows: Rows, b: int, window: Window, source: int) -> None:
    for i, piece in enumerate(window.pieces):
        if piece.item == source:
            start, end = window.piece_range(i)
            rows.mask[b, start + 1 : end] = False  # the [SEP] ends what stands before it
            rows.pointable[b, start + 1 : end] = False


def _masses(
    reading: Reading, b: int, window: Window, context: Context, answer: str, without: int | None
) -> Masses:
    nothing = float(reading.start[b, 0] + reading.end[b, 0])
    wanted, everything = [-np.inf], [-np.inf]
    for i, piece in enumerate(window.pieces):
        if piece.item == without or not len(piece.text.ids):
            continue
        low = window.starts[i]
        high = low + len(piece.text.ids)
        pair = pairs(reading.start[b, low:high].float(), reading.end[b, low:high].float())
        offset = ITEM_WEIGHT * float(reading.item[b, i]) - nothing
        everything.append(float(pair.flatten().logsumexp(0)) + offset)
        if piece.item >= len(context.sources):  # it only stands beside
            continue
        text = context.sources[piece.item].item.text or ""
        for first, last in _places(text, answer, piece.text.spans):
            wanted.append(float(pair[first, last]) + offset)
    return float(np.logaddexp.reduce(wanted)), float(np.logaddexp.reduce(everything))


def _places(text: str, answer: str, spans: NDArray[np.int32]) -> list[tuple[int, int]]:
    """First and last token of each place of a piece where the answer stands."""
    found, at = [], text.find(answer)
    while at >= 0:
        first = int(np.searchsorted(spans[:, 1], at, side="right"))
        last = int(np.searchsorted(spans[:, 0], at + len(answer), side="left")) - 1
        if first <= last < len(spans) and spans[first, 0] <= at:
            found.append((first, last))
        at = text.find(answer, at + 1)
    return found


def _log_probability(masses: Sequence[Masses]) -> float:
    wanted = float(np.logaddexp.reduce([m[0] for m in masses]))
    total = float(np.logaddexp.reduce([0.0, *(m[1] for m in masses)]))
    return max(LEAST, wanted - total)
