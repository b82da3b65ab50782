"""mPLUG-Owl3 as an answerer."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.model.attribution import AttentionRecord
from rag_owl.model.checkpoint import find_folder
from rag_owl.model.drawn import Record
from rag_owl.model.local_answerer import FRAMES, LocalAnswerer, Shown
from rag_owl.model.looking import Looker
from rag_owl.model.owl3.ablation import log_probabilities
from rag_owl.model.owl3.engine import Engine
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.generate import Request, stream
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.model import Owl3
from rag_owl.model.owl3.processor import Owl3Processor
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer
from rag_owl.model.prompting import Prompt
from rag_owl.ports import BlobStore


class Owl3Answerer(LocalAnswerer):
    """With an engine it may be asked from several threads at once, without one from one thread."""

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
        """
        processor = Owl3Processor.of(tokenizer, model.config)
        sampling = sampling or Sampling(max_new_tokens=512)
        if sampling.stop_ids is None and not model.config.eos_token_ids:
            sampling = replace(sampling, stop_ids=(tokenizer.turn_end, tokenizer.end_of_text))
        call = engine.call if engine is not None else None
        looker = Looker(model, processor, blobs, features, call=call, limits=limits)
        positions = model.config.max_position_embeddings
        super().__init__(name, looker, processor, tokenizer, sampling, positions, most_frames)
        self.model = model
        self.at_once = engine.max_rows if engine is not None else 1
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
        cache_bytes: int | None = None,
        rows: int = 0,
        **more: Any,
    ) -> Owl3Answerer:
        """From a model folder or hub id; with `rows`, that many requests share a batch.

        cache_bytes: memory for the keys and values of hot pictures. Raises ModelNotFound,
        InvalidCheckpoint, InvalidSettings.
        """
        folder = find_folder(name)
        tokenizer = Owl3Tokenizer.load(folder)
        model = Owl3.from_pretrained(folder, device_map=device_map, dtype=dtype, quantize=quantize)
        if cache_bytes is not None:
            model.picture_cache.max_bytes = cache_bytes
        engine = Engine(model, rows) if rows else None
        return cls(model, tokenizer, blobs, features, name=Path(name).name, engine=engine, **more)

    def close(self) -> None:
        """Stop the engine, where there is one."""
        if self._engine is not None:
            self._engine.close()

    def _run(
        self, prompt: Prompt, memories: Sequence[VisualMemory], sampling: Sampling
    ) -> tuple[Generator[int | None, None, None], Record]:
        record = AttentionRecord()
        memory = VisualMemory.cat(memories) if memories else None
        request = Request(prompt.input_ids, memory, prompt.image_starts, sampling)
        request.attention = record
        if self._engine is not None:
            return self._engine.stream(request), record
        return stream(self.model, request), record

    def _likely(self, prompts: Sequence[Shown], answer: Sequence[int]) -> Tensor:
        rows = [(prompt, VisualMemory.cat(seen) if seen else None) for prompt, seen in prompts]
        work = partial(log_probabilities, self.model, rows, answer)
        return self._engine.call(work) if self._engine is not None else work()
