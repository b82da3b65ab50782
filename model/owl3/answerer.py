"""mPLUG-Owl3 as an answerer: a context in, a draft with its own attributions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rag_owl.errors import InvalidQuestion, NotFound, UnreadableMedia
from rag_owl.media import decode_picture
from rag_owl.model.attribution import AttentionRecord, region
from rag_owl.model.owl3.engine import Engine
from rag_owl.model.owl3.evidence_prompt import (
    EvidencePrompt,
    Frames,
    View,
    lay_out,
)
from rag_owl.model.owl3.features import AT_ONCE, FeatureStore
from rag_owl.model.owl3.generate import Request, run
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.model import Owl3
from rag_owl.model.owl3.processor import Owl3Processor, Prompt
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer, TextStream
from rag_owl.model.statements import ABSTENTION, is_abstention, statements
from rag_owl.ports import BlobStore
from rag_owl.types import Attribution, Box, Context, Draft

# Without a marker, a statement is laid to the source that drew most attention, if it drew this
# share of what all sources drew.
LEAST_SHARE = 0.3


class Owl3Answerer:
    """Implements `rag_owl.ports.Answerer`.

    With an engine it may be asked from several threads at once, without one from one thread only.
    """

    def __init__(
        self,
        model: Owl3,
        tokenizer: Owl3Tokenizer,
        blobs: BlobStore,
        features: FeatureStore | None = None,
        *,
        name: str = "owl3",
        sampling: Sampling | None = None,
        frames: Frames | None = None,
        most_frames: int = 16,
        engine: Engine | None = None,
    ) -> None:
        """engine: where requests of several threads share one batch; None: one at a time.
        features: where pictures of the collection are remembered; None: nowhere.
        frames: how a stretch of video becomes frames; None: a video item shows its one picture.
        """
        self.name = name
        self.model = model
        self.processor = Owl3Processor.of(tokenizer, model.config)
        self._blobs = blobs
        self._features = features
        self._sampling = sampling or Sampling(max_new_tokens=512)
        if self._sampling.stop_ids is None and not model.config.eos_token_ids:
            stop = (tokenizer.turn_end, tokenizer.end_of_text)
            self._sampling = replace(self._sampling, stop_ids=stop)
        self._frames = frames
        self._most_frames = most_frames
        self._engine = engine

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
        rows: int = 0,
        **more: Any,
    ) -> Owl3Answerer:
        """From a model folder or hub id; with `rows`, that many requests share a batch.

        Raises ModelNotFound, InvalidCheckpoint, InvalidSettings.
        """
        from rag_owl.model.owl3.checkpoint import find_folder

        folder = find_folder(name)
        tokenizer = Owl3Tokenizer.load(folder)
        model = Owl3.from_pretrained(folder, device_map=device_map, dtype=dtype, quantize=quantize)
        engine = Engine(model, rows) if rows else None
        return cls(model, tokenizer, blobs, features, name=Path(name).name, engine=engine, **more)

    def close(self) -> None:
        """Stop the engine, where there is one."""
        if self._engine is not None:
            self._engine.close()

    def answer(self, context: Context, on_text: Callable[[str], None] | None = None) -> Draft:
        """Raises InvalidQuestion: a picture of the user's that cannot be read, or a question too
        long for the model even without evidence. Raises OutOfMemory.
        """
        laid, prompt = self._fitting(context)
        encode = partial(self._remember, laid)
        memory = self._engine.call(encode) if self._engine is not None else encode()
        request = Request(
            prompt.input_ids, memory, prompt.image_starts, self._sampling, attention=True
        )
        text = TextStream(self.processor.tokenizer)

        def hear(token: int) -> None:
            new = text.add(token)
            if new and on_text:
                on_text(new)

        request.on_token = hear
        if self._engine is not None:
            self._engine.run(request)
        else:
            run(self.model, [request])
        rest = text.finish()
        if rest and on_text:
            on_text(rest)
        return self._draft(text, request.attention, laid, prompt, on_text)

    def remember_picture(self, key: str) -> bool:
        """Encode a picture of the blob store ahead of any question, where a store is given.

        True: its features are stored now. Raises UnreadableMedia, NotFound.
        """
        if self._features is None:
            return False
        store = partial(
            self._features.remember, self.model, [key], lambda _: self._pixels([View(key, key)])
        )
        if self._engine is not None:
            self._engine.call(store)
        else:
            store()
        return self._features.get(self.model.memory_identity, key) is not None

    # --- the prompt -------------------------------------------------------------------------

    def _fitting(self, context: Context) -> tuple[EvidencePrompt, Prompt]:
        """As many sources as the model has positions for, the best first."""
        room = self.model.config.max_position_embeddings - self._sampling.max_new_tokens
        context = self._readable(context)
        for sources in range(len(context.sources), -1, -1):
            laid = lay_out(context, sources, frames=self._frames, most_frames=self._most_frames)
            prompt = laid.prompt(self.processor)
            if len(prompt.input_ids) <= room:
                return laid, prompt
        raise InvalidQuestion(
            f"the question needs {len(prompt.input_ids)} tokens; {self.name} has room for {room}. "
            "Shorten it."
        )

    def _readable(self, context: Context) -> Context:
        """Items whose picture is gone keep their text; a user's picture must be readable."""
        for key in context.question.pictures:
            try:
                decode_picture(self._blobs.get(key))
            except (UnreadableMedia, NotFound) as error:
                raise InvalidQuestion(f"a picture of the question: {error}") from error
        sources = []
        for found in context.sources:
            picture = found.item.picture
            if picture is not None and not self._blobs.exists(picture):
                found = replace(found, item=replace(found.item, picture=None))
            sources.append(found)
        return replace(context, sources=tuple(sources))

    @torch.no_grad()
    def _remember(self, laid: EvidencePrompt) -> VisualMemory | None:
        """The features of all pictures of the prompt; the user's own are never stored."""
        theirs = [v for v, s in zip(laid.views, laid.source_of_view, strict=True) if s is not None]
        mine = laid.views[len(theirs) :]  # they stand behind the evidence
        pieces = []
        if theirs and self._features is not None:
            pieces.append(
                self._features.remember(
                    self.model,
                    [view.key for view in theirs],
                    lambda places: self._pixels([theirs[i] for i in places]),
                )
            )
            theirs = []
        rest = theirs + mine
        pieces += [
            self.model.remember(self._pixels(some), ids=[view.key for view in some])
            for some in (rest[i : i + AT_ONCE] for i in range(0, len(rest), AT_ONCE))
        ]
        return VisualMemory.cat(pieces) if pieces else None

    def _pixels(self, views: Sequence[View]) -> Tensor:
        return self.processor.pixels(
            [view.frame or decode_picture(self._blobs.get(view.blob)) for view in views]
        )

    # --- the draft --------------------------------------------------------------------------

    def _draft(
        self,
        text: TextStream,
        record: AttentionRecord | None,
        laid: EvidencePrompt,
        prompt: Prompt,
        on_text: Callable[[str], None] | None,
    ) -> Draft:
        said = text.text
        if not said.strip():
            if on_text:
                on_text(ABSTENTION)
            return Draft(said + ABSTENTION, abstained=True, model=self.name)
        if is_abstention(said):
            return Draft(said, abstained=True, model=self.name)
        assert record is not None
        attributions = []
        for start, end, marked in statements(said, laid.shown):
            tokens = _tokens(text.ends, start, end)
            if not len(tokens):
                continue
            drawn = _Drawn(record, tokens, laid, prompt)
            shares = drawn.shares()
            best = max(range(len(shares)), key=shares.__getitem__, default=None)
            sources = list(marked)
            if not sources and best is not None and shares[best] >= LEAST_SHARE:
                sources = [best]
            for source in sources:
                ground = drawn.ground(source)
                attributions.append(
                    Attribution(
                        start,
                        end,
                        source,
                        item_start=ground[0] if ground else None,
                        item_end=ground[1] if ground else None,
                        attention=shares[source],
                        box=drawn.box(source),
                    )
                )
        return Draft(said, tuple(attributions), model=self.name)


