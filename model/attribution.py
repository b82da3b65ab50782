"""Where a model looked while it wrote: attention mass per token, picture, patch and text span.

In a hyper layer a head spends part of each token's result on pictures and the rest on the text:
what its gate lets through. The mass that an item gets is the mean over hyper layers and heads of
that share times the attention weight on the item. The masses of all patches and all text tokens
sum to one. Attention is evidence of where the model looked, not proof of why it said something;
`rag_owl.evidence` weighs it with other checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rag_owl.types import Box


@dataclass
class AttentionRecord:
    """One entry per generated token, each the mean over the hyper layers.

    `patches[i]` (N * P,) float16 or None where no picture was visible; `text[i]` over the row's
    tokens up to then. They stay on the model's device until they are asked for.
    """

    patches: list[Tensor | None] = field(default_factory=list)
    text: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.text)

    def picture_mass(self, tokens: range, pictures: int) -> Tensor:
        """Mean mass on each picture over some of the tokens -> (N,) float32."""
        return self.patch_mass(tokens, pictures).sum(dim=-1)

    def patch_mass(self, tokens: range, pictures: int) -> Tensor:
        """Mean mass on each patch of each picture over some of the tokens -> (N, P) float32."""
        there = [self.patches[i] for i in tokens if self.patches[i] is not None]
        if not there or pictures == 0:
            return torch.zeros(pictures, 0)
        total = torch.stack([p for p in there if p is not None]).float().sum(dim=0).cpu()
        return total.view(pictures, -1) / max(1, len(tokens))

    def text_mass(self, tokens: range, spans: Sequence[tuple[int, int]]) -> list[float]:
        """Mean mass on each span [start, end) of the row's tokens."""
        if not len(tokens) or not spans:
            return [0.0] * len(spans)
        longest = max(len(self.text[i]) for i in tokens)
        total = torch.zeros(longest + 1)
        for i in tokens:
            total[1 : len(self.text[i]) + 1] += self.text[i].float().cpu()
        before = (total / len(tokens)).cumsum(dim=0)
        last = longest
        return [float(before[min(end, last)] - before[min(start, last)]) for start, end in spans]


class BatchObserver:
    """Gathers what the hyper layers of one step report, and adds it to the rows' records."""

    def __init__(self, records: Sequence[AttentionRecord | None]) -> None:
        self._records = list(records)
        self._patches: list[list[Tensor]] = [[] for _ in self._records]
        self._text: list[list[Tensor]] = [[] for _ in self._records]

    def see(self, row: int, patches: Tensor | None, text: Tensor) -> None:
        if self._records[row] is None:
            return
        if patches is not None:
            self._patches[row].append(patches)
        self._text[row].append(text)

    def finish(self) -> None:
        for row, record in enumerate(self._records):
            if record is None or not self._text[row]:
                continue
            text = torch.stack(self._text[row]).mean(dim=0)
            patches = None
            if self._patches[row]:
                patches = torch.stack(self._patches[row]).mean(dim=0).to(torch.float16)
            record.text.append(text.to(torch.float16))
            record.patches.append(patches)


def region(mass: Tensor, share: float = 0.5) -> Box:
    """The region around the peak of one picture's patch mass -> a box.

    mass (rows, columns), or (P,) with P a square.

    The mass is smoothed over 3 x 3 patches; the region is the connected patches around the
    largest that reach `share` of it, as in class activation mapping (arXiv 1512.04150, section
    4.2). Fractions of the picture, origin top left.
    """
    side = round(mass.numel() ** 0.5)
    height, width = mass.shape if mass.dim() == 2 else (side, side)
    grid = torch.nn.functional.avg_pool2d(
        mass.float().view(1, 1, height, width), 3, 1, 1, count_include_pad=False
    )[0, 0]
    high = grid >= share * grid.max()
    start = divmod(int(grid.argmax()), width)
    reached, waiting = {start}, [start]
    while waiting:
        y, x = waiting.pop()
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= near[0] < height and 0 <= near[1] < width
            if inside and near not in reached and bool(high[near]):
                reached.add(near)
                waiting.append(near)
    rows, columns = [y for y, _ in reached], [x for _, x in reached]
    return (
        min(columns) / width,
        min(rows) / height,
        (max(columns) + 1) / width,
        (max(rows) + 1) / height,
    )
