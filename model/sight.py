"""What the rows of a batch see of pictures, as hyper attention is told.

N pictures, P patches, K key-value heads, E head width
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Stretch: TypeAlias = tuple[int, int, int]  # first token, end, visible pictures


@dataclass
class Sight:
    """The pictures that one row of the batch sees, ready for attention.

    `starts` are indices into the row's text without its padding, ascending. `keys[layer]` and
    `values[layer]` are (K, N * P, E); the keys carry MI-RoPE for this prompt.
    """

    starts: list[int]
    patches: int
    sees_own_start: bool  # fused: the first placeholder token sees its picture already
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def visible(self, token: int) -> int:
        """How many pictures the token at this index (padding not counted) sees."""
        find = bisect_right if self.sees_own_start else bisect_left
        return find(self.starts, token)

    def followed_by(self, other: Sight) -> Sight:
        """These pictures and then another's, of the same row."""
        joined = Sight(self.starts + other.starts, self.patches, self.sees_own_start)
        for layer in self.keys:
            joined.keys[layer] = torch.cat((self.keys[layer], other.keys[layer]), dim=1)
            joined.values[layer] = torch.cat((self.values[layer], other.values[layer]), dim=1)
        return joined

    def first(self, count: int) -> Sight:
        """The first pictures only."""
        kept = Sight(self.starts[:count], self.patches, self.sees_own_start)
        for layer in self.keys:
            kept.keys[layer] = self.keys[layer][:, : count * self.patches]
            kept.values[layer] = self.values[layer][:, : count * self.patches]
        return kept

    def stretches(self, first: int, last: int) -> Iterator[Stretch]:
        """Tokens [first, last) as (begin, end, visible pictures), cut where a picture appears."""
        begin = first
        while begin < last:
            count = self.visible(begin)
            end = last
            if count < len(self.starts):
                end = min(last, self.starts[count] + (0 if self.sees_own_start else 1))
            yield begin, end, count
            begin = end


@dataclass(frozen=True)
class RowSpan:
    """Where one row's real tokens lie in this call.

    `lo:hi` are the columns of the call that are no padding, `offset` is the index of column `lo`
    in the row's text, `first_key` the column of the row's first token among the text keys.
    """

    lo: int
    hi: int
    offset: int
    first_key: int

    @property
    def end(self) -> int:
        """The row's tokens so far, with this call's."""
        return self.offset + self.hi - self.lo

    @property
    def column_shift(self) -> int:
        """Column = index in the row's text + this."""
        return self.lo - self.offset


class Observer(Protocol):
    """Is told, per hyper layer and row, where the last token of a call looked.

    `patches` (N * P,) and `text` (tokens of the row,) are means over the heads, each head's mass
    weighted by what its gate lets through; together they sum to one.
    """

    def see(self, row: int, patches: Tensor | None, text: Tensor) -> None: ...


class Trace(dict[str, Tensor]):
    """Intermediate results by name, for comparing with another implementation."""


@dataclass
class HyperInputs:
    """What a hyper layer needs beside what every Qwen2 layer gets."""

    sights: Sequence[Sight | None]
    spans: Sequence[RowSpan]
    observer: Observer | None = None
    trace: Trace | None = None
