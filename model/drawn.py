"""From where the model looked to what a statement rests on: shares, sentences, boxes, seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from rag_owl.model.attribution import region
from rag_owl.model.evidence_prompt import EvidencePrompt, Stretch
from rag_owl.model.prompting import Prompt
from rag_owl.types import Attribution, Box, Moment

# Without a marker, a statement is laid to what drew most attention, if that drew this share of
# what all evidence drew.
LEAST_SHARE = 0.3
PEAK_SHARE = 0.5  # of the frame that drew most: its neighbours that reach it belong to the moment


class Record(Protocol):
    """Where a model looked: means over some of the answer's tokens."""

    def picture_mass(self, tokens: range, pictures: int) -> Tensor:
        """Mass on each picture -> (N,)."""
        ...

    def patch_mass(self, tokens: range, pictures: int) -> Sequence[Tensor] | Tensor:
        """Of each picture the mass as it lies over it: (rows, columns), or row by row in a square
        (P,); nothing where a picture's parts have no place in it."""
        ...

    def text_mass(self, tokens: range, spans: Sequence[tuple[int, int]]) -> list[float]:
        """Mass on each span of positions."""
        ...


class Drawn:
    """What attention some tokens of the answer paid to each source and to the user's video."""

    def __init__(self, record: Record, tokens: range, laid: EvidencePrompt, prompt: Prompt) -> None:
        self.laid = laid
        self.patches = record.patch_mass(tokens, len(laid.views))
        self.views: list[float] = record.picture_mass(tokens, len(laid.views)).tolist()
        spans = [prompt.spans[ground.part] for ground in laid.grounds]
        self.text = record.text_mass(tokens, spans)
        mass = [self._of(laid.views_of.get(source, ())) for source in range(laid.shown)]
        for ground, drawn in zip(laid.grounds, self.text, strict=True):
            mass[ground.source] += drawn
        film = self._of(laid.film_views)
        total = sum(mass) + film
        self.shares = [m / total if total else 0.0 for m in mass]
        """Of the attention that all evidence drew, what each source drew."""
        self.film_share = film / total if total else 0.0

    def rests_on(self, start: int, end: int, marked: Sequence[int]) -> list[Attribution | Moment]:
        """What `text[start:end]` of the answer rests on: its markers say, and else attention."""
        sources = list(marked)
        if not sources:
            best = max(range(len(self.shares)), key=self.shares.__getitem__, default=None)
            most = self.shares[best] if best is not None else 0.0
            if self.film_share >= max(LEAST_SHARE, most):
                return [self._moment(start, end)]
            if best is None or most < LEAST_SHARE:
                return []
            sources = [best]
        return [self._attribution(start, end, source, not marked) for source in sources]

    def _of(self, views: Sequence[int]) -> float:
        return sum(self.views[i] for i in views)

    def _moment(self, start: int, end: int) -> Moment:
        first, last = self._seconds(self.laid.film_views, self.laid.film)
        return Moment(start, end, first, last, self.film_share)

    def _attribution(self, start: int, end: int, source: int, filled: bool) -> Attribution:
        views, stretch = self.laid.views_of.get(source, []), self.laid.stretches[source]
        item_start, item_end = self._ground(source)
        filmed = bool(views) and stretch.frames[0].seconds is not None
        return Attribution(
            start,
            end,
            source,
            item_start=item_start,
            item_end=item_end,
            attention=self.shares[source],
            box=self._box(views) if not filmed else None,
            seconds=self._seconds(views, stretch) if filmed else None,
            filled=filled,
        )

    def _ground(self, source: int) -> tuple[int, int] | tuple[None, None]:
        """The sentence of a source's text that drew most."""
        mine = [
            (drawn, ground.start, ground.end)
            for ground, drawn in zip(self.laid.grounds, self.text, strict=True)
            if ground.source == source
        ]
        return max(mine)[1:] if mine else (None, None)

    def _box(self, views: Sequence[int]) -> Box | None:
        """Where in a source's one picture."""
        if len(views) != 1 or self.patches[views[0]].numel() == 0:
            return None
        return region(self.patches[views[0]])

    def _seconds(self, views: Sequence[int], stretch: Stretch) -> tuple[float, float]:
        """The frames around the one that drew most which reach `PEAK_SHARE` of it."""
        mass = [self.views[i] for i in views]
        first = last = max(range(len(mass)), key=mass.__getitem__)
        least = PEAK_SHARE * mass[first]
        while first > 0 and mass[first - 1] >= least:
            first -= 1
        while last + 1 < len(mass) and mass[last + 1] >= least:
            last += 1
        times = [frame.seconds or 0.0 for frame in stretch.frames]
        return times[first], times[last + 1] if last + 1 < len(times) else stretch.end


def tokens_of(ends: Sequence[int], start: int, end: int) -> range:
    """The tokens whose text lies in [start, end): `ends[i]` is what stood after token i."""
    first = next((i for i, e in enumerate(ends) if e > start), len(ends))
    last = next((i for i, e in enumerate(ends) if e >= end), len(ends) - 1)
    return range(first, last + 1)