class _Drawn:
    """What attention some tokens of the answer paid to each source."""

    def __init__(
        self, record: AttentionRecord, tokens: range, laid: EvidencePrompt, prompt: Prompt
    ) -> None:
        self.laid = laid
        self.patches = record.patch_mass(tokens, len(laid.views))  # (N, P)
        spans = [prompt.spans[ground.part] for ground in laid.grounds]
        self.text = record.text_mass(tokens, spans)

    def shares(self) -> list[float]:
        """Of the attention that all sources drew, what each drew."""
        mass = [0.0] * self.laid.shown
        for source, picture in zip(self.laid.source_of_view, self.patches, strict=True):
            if source is not None:
                mass[source] += float(picture.sum())
        for ground, drawn in zip(self.laid.grounds, self.text, strict=True):
            mass[ground.source] += drawn
        total = sum(mass)
        return [m / total if total else 0.0 for m in mass]

    def ground(self, source: int) -> tuple[int, int] | None:
        """The sentence of a source's text that drew most."""
        mine = [
            (drawn, ground.start, ground.end)
            for ground, drawn in zip(self.laid.grounds, self.text, strict=True)
            if ground.source == source
        ]
        return max(mine)[1:] if mine else None

    def box(self, source: int) -> Box | None:
        """Where in a source's one picture; of several (a video) none is the place."""
        views = [i for i, s in enumerate(self.laid.source_of_view) if s == source]
        if len(views) != 1 or self.patches.shape[1] == 0:
            return None
        return region(self.patches[views[0]])


def _tokens(ends: list[int], start: int, end: int) -> range:
    """The tokens whose text lies in [start, end): `ends[i]` is what stood after token i."""
    first = next((i for i, e in enumerate(ends) if e > start), len(ends))
    last = next((i for i, e in enumerate(ends) if e >= end), len(ends) - 1)
    return range(first, last + 1)
