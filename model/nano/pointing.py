"""From the pointer's logits to spans of characters, over all windows of a context."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag_owl.model.nano.reader import Reading
from rag_owl.model.nano.window import BAR, Window

LONGEST = 64  # tokens of one pointed span
NEAR = 12.0  # spans that score further below the best are not compared by their texts


@dataclass(frozen=True)
class Span:
    item: int
    start: int  # characters of the item's text
    end: int
    score: float  # log-odds like: pointer against "no answer here", plus the item's own logit
    item_logit: float
    mass: float = 0.0  # logarithm of the sum of all the item's spans, each as its score
    behind: float = 0.0  # taken from both, because another text is more like the question


def pairs(start: Tensor, end: Tensor) -> Tensor:
    """start, end (n,) logits -> (n, n): of spans [i, j], -inf where it is none of at most LONGEST
    tokens."""
    n = len(start)
    ones = torch.ones(n, n, dtype=torch.bool, device=start.device)
    allowed = ones.triu() & ones.tril(LONGEST - 1)
    return (start[:, None] + end[None]).masked_fill(~allowed, -torch.inf)


def best_span(start: Tensor, end: Tensor) -> tuple[float, int, int]:
    """start, end (n,) logits -> (score, first, last) of the best span of at most LONGEST tokens."""
    return _best(pairs(start, end))


def _best(pair: Tensor) -> tuple[float, int, int]:
    at, n = int(pair.argmax()), pair.shape[1]
    return float(pair.flatten()[at]), at // n, at % n


def spans(reading: Reading, windows: Sequence[Window], item_weight: float = 0.5) -> list[Span]:
    """The best span of every item, best first.

    A window's own "no answer here" is what its spans are measured against; so spans of different
    windows compare. `item_weight` says how much the item's logit counts beside the pointer.
    """
    best: dict[int, Span] = {}
    for b, window in enumerate(windows):
        nothing = float(reading.start[b, 0] + reading.end[b, 0])
        for i, piece in enumerate(window.pieces):
            if not len(piece.text.ids):
                continue
            low = window.starts[i]
            high = low + len(piece.text.ids)
            pair = pairs(reading.start[b, low:high].float(), reading.end[b, low:high].float())
            pair = pair.masked_fill(_across_cells(piece.text.ids), -torch.inf)
            score, first, last = _best(pair)
            if score == -torch.inf:  # nothing but bars
                continue
            logit = float(reading.item[b, i])
            offset = item_weight * logit - nothing
            characters = int(piece.text.spans[first, 0]), int(piece.text.spans[last, 1])
            mass = float(pair.flatten().logsumexp(0)) + offset
            span = Span(piece.item, *characters, score + offset, logit, mass)
            best[piece.item] = better(span, best.get(piece.item))
    return sorted(best.values(), key=lambda s: -s.score)


def _across_cells(ids: NDArray[np.int32]) -> Tensor:
    """ids (n,) -> (n, n): spans [i, j] that begin at a bar or have one in them. What a row of a
    table answers stands in one of its cells."""
    bar = torch.from_numpy(ids == BAR)
    cell = bar.cumsum(0)
    return (cell[:, None] != cell[None]) | bar[:, None]


def better(span: Span, known: Span | None) -> Span:
    """The better of two spans of one item, with the mass of both."""
    if known is None:
        return span
    mass = float(np.logaddexp(span.mass, known.mass))
    return replace(span if span.score > known.score else known, mass=mass)


def behind(
    scores: NDArray[np.float64], alike: NDArray[np.float64], weight: float
) -> NDArray[np.float64]:
    """(n,) of items the scores and cosines with the question -> what is taken from each near the
    best, because the text of another such item is more like the question."""
    near = scores >= scores.max(initial=-np.inf) - NEAR
    most = alike[near].max(initial=-np.inf)
    return np.where(near, weight * (most - alike), 0.0)


def shares(found: Sequence[Span]) -> dict[int, float]:
    """Per item the share of the pointer's mass that lies in it; together they are one."""
    total = np.logaddexp.reduce([span.mass for span in found]) if found else 0.0
    return {span.item: float(np.exp(span.mass - total)) for span in found}


