"""From the pointer's logits to spans of characters, over all windows of a context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rag_owl.model.nano.reader import Reading
from rag_owl.model.nano.window import Window

LONGEST = 64  # tokens of one pointed span


@dataclass(frozen=True)
class Span:
    item: int
    start: int  # characters of the item's text
    end: int
    score: float  # log-odds like: pointer against "no answer here", plus the item's own logit
    item_logit: float


def best_span(start: Tensor, end: Tensor) -> tuple[float, int, int]:
    """start, end (n,) logits -> (score, first, last) of the best span of at most LONGEST tokens."""
    n = len(start)
    pair = start[:, None] + end[None]
    ones = torch.ones(n, n, dtype=torch.bool, device=start.device)
    allowed = ones.triu() & ones.tril(LONGEST - 1)
    pair = pair.masked_fill(~allowed, -torch.inf)
    at = int(pair.argmax())
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
            score, first, last = best_span(reading.start[b, low:high], reading.end[b, low:high])
            logit = float(reading.item[b, i])
            score = score - nothing + item_weight * logit
            known = best.get(piece.item)
            if known is None or score > known.score:
                characters = int(piece.text.spans[first, 0]), int(piece.text.spans[last, 1])
                best[piece.item] = Span(piece.item, *characters, score, logit)
    return sorted(best.values(), key=lambda s: -s.score)
