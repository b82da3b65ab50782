"""Models that run here as answerers: a context in, a draft with its own attributions out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from torch import Tensor

from rag_owl.errors import InvalidQuestion, OutOfMemory
from rag_owl.model.drawn import Drawn, Record, tokens_of
from rag_owl.model.evidence_prompt import ONE_SIZE, EvidencePrompt, How, Sights, Spot, View
from rag_owl.model.fitting import Family, fit, without_source
from rag_owl.model.looking import UNREADABLE, Looker
from rag_owl.model.notes import check_question, left_out, notes
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.tokenizer import Decoder, TextStream
from rag_owl.model.prompting import ManySizes, Processor, Prompt, Size, TextTokenizer
from rag_owl.model.statements import ABSTENTION, is_abstention, statements
from rag_owl.types import Attribution, Context, Draft, Moment, Question, Usage

log = logging.getLogger(__name__)

FRAMES = 64  # of the films of one question, unless told otherwise
MOST_FRAMES = 400

OnText = Callable[[str], None]
Shown: TypeAlias = tuple[Prompt, Sequence[VisualMemory]]
"""A prompt, and what is remembered of each of its pictures."""


class Words(Decoder, TextTokenizer, Protocol):
    """A family's tokenizer."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a question was turned into."""

    laid: EvidencePrompt
    prompt: Prompt
    memories: tuple[VisualMemory, ...]  # of the prompt's pictures, in order
    sights: Sights
    failed: dict[str, str]  # views that cannot be read, and why
    seconds: float  # of the user's video


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
        tokenizer: Words,
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
        self._many = processor if isinstance(processor, ManySizes) else None
        self._finest = self._many.finest if self._many is not None else ONE_SIZE

    def _run(
        self, prompt: Prompt, memories: Sequence[VisualMemory], sampling: Sampling
    ) -> tuple[Generator[int | None, None, None], Record]:
        """The answer's tokens as they come, None now and then while there is none, and where the
        model looked when it chose each of them. memories: one for each picture of the prompt.
        """
        raise NotImplementedError

    def answer(self, context: Context, on_text: OnText | None = None) -> Draft:
        """on_text is called in this thread, with an empty text while there is none; what it
        raises ends the answer.

        Raises InvalidQuestion: a picture or video of the user's that cannot be read, or a question
        too long for the model even without evidence. Raises OutOfMemory.
        """
        say = on_text or (lambda _: None)
        seen = self._see(context, lambda: say(""))
        laid, prompt = seen.laid, seen.prompt
        coming, record = self._run(prompt, seen.memories, self._sampling_for(context.question))
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
            left_out=tuple(left_out(context, seen.sights, laid, seen.failed)),
            notes=tuple(notes(context, seen.sights, laid, seen.failed, seen.seconds)),
        )

    def ablate(self, context: Context, draft: Draft) -> list[float | None]:
        """Implements `rag_owl.ports.Ablator`. The same prompt, in which one item is passed over;
        the others keep their numbers. Raises as `answer` does.
        """
        seen = self._see(context, lambda: None)
        memories = dict(zip((view.key for view in seen.laid.views), seen.memories, strict=True))
        prompts: list[Shown] = [(seen.prompt, seen.memories)]
        row: dict[int, int] = {}
        for source in sorted({each.source for each in draft.attributions}):
            if source < seen.laid.shown:
                laid = without_source(context, seen.laid, source)
                shown = tuple(memories[view.key] for view in laid.views)
                row[source] = len(prompts)
                prompts.append((laid.prompt(self.processor), shown))
        if not row:
            return [None] * len(draft.attributions)
        ids, spans = self._tokenizer.encode_with_offsets(draft.text)
        likely = self._likely(prompts, ids)  # (prompts, tokens)
        ends = [end for _, end in spans]
        drops: list[float | None] = []
        for each in draft.attributions:
            tokens = tokens_of(ends, each.start, each.end)
            span, less = slice(tokens.start, tokens.stop), row.get(each.source)
            drop = None if less is None else float((likely[0, span] - likely[less, span]).sum())
            drops.append(drop)
        return drops

    def _likely(self, prompts: Sequence[Shown], answer: Sequence[int]) -> Tensor:
        """The log-probability (nats) of each of the answer's tokens under each prompt, (prompts,
        tokens), on the CPU. Raises OutOfMemory.
        """
        raise NotImplementedError

    def tokens(self, context: Context, count: int) -> Generator[int | None, None, int]:
        """`count` tokens of an answer, whatever they say, and None as `_run` gives it; returns
        the prompt's positions. For measuring.
        """
        seen = self._see(context, lambda: None)
        sampling = replace(self._sampling, max_new_tokens=count, stop_ids=())
        coming, _ = self._run(seen.prompt, seen.memories, sampling)
        yield from coming
        return seen.prompt.positions

    def remember_picture(self, key: str) -> bool:
        """Encode a picture of the blob store ahead of any question, where a store is given.

        True: its features are stored now. What cannot be read or does not fit is not stored, and
        a question says so when it comes to that.
        """
        features = self._looker.features
        if features is None:
            return False
        view = View.picture(key, self._finest.source, self._finest.source_least)
        try:
            self._looker.look([view], keep=True)
        except OutOfMemory as error:
            log.warning("%s", error)  # no reason to end the job that indexes it
        return features.get(self._looker.identity, view.key) is not None

    # --- before the first token -------------------------------------------------------------

    def _see(self, context: Context, between: Callable[[], None]) -> Seen:
        """Look at all there is to see, and lay out as much of it as the model has room for."""
        seconds = self._film_seconds(context.question)
        sights = Sights.of(context, seconds, self._most_frames, self._finest)
        memories, failed = self._look(sights, between)
        check_question(sights, failed)
        while True:
            seen = [view for view in sights.views() if view.key in memories]
            how = self._how({view.spot: memories[view.key].sizes or () for view in seen})
            laid, prompt = self._fitting(context, sights.without(failed), how)
            smaller = [view for view in laid.views if view.key not in memories]
            if not smaller:
                shown = tuple(memories[view.key] for view in laid.views)
                return Seen(laid, prompt, shown, sights, failed, seconds)
            memories, failed = self._look_again(sights, smaller, memories, failed, between)

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

    def _look_again(
        self,
        sights: Sights,
        smaller: list[View],
        memories: dict[str, VisualMemory],
        failed: dict[str, str],
        between: Callable[[], None],
    ) -> tuple[dict[str, VisualMemory], dict[str, str]]:
        """At what is shown smaller than usual; what is gone meanwhile counts as never seen."""
        theirs = {view.spot for stretch in sights.sources for view in stretch.frames}
        memories, failed = dict(memories), dict(failed)
        for keep in (True, False):
            views = [view for view in smaller if (view.spot in theirs) == keep]
            more, gone = self._looker.look(views, keep=keep, between=between)
            memories |= more
            spots = {view.spot: gone[view.key] for view in views if view.key in gone}
            failed |= {v.key: spots[v.spot] for v in sights.views() if v.spot in spots}
        check_question(sights, failed)
        return memories, failed

    def _how(self, memories: Mapping[Spot, Sequence[Size]]) -> How | None:
        """What stands in the text for a view, where that depends on the picture's size."""
        many = self._many
        if many is None:
            return None
        return lambda view: many.shown(memories[view.spot][0], view.most, view.least)

    def _fitting(
        self, context: Context, sights: Sights, how: How | None = None
    ) -> tuple[EvidencePrompt, Prompt]:
        """As much of the context as the model has positions for. Raises InvalidQuestion."""
        room = self._positions - self._sampling_for(context.question).max_new_tokens
        lesser = self._many.lesser if self._many is not None else None
        family = Family(self.processor, how, self._finest.paired, lesser)
        return fit(context, sights, family, room, self.name)

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