def whole(text: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) so that nothing is cut that belongs together.

    Widened to whole words and numbers (not "9 million" of "60.9 million") and to all of a piece of
    code between backticks, which stays as it is. Of all else a bracket is closed where its other
    half is near, or left out at an end; marks of bold text or of code are left out where their
    other half is.
    """
    a, b = _whole_words(text, start, end)
    a, b, is_code = _whole_code(text, a, b)
    if is_code:
        return a, b
    for opening, closing in ("()", "[]", "“”"):
        a, b = _closed(text, a, b, opening, closing)
    for mark in "*`":
        a, b = _unmarked(text, a, b, mark)
    while a < b and text[a] in _EDGES:
        a += 1
    while a < b and text[b - 1] in _EDGES:
        b -= 1
    return (a, b) if a < b else (start, end)


_EDGES = " \t\n|"
_CODE = re.compile(r"(?<!`)(`+)(?!`)([^\n]*?)(?<!`)\1(?!`)")
_LONGEST_CODE = 80  # characters
_NEAR = 40  # characters
_STOPS = re.compile(r"[\n|]|[.!?]\s")  # a bracket's other half stands in the same cell and sentence


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and _joined(text, start):
        start -= 1
    while end < len(text) and _joined(text, end):
        end += 1
    return start, end


def _whole_code(text: str, start: int, end: int) -> tuple[int, int, bool]:
    """What begins or ends in a piece of code, with all of it; and whether it is nothing else."""
    line = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    for code in _CODE.finditer(text, line, len(text) if line_end < 0 else line_end):
        inside = code[2]
        if len(inside) > _LONGEST_CODE or inside != inside.strip():
            continue
        if code.start() <= start and end <= code.end():
            return *code.span(2), True
        if code.start() < end and start < code.end():
            start, end = min(start, code.start()), max(end, code.end())
    return start, end, False


def _closed(text: str, start: int, end: int, opening: str, closing: str) -> tuple[int, int]:
    """With the other half of a bracket that [start, end) has but one half of, or without it."""
    opened: list[int] = []
    stray: list[int] = []
    for at in range(start, end):
        if text[at] == opening:
            opened.append(at)
        elif text[at] == closing:
            if opened:
                opened.pop()
            else:
                stray.append(at)
    if len(opened) + len(stray) != 1:
        return start, end
    if opened:
        after = _STOPS.split(text[end : end + _NEAR])[0]
        if closing in after and opening not in after[: after.index(closing)]:
            return start, end + after.index(closing) + 1
        if opened[0] == start:
            return start + 1, end
        return start, opened[0] if opened[0] - start >= end - opened[0] else end
    if stray[0] == end - 1:
        before = _STOPS.split(text[max(0, start - _NEAR) : start])[-1]
        if opening in before and closing not in before[before.rindex(opening) :]:
            return start - len(before) + before.rindex(opening), end
        return start, end - 1
    return start, end


def _unmarked(text: str, start: int, end: int, mark: str) -> tuple[int, int]:
    """Without a mark at both ends, or at one whose other half stands outside in its line."""
    inside = text[start:end]
    first = len(inside) - len(inside.lstrip(mark))
    last = len(inside) - len(inside.rstrip(mark))
    if first == len(inside) or first + last != inside.count(mark):
        return start, end
    if first and last:
        alone = first == last
    elif first:
        alone = mark * first in text[end:].partition("\n")[0]
    else:
        alone = mark * last in text[:start].rpartition("\n")[2]
    return (start + first, end - last) if alone else (start, end)


def _joined(text: str, at: int) -> bool:
    """Whether the characters on both sides of `at` belong to one word or number."""
    before, after = text[at - 1], text[at]
    if before.isalnum() and after.isalnum():
        return True
    if before in ".," and after.isdigit():
        return at > 1 and text[at - 2].isdigit()
    return before.isdigit() and after in ".," and text[at + 1 : at + 2].isdigit()
