"""A context as one prompt: numbered evidence, pictures where their items stand, the question.

Titles, texts and the question go in as text parts, which the processor never reads as structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from rag_owl.model.owl3.preprocessing import sample_frames
from rag_owl.model.prompting import Part, Processor, Prompt, Shown, Turn
from rag_owl.model.statements import INSTRUCTION
from rag_owl.sentences import sentence_spans
from rag_owl.types import Context, Item, VideoLocation

ABOUT_VIDEO = " Where a statement rests on the video of the question, say at which seconds."


@dataclass(frozen=True, slots=True)
class View:
    """One picture of the prompt: a picture of the store, or one frame of a film."""

    key: str  # names the pixels: the same key, the same picture
    blob: str
    seconds: float | None = None  # of a frame; the blob is the film then


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames of a film in order, each seen from its seconds until the next one's."""

    frames: tuple[View, ...] = ()
    end: float = 0.0

    @classmethod
    def of(cls, film: str, start: float, end: float, most: int) -> Stretch:
        """About one frame per second, as published, and evenly at most so many."""
        count = max(1, ceil(end - start))
        times = [start + second for second in sample_frames(count, 1.0, max(1, most))]
        return cls(tuple(View(f"{film}.{round(t * 1000)}ms", film, t) for t in times), end)

    def every(self, step: int) -> Stretch:
        return Stretch(self.frames[::step], self.end)

    def without(self, keys: Mapping[str, str]) -> Stretch:
        return Stretch(tuple(frame for frame in self.frames if frame.key not in keys), self.end)


@dataclass(frozen=True, slots=True)
class Sights:
    """Everything of a context that can be looked at."""

    sources: tuple[Stretch, ...]  # per source; a picture is a stretch of one
    pictures: tuple[View, ...] = ()  # the user's
    film: Stretch = field(default_factory=Stretch)  # the user's
    earlier: tuple[tuple[View, ...], ...] = ()  # the user's, per earlier turn

    @classmethod
    def of(cls, context: Context, film_seconds: float = 0.0, most_frames: int = 16) -> Sights:
        """film_seconds: the length of the user's video, where there is one.

        The user's video may take all `most_frames` frames; retrieved stretches share what is left
        evenly. One that gets a single frame is shown by its own picture.
        """
        question = context.question
        film = Stretch()
        if question.video is not None:
            film = Stretch.of(question.video, 0.0, film_seconds, most_frames)
        filmed = sum(found.item.video is not None for found in context.sources)
        share = (most_frames - len(film.frames)) // max(1, filmed)
        return cls(
            tuple(_of_item(found.item, share) for found in context.sources),
            tuple(View(key, key) for key in question.pictures),
            film,
            tuple(tuple(View(key, key) for key in turn.pictures) for turn in question.history),
        )

    def without(self, keys: Mapping[str, str]) -> Sights:
        return Sights(
            tuple(stretch.without(keys) for stretch in self.sources),
            tuple(view for view in self.pictures if view.key not in keys),
            self.film.without(keys),
            tuple(tuple(v for v in views if v.key not in keys) for views in self.earlier),
        )


def _of_item(item: Item, most: int) -> Stretch:
    place = item.location
    if isinstance(place, VideoLocation) and item.video and (most > 1 or item.picture is None):
        return Stretch.of(item.video, place.start_seconds, place.end_seconds, most)
    if item.picture is None:
        return Stretch()
    return Stretch((View(item.picture, item.picture),))


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

    shown: int = 0  # sources that fit
    stretches: tuple[Stretch, ...] = ()  # of each source
    film: Stretch = field(default_factory=Stretch)
    turns: list[Turn] = field(default_factory=list)  # earlier ones
    parts: list[Part] = field(default_factory=list)
    views: list[View] = field(default_factory=list)  # in the order of the prompt
    views_of: dict[int, list[int]] = field(default_factory=dict)  # per source, indices of views
    film_views: list[int] = field(default_factory=list)
    grounds: list[Ground] = field(default_factory=list)

    def text(self, text: str) -> None:
        if text:
            self.parts.append(text)

    def picture(self, view: View) -> int:
        self.parts.append(Shown())
        self.views.append(view)
        return len(self.views) - 1

    def frame(self, view: View) -> int:
        if view.seconds is not None:
            self.text(f"at {view.seconds:.1f} s: ")
        index = self.picture(view)
        self.text("\n")
        return index

    def prompt(self, processor: Processor) -> Prompt:
        """Its `spans` are those of the last turn's parts."""
        prompt = processor.prompt([*self.turns, Turn("user", tuple(self.parts))])
        del prompt.spans[: sum(len(turn.parts) for turn in self.turns)]
        return prompt


def lay_out(
    context: Context, sights: Sights, sources: int, *, turns: int | None = None, step: int = 1
) -> EvidencePrompt:
    """The first `sources` sources of the context, the user's pictures and video, the question.

    turns: the newest so many of the conversation; None: all. step: every how many frames of the
    user's video are shown. A source that has neither text nor anything to look at is passed over;
    the others keep their numbers.
    """
    film = sights.film.every(step)
    laid = EvidencePrompt(sources, sights.sources[:sources], film)
    history = context.question.history
    for at in range(len(history) - (len(history) if turns is None else turns), len(history)):
        _add_turn(laid, history[at].question, sights.earlier[at], history[at].text)
    if sources:
        laid.text("Evidence:\n")
    for number, found in enumerate(context.sources[:sources]):
        item, stretch = found.item, sights.sources[number]
        if not (item.text or stretch.frames):
            continue
        laid.text(f"[{number + 1}] {item.title}\n")
        laid.views_of[number] = [laid.frame(view) for view in stretch.frames]
        if item.heading:
            laid.text(f"{item.heading}\n")
        if item.text:
            _add_text(laid, number, item.text)
            laid.text("\n")
    if film.frames:
        laid.text("The video that the question is about:\n")
        laid.film_views = [laid.frame(view) for view in film.frames]
    for i, view in enumerate(sights.pictures):
        laid.text(f"The picture {i + 1} that the question is about: ")
        laid.picture(view)
        laid.text("\n")
    laid.text("Question: ")
    laid.text(context.question.text)
    laid.text("\n" + INSTRUCTION + (ABOUT_VIDEO if film.frames else ""))
    return laid


def _add_turn(laid: EvidencePrompt, question: str, pictures: Sequence[View], answer: str) -> None:
    """An earlier question with its pictures, and what was answered."""
    asked: list[Part] = []
    for view in pictures:
        asked += [Shown(), "\n"]
        laid.views.append(view)
    laid.turns += [Turn("user", (*asked, question)), Turn("assistant", (answer,))]


def _add_text(laid: EvidencePrompt, source: int, text: str) -> None:
    """Sentence by sentence, so that attention can point to one; together it is the text."""
    last = 0
    for start, end in sentence_spans(text):
        laid.text(text[last:start])
        laid.grounds.append(Ground(source, start, end, len(laid.parts)))
        laid.text(text[start:end])
        last = end
    laid.text(text[last:])
