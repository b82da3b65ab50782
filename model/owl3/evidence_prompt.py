"""A context as one prompt: numbered evidence, pictures where their items stand, the question.

Titles, texts and the question go in as text parts, which the processor never reads as structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from rag_owl.model.owl3.processor import Owl3Processor, Part, Prompt, Shown, Turn
from rag_owl.model.statements import INSTRUCTION
from rag_owl.sentences import sentence_spans
from rag_owl.types import Context, Item, VideoLocation

if TYPE_CHECKING:
    from PIL.Image import Image

# A video's frames in order: (blob key, start and end in seconds, at most) -> (seconds, frame)
Frames: TypeAlias = Callable[[str, float, float | None, int], Sequence[tuple[float, "Image"]]]


@dataclass(frozen=True, slots=True)
class View:
    """One picture of the prompt: a picture of the store, or one frame of a video."""

    key: str  # names the pixels: the same key, the same picture
    blob: str
    frame: Image | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Ground:
    """A piece of a source's text in the prompt, as offsets of the item's text."""

    source: int
    start: int
    end: int
    part: int


@dataclass(slots=True)
class EvidencePrompt:
    """What the model gets, and what each piece of it belongs to."""

    parts: list[Part] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    source_of_view: list[int | None] = field(default_factory=list)  # None: the user's picture
    grounds: list[Ground] = field(default_factory=list)
    shown: int = 0  # sources that fit

    def text(self, text: str) -> None:
        if text:
            self.parts.append(text)

    def picture(self, view: View, source: int | None) -> None:
        self.parts.append(Shown())
        self.views.append(view)
        self.source_of_view.append(source)

    def prompt(self, processor: Owl3Processor) -> Prompt:
        return processor.prompt([Turn("user", tuple(self.parts))])


def lay_out(
    context: Context, sources: int, *, frames: Frames | None = None, most_frames: int = 16
) -> EvidencePrompt:
    """The first `sources` sources of the context, the user's pictures, and the question."""
    laid = EvidencePrompt(shown=sources)
    if sources:
        laid.text("Evidence:\n")
    for number, found in enumerate(context.sources[:sources]):
        item = found.item
        laid.text(f"[{number + 1}] {item.title}\n")
        for view in _views(item, frames, most_frames):
            if view.seconds is not None:
                laid.text(f"at {view.seconds:.1f} s: ")
            laid.picture(view, number)
            laid.text("\n")
        if item.heading:
            laid.text(f"{item.heading}\n")
        if item.text:
            _add_text(laid, number, item.text)
            laid.text("\n")
    for i, key in enumerate(context.question.pictures):
        laid.text(f"The picture {i + 1} that the question is about: ")
        laid.picture(View(key, key), None)
        laid.text("\n")
    laid.text("Question: ")
    laid.text(context.question.text)
    laid.text(f"\n{INSTRUCTION}")
    return laid


def _add_text(laid: EvidencePrompt, source: int, text: str) -> None:
    """Sentence by sentence, so that attention can point to one; together it is the text."""
    last = 0
    for start, end in sentence_spans(text):
        laid.text(text[last:start])
        laid.grounds.append(Ground(source, start, end, len(laid.parts)))
        laid.text(text[start:end])
        last = end
    laid.text(text[last:])


def _views(item: Item, frames: Frames | None, most: int) -> list[View]:
    if item.picture is None:
        return []
    if item.kind != "video" or frames is None:
        return [View(item.picture, item.picture)]
    place = item.location
    start, end = 0.0, None
    if isinstance(place, VideoLocation):
        start, end = place.start_seconds, place.end_seconds
    return [
        View(f"{item.picture}.{round(seconds * 1000)}ms", item.picture, frame, seconds)
        for seconds, frame in frames(item.picture, start, end, most)
    ]
