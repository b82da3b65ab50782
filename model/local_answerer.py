"""Models that run here as answerers: a context in, a draft with its own attributions out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from rag_owl.errors import InvalidQuestion, OutOfMemory
from rag_owl.model.drawn import Drawn, Record, tokens_of
from rag_owl.model.evidence_prompt import EvidencePrompt, Sights, View, lay_out
from rag_owl.model.looking import UNREADABLE, Looker
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.tokenizer import Decoder, TextStream
from rag_owl.model.prompting import Processor, Prompt
from rag_owl.model.statements import ABSTENTION, is_abstention, statements
from rag_owl.types import Attribution, Context, Draft, Moment, Question, Usage

log = logging.getLogger(__name__)

FRAMES = 64  # of the films of one question, unless told otherwise
MOST_FRAMES = 400

OnText = Callable[[str], None]


class LocalAnswerer:
    """A model that runs here: implements `rag_owl.ports.Answerer`, `Rememberer` and `Watcher`.

    One way for all families to lay out evidence, to reduce what does not fit, and to say from
    where the model looked what each statement rests on. A family says how it generates (`_run`).
    """

    watches_video = True
    at_once = 1  # from how many threads it makes sense to ask at the same time

    def __init__(
        self,
        name: str,
        looker: Looker,
        processor: Processor,
        tokenizer: Decoder,
        sampling: Sampling,
        positions: int,
        most_frames: int = FRAMES,
    ) -> None:
        """positions: that the model has. most_frames: of all films of a question, at most 400."""
        self.name = name
        self.processor = processor
        self._looker = looker
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._positions = positions
        self._most_frames = min(most_frames, MOST_FRAMES)

    def _run(
        self, prompt: Prompt, memory: VisualMemory | None, sampling: Sampling
    ) -> tuple[Generator[int | None, None, None], Record]:
        """The answer's tokens as they come, None now and then while there is none, and where the
        model looked when it chose each of them.
        """
        raise NotImplementedError

    def answer(self, context: Context, on_text: OnText | None = None) -> Draft:
        """on_text is called in this thread, with an empty text while there is none; what it
        raises ends the answer.

        Raises InvalidQuestion: a picture or video of the user's that cannot be read, or a question
        too long for the model even without evidence. Raises OutOfMemory.
        """
        say = on_text or (lambda _: None)
        seconds = self._film_seconds(context.question)
        sights = Sights.of(context, seconds, self._most_frames)
        memories, failed = self._look(sights, lambda: say(""))
        _check_question(sights, failed)
        readable = sights.without(failed)
        laid, prompt = self._fitting(context, readable)
        memory = VisualMemory.cat([memories[v.key] for v in laid.views]) if laid.views else None
        coming, record = self._run(prompt, memory, self._sampling_for(context.question))
        text = TextStream(self._tokenizer)
        with closing(coming) as tokens:
            for token in tokens:
                new = text.add(token) if token is not None else ""
                if new or token is None:
                    say(new)
        if rest := text.finish():
            say(rest)
        if not text.text.strip():
            say(ABSTENTION)
        return replace(
            self._draft(text, record, laid, prompt),
            usage=Usage(prompt.positions, len(text.ends)),
            left_out=tuple(_left_out(context, sights, laid, failed)),
            notes=tuple(_notes(context, sights, laid, failed, seconds)),
        )

    def remember_picture(self, key: str) -> bool:
        """Encode a picture of the blob store ahead of any question, where a store is given.

        True: its features are stored now. What cannot be read or does not fit is not stored, and
        a question says so when it comes to that.
        """
        features = self._looker.features
        if features is None:
            return False
        try:
            self._looker.look([View(key, key)], keep=True)
        except OutOfMemory as error:
            log.warning("%s", error)  # no reason to end the job that indexes it
        return features.get(self._looker.identity, key) is not None

    # --- before the first token -------------------------------------------------------------

    def _film_seconds(self, question: Question) -> float:
        if question.video is None:
            return 0.0
        try:
            return self._looker.seconds(question.video)
        except UNREADABLE as error:
            raise InvalidQuestion(f"the video of the question: {error}") from error

    def _look(
        self, sights: Sights, between: Callable[[], None]
    ) -> tuple[dict[str, VisualMemory], dict[str, str]]:
        """The features of everything there is to see; the user's own are never stored."""
        theirs = [view for stretch in sights.sources for view in stretch.frames]
        known = {view.key for view in theirs}
        mine = [*(v for views in sights.earlier for v in views), *sights.film.frames]
        mine = [view for view in (*mine, *sights.pictures) if view.key not in known]
        between()
        memories, failed = self._looker.look(theirs, keep=True, between=between)
        more, failed_too = self._looker.look(mine, keep=False, between=between)
        return memories | more, failed | failed_too

    def _fitting(self, context: Context, sights: Sights) -> tuple[EvidencePrompt, Prompt]:
        """What the model has positions for: half of them for the user's video at most, three
        quarters with the conversation so far, and then as many sources as fit, the best first.
        """
        room = self._positions - self._sampling_for(context.question).max_new_tokens

        def laid_out(sources: int, turns: int, step: int) -> tuple[EvidencePrompt, Prompt]:
            laid = lay_out(context, sights, sources, turns=turns, step=step)
            return laid, laid.prompt(self.processor)

        def size(sources: int, turns: int, step: int) -> int:
            return laid_out(sources, turns, step)[1].positions

        turns, step = len(context.question.history), 1
        while step < len(sights.film.frames) and size(0, 0, step) > room // 2:
            step *= 2
        while turns and size(0, turns, step) > room * 3 // 4:
            turns -= 1
        needed = size(0, turns, step)
        if needed > room:
            raise InvalidQuestion(
                f"the question needs {needed} tokens; {self.name} has room for {room}. Shorten it."
            )
        whole = laid_out(len(context.sources), turns, step)
        if whole[1].positions <= room:
            return whole
        fits, too_many = 0, len(context.sources)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if size(middle, turns, step) <= room:
                fits = middle
            else:
                too_many = middle
        return laid_out(fits, turns, step)

    def _sampling_for(self, question: Question) -> Sampling:
        most = min(self._sampling.max_new_tokens, self._positions // 2)
        return replace(
            self._sampling,
            max_new_tokens=max(1, min(most, question.max_tokens or most)),
            seed=question.seed if question.seed is not None else self._sampling.seed,
        )

    # --- the draft --------------------------------------------------------------------------

    def _draft(
        self,
        text: TextStream,
        record: Record,
        laid: EvidencePrompt,
        prompt: Prompt,
    ) -> Draft:
        said = text.text
        if not said.strip():
            return Draft(said + ABSTENTION, abstained=True, model=self.name)
        if is_abstention(said):
            return Draft(said, abstained=True, model=self.name)
        grounds: list[Attribution | Moment] = []
        for start, end, marked in statements(said, laid.shown):
            tokens = tokens_of(text.ends, start, end)
            if len(tokens):
                grounds += Drawn(record, tokens, laid, prompt).rests_on(start, end, marked)
        return Draft(
            said,
            tuple(ground for ground in grounds if isinstance(ground, Attribution)),
            model=self.name,
            moments=tuple(ground for ground in grounds if isinstance(ground, Moment)),
        )


def _check_question(sights: Sights, failed: dict[str, str]) -> None:
    """What the user shows must be readable. Raises InvalidQuestion."""
    for view in sights.pictures:
        if view.key in failed:
            raise InvalidQuestion(f"a picture of the question: {failed[view.key]}")
    film = sights.film.frames
    if film and all(frame.key in failed for frame in film):
        raise InvalidQuestion(f"the video of the question: {failed[film[0].key]}")


def _left_out(
    context: Context, sights: Sights, laid: EvidencePrompt, failed: dict[str, str]
) -> Iterable[str]:
    """Ids of the sources that were not shown, or not with all that they have to show."""
    for number, (found, stretch) in enumerate(zip(context.sources, sights.sources, strict=True)):
        if number >= laid.shown or any(view.key in failed for view in stretch.frames):
            yield found.item.id


def _notes(
    context: Context, sights: Sights, laid: EvidencePrompt, failed: dict[str, str], seconds: float
) -> Iterator[str]:
    for number, stretch in enumerate(sights.sources[: laid.shown]):
        bad = [failed[view.key] for view in stretch.frames if view.key in failed]
        if bad:
            what = "The picture" if stretch.frames[0].seconds is None else "A part"
            of = f"of [{number + 1}] {context.sources[number].item.title!r}"
            yield f"{what} {of} could not be read and was left out: {bad[0]}."
    if any(view.key in failed for views in sights.earlier for view in views):
        yield "A picture of an earlier question is gone and was left out."
    unread = sum(frame.key in failed for frame in sights.film.frames)
    if unread:
        yield f"{unread} frames of your video could not be read."
    shown = len(laid.film.frames)
    if sights.film.frames and shown < int(seconds):
        yield f"Your video of {seconds:.0f} s was shown as {shown} frames."
    turns = len(context.question.history) - len(laid.turns) // 2
    if turns:
        yield f"The conversation's first {turns} questions did not fit any more."
