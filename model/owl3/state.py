"""What decoding keeps of a batch: the text's keys and values, and each row's pictures.

Rows are padded on the left to one length. Rows can join and leave; padding that no row needs any
more is cut away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rag_owl.model.sight import Sight


@dataclass
class DecodingState:
    """B rows, of which the text cache holds `columns` columns; row b's first is `padding[b]`."""

    padding: list[int] = field(default_factory=list)
    sights: list[Sight | None] = field(default_factory=list)
    columns: int = 0
    # per layer (B, K, capacity, E); capacity >= columns, so that a step copies one token only
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.padding)

    def length(self, row: int) -> int:
        """The row's tokens so far."""
        return self.columns - self.padding[row]

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by every attention layer: add (B, K, t, E), give back all, (B, K, S, E).

        `columns` moves on only when the whole model has run (`advance`).
        """
        end = self.columns + key.shape[2]
        if layer_idx not in self.keys:
            self.keys[layer_idx] = _room(key, end)
            self.values[layer_idx] = _room(value, end)
        elif self.keys[layer_idx].shape[2] < end:
            for kept in (self.keys, self.values):
                wider = _room(kept[layer_idx], end)
                wider[:, :, : self.columns] = kept[layer_idx][:, :, : self.columns]
                kept[layer_idx] = wider
        self.keys[layer_idx][:, :, self.columns : end] = key
        self.values[layer_idx][:, :, self.columns : end] = value
        return self.keys[layer_idx][:, :, :end], self.values[layer_idx][:, :, :end]

    def advance(self, columns: int) -> None:
        self.columns += columns

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        cut = min((self.padding[row] for row in rows), default=self.columns)
        picks = list(rows)
        for kept in (self.keys, self.values):
            for layer, tensor in kept.items():
                kept[layer] = tensor[picks][:, :, cut : self.columns].contiguous()
        self.padding = [self.padding[row] - cut for row in picks]
        self.sights = [self.sights[row] for row in picks]
        self.columns -= cut

    def join(self, other: DecodingState) -> None:
        """Add another state's rows behind these."""
        columns = max(self.columns, other.columns)
        for layer in other.keys:
            for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
                pieces = [
                    _left_padded(part[layer], state.columns, columns)
                    for part, state in ((mine, self), (theirs, other))
                    if len(state)
                ]
                mine[layer] = torch.cat(pieces)
        self.padding = [p + columns - self.columns for p in self.padding] + [
            p + columns - other.columns for p in other.padding
        ]
        self.sights = self.sights + other.sights
        self.columns = columns


def _room(like: Tensor, columns: int) -> Tensor:
    """An empty (B, K, capacity, E) that holds the columns and a quarter more, at least 64."""
    B, K, _, E = like.shape
    return like.new_empty(B, K, columns + max(64, columns // 4), E)


def _left_padded(tensor: Tensor, used: int, columns: int) -> Tensor:
    B, K, _, E = tensor.shape
    padded = tensor.new_zeros(B, K, columns, E)
    padded[:, :, columns - used :] = tensor[:, :, :used]
    return padded
