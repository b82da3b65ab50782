"""Where owl-nano looked in a picture while it read an item: heatmaps and boxes.

L hyper layers, H heads, P patches (G * G, row by row from the top left), N of the user's pictures
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag_owl.model.attribution import region
from rag_owl.model.nano import regions
from rag_owl.model.nano.looking import Looker, Seen
from rag_owl.model.nano.reader import Reader
from rag_owl.model.nano.window import Window
from rag_owl.types import Box

Floats: TypeAlias = NDArray[np.float32]
Looks: TypeAlias = dict[int, list[Tensor]]  # per source: of each of its pieces (N + 1, L, H, P)


class Heatmaps:
    """Reads what the hyper layers watched off the reader."""

    def __init__(self, reader: Reader, looker: Looker) -> None:
        self._reader, self._looker = reader, looker
        self.pointing: tuple[NDArray[np.float64], float] | None = None  # weights of regions.maps

    def keep(self, window: Window, users: int, looks: Looks) -> None:
        """Of what the hyper layers watched, the means over each piece's tokens."""
        layers: Any = self._reader.layers
        seen = [layer.watched for layer in layers if layer.watched is not None]
        for i, piece in enumerate(window.pieces):
            start, end = window.piece_range(i)
            views = [*range(users), users + i]
            # (H, T, N, P) -> (N, L, H, P), without the pooled token
            means = [m[0][:, start:end][:, :, views, :-1].mean(1) for m in seen]
            looks.setdefault(piece.item, []).append(torch.stack(means).permute(2, 0, 1, 3))
        for layer in layers:
            layer.watched = None

    def attention(self, looks: Looks, source: int, users: int) -> Tensor:
        """What a source's tokens paid to the patches of each of the user's pictures and, last, of
        its own: (N + 1, L, H, P), the mean over its tokens."""
        if source not in looks:
            c = self._reader.config
            layers, patches = len(c.hyper_layers), self._looker.eyes.config.patches
            return torch.zeros(users + 1, layers, c.heads, patches)
        return torch.stack(looks[source]).mean(0)

    def maps(self, attention: Tensor, user: Sequence[Seen], own: Seen) -> Floats:
        """(L, H, P) -> (M, P), which heatmaps are read off; see `regions.maps`."""
        nearest = max(user, key=lambda seen: self._looker.likeness(seen, own))
        pair = own.features, nearest.features
        return regions.maps(attention, self._looker.eyes, pair, nearest.pooled)

    def region(self, attention: Tensor, user: Sequence[Seen], own: Seen) -> Floats:
        """(L, H, P) -> (G, G): how likely each patch of an item's picture shows what the user's
        does."""
        if self.pointing is None:
            return self.mean(attention)
        return regions.read_off(self.maps(attention, user, own), *self.pointing)

    def mean(self, attention: Tensor) -> Floats:
        """(L, H, P) -> (G, G), all layers and heads alike."""
        side = self._looker.eyes.config.grid
        plain: Floats = attention.mean((0, 1)).view(side, side).numpy()
        return plain

    def boxes(
        self, user: Sequence[Seen], items: Sequence[Seen | None], looks: Looks
    ) -> Callable[[int], Box | None]:
        """Where in a source's picture the thing is that the user shows; None: all over it, or it
        cannot be said."""

        def box_of(source: int) -> Box | None:
            own = items[source]
            if own is None or source not in looks or self.pointing is None:
                return None
            if self._looker.same(max(self._looker.likeness(seen, own) for seen in user)):
                return None
            return box(self.region(self.attention(looks, source, len(user))[-1], user, own))

        return box_of


def box(heatmap: Floats) -> Box:
    """What a heatmap points at, in fractions of the picture."""
    return region(torch.from_numpy(heatmap).flatten())
