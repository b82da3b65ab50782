"""mPLUG-Owl3 as an answerer: a context in, a draft with its own attributions out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag_owl.errors import InvalidQuestion, OutOfMemory
from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.model.attribution import AttentionRecord
from rag_owl.model.owl3.drawn import Drawn, tokens_of
from rag_owl.model.owl3.engine import Engine
from rag_owl.model.owl3.evidence_prompt import EvidencePrompt, Sights, View, lay_out
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.generate import Request, stream
from rag_owl.model.owl3.looking import UNREADABLE, Looker
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.model import Owl3
from rag_owl.model.owl3.processor import Owl3Processor
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer, TextStream
from rag_owl.model.prompting import Prompt
from rag_owl.model.statements import ABSTENTION, is_abstention, statements
from rag_owl.ports import BlobStore
from rag_owl.types import Attribution, Context, Draft, Moment, Question, Usage

log = logging.getLogger(__name__)

FRAMES = 64  # of the films of one question, unless told otherwise
MOST_FRAMES = 400

OnText = Callable[[str], None]


class Owl3Answerer:
    """Implements `rag_owl.ports.Answerer`, `Rememberer` and `Watcher`.

    With an engine it may be asked from several threads at once, without one from one thread only.
    """

    watches_video = True

    def __init__(
        self,
        model: Owl3,
        tokenizer: Owl3Tokenizer,
        blobs: BlobStore,
        features: FeatureStore | None = None,
        *,
        name: str = "owl3",
        sampling: Sampling | None = None,
        most_frames: int = FRAMES,
        engine: Engine | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """engine: where requests of several threads share one batch; None: one at a time.
        features: where pictures of the collection are remembered; None: nowhere.
        most_frames: of all films of a question together, at most 400.
        """
        self.name = name
        self.model = model
        self.processor = Owl3Processor.of(tokenizer, model.config)
        self._sampling = sampling or Sampling(max_new_tokens=512)
        if self._sampling.stop_ids is None and not model.config.eos_token_ids:
            stop = (tokenizer.turn_end, tokenizer.end_of_text)
            self._sampling = replace(self._sampling, stop_ids=stop)
        self._most_frames = min(most_frames, MOST_FRAMES)
        self._engine = engine
        call = engine.call if engine is not None else None
        self._looker = Looker(model, self.processor, blobs, features, call=call, limits=limits)

    @classmethod
    def load(
        cls,
        name: str,
        blobs: BlobStore,
        features: FeatureStore | None = None,
        *,
        device_map: str | None = "auto",
        dtype: str | None = None,
        quantize: str | None = None,
        cache_bytes: int | None = None,
        rows: int = 0,
        **more: Any,
    ) -> Owl3Answerer:
        """From a model folder or hub id; with `rows`, that many requests share a batch.

        cache_bytes: memory for the keys and values of hot pictures. Raises ModelNotFound,
        InvalidCheckpoint, InvalidSettings.
        """
        from rag_owl.model.checkpoint import find_folder

        folder = find_folder(name)
        tokenizer = Owl3Tokenizer.load(folder)
        model = Owl3.from_pretrained(folder, device_map=device_map, dtype=dtype, quantize=quantize)
        if cache_bytes is not None:
            model.picture_cache.max_bytes = cache_bytes
        engine = Engine(model, rows) if rows else None
        return cls(model, tokenizer, blobs, features, name=Path(name).name, engine=engine, **more)

    @property
    def at_once(self) -> int:
        """From how many threads it makes sense to ask at the same time."""
        return self._engine.max_rows if self._engine is not None else 1

    def close(self) -> None:
        """Stop the engine, where there is one."""
        if self._engine is not None:
            self._engine.close()

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
        request = Request(
            prompt.input_ids,
            memory,
            prompt.image_starts,
            self._sampling_for(context.question),
            attention=True,
        )
        text = TextStream(self.processor.tokenizer)
        with closing(self._tokens(request)) as tokens:
            for token in tokens:
                new = text.add(token) if token is not None else ""
                if new or token is None:
                    say(new)
        if rest := text.finish():
            say(rest)
        if not text.text.strip():
            say(ABSTENTION)
        return replace(
            self._draft(text, request.attention, laid, prompt),
            usage=Usage(len(prompt.input_ids), len(request.tokens)),
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
        return features.get(self.model.memory_identity, key) is not None

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
        room = self.model.config.max_position_embeddings
        room -= self._sampling_for(context.question).max_new_tokens

        def laid_out(sources: int, turns: int, step: int) -> tuple[EvidencePrompt, Prompt]:
            laid = lay_out(context, sights, sources, turns=turns, step=step)
            return laid, laid.prompt(self.processor)

        def size(sources: int, turns: int, step: int) -> int:
            return len(laid_out(sources, turns, step)[1].input_ids)

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
        if len(whole[1].input_ids) <= room:
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
        most = self._sampling.max_new_tokens
        return replace(
            self._sampling,
            max_new_tokens=max(1, min(most, question.max_tokens or most)),
            seed=question.seed if question.seed is not None else self._sampling.seed,
        )

    def _tokens(self, request: Request) -> Generator[int | None, None, None]:
        """The answer's tokens as they come; None now and then while there is none."""
        if self._engine is not None:
            return self._engine.stream(request)
        return stream(self.model, request)

    # --- the draft --------------------------------------------------------------------------

    def _draft(
        self,
        text: TextStream,
        record: AttentionRecord | None,
        laid: EvidencePrompt,
        prompt: Prompt,
    ) -> Draft:
        said = text.text
        if not said.strip():
            return Draft(said + ABSTENTION, abstained=True, model=self.name)
        if is_abstention(said):
            return Draft(said, abstained=True, model=self.name)
        assert record is not None
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
