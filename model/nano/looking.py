"""What owl-nano sees in the pictures of a question and of its items, and how alike they are."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rag_owl.errors import InvalidQuestion, RagOwlError
from rag_owl.media import decode_picture
from rag_owl.model.nano import shown
from rag_owl.model.nano.embedder import mean, scales, see
from rag_owl.model.nano.eyes import Eyes
from rag_owl.model.nano.likeness import similarities
from rag_owl.model.nano.reader import Rows, Sight
from rag_owl.model.nano.window import Window, spread
from rag_owl.ports import BlobStore
from rag_owl.types import Context

if TYPE_CHECKING:
    from PIL.Image import Image

_MANY_PICTURES = 512  # features kept in memory, about 50 kB each


@dataclass(frozen=True)
class Seen:
    features: Tensor  # (G*G, C)
    pooled: Tensor  # (D,)
    closer: Tensor | None = None  # (D,): the mean over several views, each part of unit length

    @property
    def vector(self) -> Tensor:
        """(D,), what it is compared by."""
        return self.pooled if self.closer is None else self.closer


class Looker:
    """Keeps what it saw while it is asked for often. Not safe for several threads at once."""

    def __init__(
        self,
        eyes: Eyes,
        blobs: BlobStore,
        calibration: Mapping[str, float],
        alike: tuple[float, float] | None = None,
    ) -> None:
        """calibration: the parts' shares and `same` are read; alike: slope and offset that turn a
        likeness into a probability."""
        self.eyes = eyes
        self._blobs, self._alike, self.threshold = blobs, alike, calibration["same"]
        self._scales = scales(eyes, calibration)
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._beside: list[Seen] = []

    def look_at(self, context: Context) -> tuple[list[Seen], list[Seen | None]]:
        """The user's pictures and, per source, its picture. Raises `InvalidQuestion`."""
        items = [self._item_picture(s.item.picture) for s in context.sources]
        return [self._look_closely(key, items) for key in context.question.pictures], items

    def _look_closely(self, key: str, items: Sequence[Seen | None]) -> Seen:
        """The user's picture; where one look does not say which item shows the same, from several
        sides. Raises `InvalidQuestion`."""
        seen = self.look(key)
        alike = sorted((self.likeness(seen, i) for i in items if i is not None), reverse=True)
        clear = len(alike) < 2 or alike[0] - alike[1] >= shown.AHEAD
        if seen.closer is not None or not alike:
            return seen
        if clear and (self.probably_same(alike[0]) or 0.0) >= shown.SURE:
            return seen
        _, pooled = see(self.eyes, shown.views(self._picture(key))[1:])
        closer = mean(self.eyes, torch.cat([seen.pooled[None], pooled]))
        self._seen[key] = replace(seen, closer=closer)
        return self._seen[key]

    def probably_same(self, likeness: float) -> float | None:
        """The calibrated probability that two pictures this alike show the same."""
        if self._alike is None:
            return None
        slope, offset = self._alike
        return probability(slope * likeness + offset)

    def _stand_ins(self, count: int) -> list[Seen]:
        if count and not self._beside:
            features, pooled = see(self.eyes, shown.stand_ins(shown.LEAST_PICTURED - 1))
            self._beside = [Seen(f, p) for f, p in zip(features, pooled, strict=True)]
        return self._beside[:count]

    def _item_picture(self, key: str | None) -> Seen | None:
        try:  # by one look: what was asked with it before is not to change what an item is
            return replace(self.look(key), closer=None) if key else None
        except InvalidQuestion:
            return None  # an item whose picture is gone or damaged is still read

    def look(self, key: str) -> Seen:
        """What the eyes see in a stored picture. Raises `InvalidQuestion`."""
        if key in self._seen:
            self._seen.move_to_end(key)
            return self._seen[key]
        features, pooled = see(self.eyes, [self._picture(key)])
        seen = self._seen[key] = Seen(features[0], pooled[0])
        if len(self._seen) > _MANY_PICTURES:
            self._seen.popitem(last=False)
        return seen

    def _picture(self, key: str) -> Image:
        try:
            return decode_picture(self._blobs.get(key), max_side=512)
        except RagOwlError as error:
            raise InvalidQuestion(f"a picture of the question cannot be read: {error}") from error

    def nearest(self, user: Sequence[Seen], items: Sequence[Seen | None]) -> list[float | None]:
        """Per source how alike its picture is to that of the user's which it is most like."""
        return [
            max(self.likeness(seen, item) for seen in user) if item is not None else None
            for item in items
        ]

    def show(
        self,
        rows: Rows,
        windows: Sequence[Window],
        user: Sequence[Seen],
        items: Sequence[Seen | None],
    ) -> None:
        """Put the pictures into the rows: the user's after the question, an item's before it."""
        last = max((p.item for w in windows for p in w.pieces), default=0)
        items = [*items, *self._stand_ins(max(0, last + 1 - len(items)))]
        vectors = [i.pooled if i else None for i in items]
        likeness = similarities(torch.stack([u.vector for u in user]), vectors, self.eyes)
        rows.similarities = spread(windows, [[likeness[p.item] for p in w.pieces] for w in windows])
        B, T = rows.ids.shape
        N = len(user) + max(len(w.pieces) for w in windows)
        some = next(s for s in [*user, *items] if s is not None)
        sight = Sight(
            torch.zeros(B, N, *some.features.shape),
            torch.zeros(B, N, *some.pooled.shape),
            torch.zeros(B, N, dtype=torch.long),
            torch.zeros(B, T, N, dtype=torch.bool),
        )
        for b, window in enumerate(windows):
            for n, seen in enumerate(user):
                sight.patches[b, n], sight.pooled[b, n] = seen.features, seen.pooled
                sight.positions[b, n] = window.question_end
                sight.visible[b, : len(window.ids), n] = True
            for i, piece in enumerate(window.pieces):
                own = items[piece.item]
                if own is not None:
                    n = len(user) + i
                    start, end = window.piece_range(i)
                    sight.patches[b, n], sight.pooled[b, n] = own.features, own.pooled
                    sight.positions[b, n] = start
                    sight.visible[b, start:end, n] = True
        rows.sight = sight

    def likeness(self, one: Seen, other: Seen) -> float:
        """Cosine of two pictures, weighed as the picture embedder weighs them."""
        a, b = (seen.vector * self._scales for seen in (one, other))
        return float(a @ b)

    def best_match(self, seen: Seen, items: Sequence[Seen | None]) -> tuple[int, float] | None:
        scored = [(self.likeness(seen, s), i) for i, s in enumerate(items) if s is not None]
        return (max(scored)[1], max(scored)[0]) if scored else None

    def same(self, likeness: float) -> bool:
        """Whether two pictures this alike are taken for the same."""
        return likeness >= self.threshold


def probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(min(log_odds, 30.0), -30.0)))
