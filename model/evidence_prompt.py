"""A context as one prompt: numbered evidence, pictures where their items stand, the question.

Titles, texts and the question go in as text parts, which the processor never reads as structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TypeAlias

from rag_owl.model.owl3.preprocessing import sample_frames
from rag_owl.model.prompting import Clip, Finest, Part, Processor, Prompt, Shown, Turn
from rag_owl.model.statements import INSTRUCTION
from rag_owl.sentences import sentence_spans
from rag_owl.types import Context, Item, VideoLocation

ABOUT_VIDEO = " Where a statement rests on the video of the question, say at which seconds."


Spot: TypeAlias = tuple[str, float | None]
"""What a view is a view of, however large it is shown: a blob, and of a film the seconds."""
Lesser: TypeAlias = Callable[[int], int]
ONE_SIZE = Finest()


@dataclass(frozen=True, slots=True)
class View:
    """One picture of the prompt: a picture of the store, or one frame of a film."""

    key: str  # names the pixels: the same key, the same picture
    blob: str
    seconds: float | None = None  # of a frame; the blob is the film then
    also: float | None = None  # of the second frame of a step, where frames are shown in pairs
    most: int = 0  # how large it is shown, in the family's measure; 0: it knows one size
    least: int = 0  # to which it is enlarged; 0: the family's own

    @classmethod
    def picture(cls, blob: str, most: int = 0, least: int = 0) -> View:
        return cls(_key(blob, most, least), blob, most=most, least=least)

    @property
    def spot(self) -> Spot:
        return self.blob, self.seconds

    def smaller(self, most: int) -> View:
        """Nothing is enlarged any more where there is no room."""
        name = self.key.removesuffix(_key("", self.most, self.least))
        return replace(self, key=_key(name, most), most=most, least=0)


How: TypeAlias = Callable[[View], Shown]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames of a film in order, each seen from its seconds until the next one's."""

    frames: tuple[View, ...] = ()
    end: float = 0.0

    @classmethod
    def of(
        cls, film: str, start: float, end: float, most: int, finest: Finest = ONE_SIZE
    ) -> Stretch:
        """About one frame per second, as published, and evenly at most so many; in pairs, where
        the family wants them, about one pair per second.
        """
        count = max(1, ceil(end - start))
        steps = max(1, most // 2 if finest.paired else most)
        times = [start + second for second in sample_frames(count, 1.0, steps)]
        frames = []
        for at, t in enumerate(times):
            also = (t + (times[at + 1] if at + 1 < len(times) else end)) / 2
            name = f"{film}.{round(t * 1000)}"
            if finest.paired:
                name += f"-{round(also * 1000)}"
            key = _key(f"{name}ms", finest.frame)
            frames.append(View(key, film, t, also if finest.paired else None, finest.frame))
        return cls(tuple(frames), end)

    def every(self, step: int) -> Stretch:
        return Stretch(self.frames[::step], self.end)

    def without(self, keys: Mapping[str, str]) -> Stretch:
        return Stretch(tuple(frame for frame in self.frames if frame.key not in keys), self.end)

    def smaller(self, lesser: Lesser) -> Stretch | None:
        """Each of its pictures one size smaller; None where that cannot be."""
        most = lesser(self.frames[0].most) if self.frames else 0
        if not most:
            return None
        return Stretch(tuple(frame.smaller(most) for frame in self.frames), self.end)


@dataclass(frozen=True, slots=True)
class Sights:
    """Everything of a context that can be looked at."""

    sources: tuple[Stretch, ...]  # per source; a picture is a stretch of one
    pictures: tuple[View, ...] = ()  # the user's
    film: Stretch = field(default_factory=Stretch)  # the user's
    earlier: tuple[tuple[View, ...], ...] = ()  # the user's, per earlier turn

    @classmethod
    def of(
        cls,
        context: Context,
        film_seconds: float = 0.0,
        most_frames: int = 16,
        finest: Finest = ONE_SIZE,
    ) -> Sights:
        """film_seconds: the length of the user's video, where there is one. finest: how large
        pictures are shown where there is room.

        The user's video may take all `most_frames` frames; retrieved stretches share what is left
        evenly. One that gets a single frame is shown by its own picture.
        """
        question = context.question
        film = Stretch()
        if question.video is not None:
            film = Stretch.of(question.video, 0.0, film_seconds, most_frames, finest)
        filmed = sum(found.item.video is not None for found in context.sources)
        taken = len(film.frames) * (2 if finest.paired else 1)
        share = (most_frames - taken) // max(1, filmed)
        return cls(
            tuple(_of_item(found.item, share, finest) for found in context.sources),
            tuple(
                View.picture(key, finest.question, finest.question_least)
                for key in question.pictures
            ),
            film,
            tuple(
                tuple(
                    View.picture(key, finest.source, finest.source_least) for key in turn.pictures
                )
                for turn in question.history
            ),
        )

    def views(self) -> list[View]:
        """All there is to see, as it is shown where there is room."""
        stretches = (*self.sources, self.film)
        shown = [view for stretch in stretches for view in stretch.frames]
        return [*shown, *self.pictures, *(v for views in self.earlier for v in views)]

    def without(self, keys: Mapping[str, str]) -> Sights:
        return Sights(
            tuple(stretch.without(keys) for stretch in self.sources),
            tuple(view for view in self.pictures if view.key not in keys),
            self.film.without(keys),
            tuple(tuple(v for v in views if v.key not in keys) for views in self.earlier),
        )

    def smaller(self, steps: int, lesser: Lesser) -> Sights:
        """What sources show, so many times one of them a size smaller: from the lowest rank on,
        and again from there when all have become smaller. Fewer times where that is all there is.
        """
        sources = list(self.sources)
        while steps:
            before = steps
            for number in reversed(range(len(sources))):
                less = sources[number].smaller(lesser) if steps else None
                if less is not None:
                    sources[number] = less
                    steps -= 1
            if steps == before:
                break
        return replace(self, sources=tuple(sources))

    def smaller_question(self, steps: int, lesser: Lesser) -> Sights:
        """The user's pictures so many sizes smaller, those of earlier turns too."""

        def less(view: View) -> View:
            for _ in range(steps):
                view = view.smaller(most) if (most := lesser(view.most)) else view
            return view

        return replace(
            self,
            pictures=tuple(map(less, self.pictures)),
            film=Stretch(tuple(map(less, self.film.frames)), self.film.end),
            earlier=tuple(tuple(map(less, views)) for views in self.earlier),
        )


def _of_item(item: Item, most: int, finest: Finest) -> Stretch:
    place = item.location
    if isinstance(place, VideoLocation) and item.video and (most > 1 or item.picture is None):
        return Stretch.of(item.video, place.start_seconds, place.end_seconds, most, finest)
    if item.picture is None:
        return Stretch()
    return Stretch((View.picture(item.picture, finest.source, finest.source_least),))


def _key(name: str, most: int, least: int = 0) -> str:
    if not most:
        return name
    return f"{name}.{least}-{most}" if least else f"{name}.{most}"


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
    pictures: tuple[View, ...] = ()  # the user's
    film: Stretch = field(default_factory=Stretch)
    earlier: tuple[tuple[View, ...], ...] = ()  # of every turn, shown or not
    turns: list[Turn] = field(default_factory=list)  # earlier ones
    parts: list[Part] = field(default_factory=list)
    views: list[View] = field(default_factory=list)  # in the order of the prompt
    views_of: dict[int, list[int]] = field(default_factory=dict)  # per source, indices of views
    film_views: list[int] = field(default_factory=list)
    grounds: list[Ground] = field(default_factory=list)
    how: How | None = None  # what stands for a view in the text
    clips: bool = False  # films as one piece

    def text(self, text: str) -> None:
        if text:
            self.parts.append(text)

    def shown_as(self, view: View) -> Shown:
        return self.how(view) if self.how is not None else Shown()

    def picture(self, view: View) -> int:
        self.parts.append(self.shown_as(view))
        self.views.append(view)
        return len(self.views) - 1

    def stretch(self, stretch: Stretch) -> list[int]:
        """A picture, or frames with their times -> their indices among the views."""
        frames = stretch.frames
        if self.clips and frames and frames[0].seconds is not None:
            return self._clip(stretch)
        indices = []
        for view in frames:
            if view.seconds is not None:
                self.text(f"at {view.seconds:.1f} s: ")
            indices.append(self.picture(view))
            self.text("\n")
        return indices

    def _clip(self, stretch: Stretch) -> list[int]:
        frames = stretch.frames
        first, last = frames[0].seconds or 0.0, frames[-1].seconds or 0.0
        every = f", a step every {(last - first) / (len(frames) - 1):.1f} s" if last > first else ""
        self.text(f"from {first:.1f} s to {stretch.end:.1f} s{every}: ")
        self.parts.append(Clip(len(frames), self.shown_as(frames[0]).grid))
        self.views += frames
        self.text("\n")
        return list(range(len(self.views) - len(frames), len(self.views)))

    def prompt(self, processor: Processor) -> Prompt:
        """Its `spans` are those of the last turn's parts."""
        prompt = processor.prompt([*self.turns, Turn("user", tuple(self.parts))])
        del prompt.spans[: len(prompt.spans) - len(self.parts)]
        return prompt


def lay_out(
    context: Context,
    sights: Sights,
    sources: int,
    *,
    turns: int | None = None,
    step: int = 1,
    how: How | None = None,
    clips: bool = False,
) -> EvidencePrompt:
    """The first `sources` sources of the context, the user's pictures and video, the question.

    turns: the newest so many of the conversation; None: all. step: every how many frames of the
    user's video are shown. how: what stands for a view in the text; None: a picture of the one
    size. clips: the frames of a film stand as one piece. A source that has neither text nor
    anything to look at is passed over; the others keep their numbers.
    """
    film = sights.film.every(step)
    shown = sights.sources[:sources]
    laid = EvidencePrompt(sources, shown, sights.pictures, film, sights.earlier)
    laid.how, laid.clips = how, clips
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
        laid.views_of[number] = laid.stretch(stretch)
        if item.heading:
            laid.text(f"{item.heading}\n")
        if item.text:
            _add_text(laid, number, item.text)
            laid.text("\n")
    if film.frames:
        laid.text("The video that the question is about:\n")
        laid.film_views = laid.stretch(film)
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
        asked += [laid.shown_as(view), "\n"]
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
