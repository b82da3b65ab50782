"""Models whose pictures stand in the sequence, as answerers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.model.checkpoint import find_folder
from rag_owl.model.drawn import Record
from rag_owl.model.local_answerer import FRAMES, LocalAnswerer, Shown
from rag_owl.model.looking import Looker
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.pixels import PIXELS, Pixels
from rag_owl.model.prompting import Clip, Prompt
from rag_owl.model.spliced.attention import Watcher
from rag_owl.model.spliced.families import FAMILIES
from rag_owl.model.spliced.generate import stream_embeds
from rag_owl.model.spliced.model import Spliced
from rag_owl.model.spliced.tokenizer import ModelTokenizer
from rag_owl.ports import BlobStore
from rag_owl.types import Context, Draft


class PlacesRecord:
    """Where the tokens looked, for pictures that have places of their own in the sequence."""

    def __init__(
        self, model: Spliced, watcher: Watcher, prompt: Prompt, memories: Sequence[VisualMemory]
    ) -> None:
        self._model = model
        self._tokens = watcher.tokens
        self._places = prompt.places
        self._shown = [
            shown
            for shown in prompt.visuals
            for _ in range(shown.frames if isinstance(shown, Clip) else 1)
        ]
        self._sizes = [memory.sizes[0] if memory.sizes else None for memory in memories]

    def picture_mass(self, tokens: range, pictures: int) -> Tensor:
        mean = self._mean(tokens)
        masses = [mean[a:b].sum() for a, b in self._places[:pictures]]
        return torch.stack(masses) if masses else torch.zeros(0)

    def patch_mass(self, tokens: range, pictures: int) -> list[Tensor]:
        mean = self._mean(tokens)
        maps = []
        for number in range(pictures):
            a, b = self._places[number]
            drawn = self._model.patch_map(mean[a:b], self._shown[number], self._sizes[number])
            maps.append(torch.zeros(0) if drawn is None else drawn)
        return maps

    def text_mass(self, tokens: range, spans: Sequence[tuple[int, int]]) -> list[float]:
        mean = self._mean(tokens)
        return [float(mean[a:b].sum()) for a, b in spans]

    def _mean(self, tokens: range) -> Tensor:
        """(S,) over the positions of the prompt."""
        here = min((len(self._tokens[i]) for i in tokens), default=0)
        total = torch.zeros(here)
        for i in tokens:
            total += self._tokens[i][:here].float().cpu()
        return total / max(1, len(tokens))


class SplicedAnswerer(LocalAnswerer):
    """One question at a time: further ones wait."""

    def __init__(
        self,
        model: Spliced,
        processor: Any,
        blobs: BlobStore,
        features: FeatureStore | None = None,
        *,
        name: str,
        sampling: Sampling | None = None,
        most_frames: int = FRAMES,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        looker = Looker(model, processor, blobs, features, limits=limits)
        sampling = sampling or Sampling(max_new_tokens=512)
        if sampling.stop_ids is None:
            stop = (*model.eos_token_ids, *getattr(processor, "stop_ids", ()))
            sampling = replace(sampling, stop_ids=stop)
        tokenizer = processor.tokenizer
        super().__init__(
            name, looker, processor, tokenizer, sampling, model.max_positions, most_frames
        )
        self.model = model
        self._turn = threading.Lock()

    @classmethod
    def load(
        cls,
        name: str,
        family: str,
        blobs: BlobStore,
        features: FeatureStore | None = None,
        *,
        device_map: str | None = "auto",
        dtype: str | None = None,
        quantize: str | None = None,
        pixels: Pixels = PIXELS,
        **more: Any,
    ) -> SplicedAnswerer:
        """From a model folder or hub id of one of `FAMILIES`. pixels: how large it is shown
        pictures, where its family knows more than one size.

        Raises ModelNotFound, InvalidCheckpoint, InvalidSettings.
        """
        folder = find_folder(name)
        facts = FAMILIES[family]
        tokenizer = ModelTokenizer.load(folder)
        model = facts.model().from_pretrained(
            folder, device_map=device_map, dtype=dtype, quantize=quantize
        )
        processor = facts.processor(model, tokenizer, folder, pixels)
        return cls(model, processor, blobs, features, name=Path(name).name, **more)

    def answer(self, context: Context, on_text: Callable[[str], None] | None = None) -> Draft:
        with self._turn:
            return super().answer(context, on_text)

    def remember_picture(self, key: str) -> bool:
        with self._turn:
            return super().remember_picture(key)

    def _run(
        self, prompt: Prompt, memories: Sequence[VisualMemory], sampling: Sampling
    ) -> tuple[Generator[int | None, None, None], Record]:
        watcher = Watcher()
        record = PlacesRecord(self.model, watcher, prompt, memories)
        with torch.no_grad():
            embeds, positions = self.model.begin(prompt, memories)
        coming = stream_embeds(self.model, prompt.input_ids, embeds, positions, sampling, watcher)
        return coming, record

    def ablate(self, context: Context, draft: Draft) -> list[float | None]:
        with self._turn:
            return super().ablate(context, draft)

    @torch.no_grad()
    def _likely(self, prompts: Sequence[Shown], answer: Sequence[int]) -> Tensor:
        ids = torch.tensor([list(answer)], dtype=torch.long, device=self.model.device)
        rows = []
        for prompt, memories in prompts:
            embeds, positions = self.model.begin(prompt, memories)
            rows.append(self.model.likely(embeds, ids, positions).cpu())
        return torch.cat(rows)
