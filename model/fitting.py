"""What a model has positions for: what is shown smaller, and what is left out, when it is too much.

Half of the positions for the user's video at most, three quarters with the conversation so far.
Then pictures of sources become smaller, from the lowest rank on, where the family can show them
so; and only then sources are left out, the lowest rank first, and the pictures of the others are
as large again as there is room. What the user shows is made smaller only where it does not fit
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rag_owl.errors import InvalidQuestion
from rag_owl.model.evidence_prompt import (
    EvidencePrompt,
    How,
    Lesser,
    Sights,
    Stretch,
    lay_out,
)
from rag_owl.model.prompting import Processor, Prompt
from rag_owl.types import Context

MOST_STEPS = 1 << 10  # of becoming smaller: more than there are for the pictures of one question


@dataclass(frozen=True, slots=True)
class Family:
    """How a family lays out pictures. lesser: how its pictures become smaller; None: not."""

    processor: Processor
    how: How | None = None
    clips: bool = False
    lesser: Lesser | None = None


def fit(
    context: Context, sights: Sights, family: Family, room: int, name: str
) -> tuple[EvidencePrompt, Prompt]:
    """The prompt that shows most of the context in at most `room` positions.

    name: the model's. Raises InvalidQuestion: it is too long even without evidence.
    """
    shape = _Shape(context, sights, family, room)
    shape.turns, shape.step = len(context.question.history), 1
    frames = len(sights.film.frames)
    while shape.step < frames and shape.size(0, turns=0) > room // 2:
        shape.step *= 2
    while shape.turns and shape.size(0) > room * 3 // 4:
        shape.turns -= 1
    if shape.size(0) > room:
        shape.turns = 0
        _shrink_question(shape, room, name)
    everything, lesser = len(context.sources), family.lesser
    if shape.size(everything) <= room:
        return shape.laid_out(everything)
    whole = shape.sights
    if lesser is not None:
        shape.sights = whole.smaller(_steps(whole, lesser), lesser)
    kept = everything - _least(everything, lambda count: shape.size(everything - count) <= room)
    if lesser is not None:  # what is left out makes room for the pictures of what is kept
        whole = replace(whole, sources=whole.sources[:kept])
        steps = _steps(whole, lesser)
        enough = _least(steps, lambda steps: _sized(shape, whole, kept, steps) <= room)
        shape.sights = whole.smaller(enough, lesser)
    return shape.laid_out(kept)


def without_source(context: Context, laid: EvidencePrompt, source: int) -> EvidencePrompt:
    """As it was laid out, but with one source passed over; the others keep their numbers."""
    found, stretches = list(context.sources), list(laid.stretches)
    found[source] = replace(found[source], item=replace(found[source].item, text=None))
    stretches[source] = Stretch()
    return lay_out(
        replace(context, sources=tuple(found)),
        Sights(tuple(stretches), laid.pictures, laid.film, laid.earlier),
        laid.shown,
        turns=len(laid.turns) // 2,
        how=laid.how,
        clips=laid.clips,
    )


@dataclass(slots=True)
class _Shape:
    context: Context
    sights: Sights
    family: Family
    room: int
    turns: int = 0
    step: int = 1

    def laid_out(self, sources: int, turns: int | None = None) -> tuple[EvidencePrompt, Prompt]:
        laid = lay_out(
            self.context,
            self.sights,
            sources,
            turns=self.turns if turns is None else turns,
            step=self.step,
            how=self.family.how,
            clips=self.family.clips,
        )
        return laid, laid.prompt(self.family.processor)

    def size(self, sources: int, turns: int | None = None) -> int:
        return self.laid_out(sources, turns)[1].positions


def _shrink_question(shape: _Shape, room: int, name: str) -> None:
    """Raises InvalidQuestion where even the smallest pictures do not help."""
    lesser, whole, steps = shape.family.lesser, shape.sights, 0
    needed = shape.size(0)
    while lesser is not None and needed > room:
        steps += 1
        smaller = whole.smaller_question(steps, lesser)
        if smaller == shape.sights:
            break
        shape.sights = smaller
        needed = shape.size(0)
    if needed > room:
        raise InvalidQuestion(
            f"the question needs {needed} tokens; {name} has room for {room}. Shorten it."
        )


def _sized(shape: _Shape, whole: Sights, sources: int, steps: int) -> int:
    assert shape.family.lesser is not None
    shape.sights = whole.smaller(steps, shape.family.lesser)
    return shape.size(sources)


def _steps(sights: Sights, lesser: Lesser) -> int:
    """How many times something of the sources can become smaller."""
    count = 0
    for stretch in sights.sources:
        smaller = stretch.smaller(lesser)
        while smaller is not None and count < MOST_STEPS:
            count += 1
            smaller = smaller.smaller(lesser)
    return count


def _least(most: int, enough: Callable[[int], bool]) -> int:
    """The smallest number up to `most` that is enough, where more never is less; `most` is."""
    too_few, found = -1, most
    while found - too_few > 1:
        middle = (found + too_few) // 2
        if enough(middle):
            found = middle
        else:
            too_few = middle
    return found
