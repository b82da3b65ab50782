"""What models have in common whose pictures stand among the words of the sequence.

A picture becomes P vectors of the language model's width, which depend on nothing but the picture,
so they are computed once and kept (`remember`), as mPLUG-Owl3's features are.

    B batch, T ids, t positions after pictures took their places, N pictures, P vectors of each,
    D the language model's width, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rag_owl.errors import InvalidCheckpoint, InvalidInput
from rag_owl.loading import ONE_AT_A_TIME
from rag_owl.model import checkpoint, placement
from rag_owl.model.check import NAMES, Family
from rag_owl.model.owl3.memory import (
    MemoryIdentity,
    VisualMemory,
    check_identity,
    fingerprint,
    new_ids,
)
from rag_owl.model.prompting import Clip, Prompt, Shown, Size
from rag_owl.model.spliced.attention import WATCHED, Watcher
from rag_owl.model.thin_linear import thin

PICTURES_AT_ONCE = 8  # through the vision tower


class Spliced(nn.Module):
    """The base: a family builds its parts in `_build` and says how pictures become vectors."""

    family: Family
    language_model: Any  # transformers' causal language model
    image_size: int
    vectors: int  # of one picture or tile, P
    eos_token_ids: tuple[int, ...] = ()
    max_positions: int = 0

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | dict[str, Any] | None = None,
        quantize: str | None = None,
    ) -> Self:
        """Load a published checkpoint: a folder or hub id. Nothing that comes with it is run.

        dtype: None: as its config.json says, or else as its weights are stored.
        Raises ModelNotFound, InvalidSettings; InvalidCheckpoint with the list of what does not fit.
        """
        folder = checkpoint.find_folder(name)
        raw = checkpoint.read_json(folder / "config.json")
        found = dict(checkpoint.read_tensors(checkpoint.weight_files(folder)))
        device = placement.device_of(device_map)
        stated = dtype or raw.get("torch_dtype") or raw.get("dtype") or checkpoint.stored_in(found)
        wanted = placement.dtype_of(stated)
        with checkpoint.built_from(folder, NAMES[cls.family]):
            tensors = cls._renamed(found, raw)
            with ONE_AT_A_TIME, torch.device("meta"):
                model = cls(raw, tensors)
            tied = {"language_model.lm_head.weight"} if model._tied() else set()
            checkpoint.assign(model, tensors, optional=frozenset(tied))
            model.tie()
            model._make_tables(torch.device("cpu"))  # nothing is left without memory
        nn.Module.to(model, dtype=wanted)
        if quantize is not None:
            placement.quantize(model.text_model, quantize, device)
        nn.Module.to(model, device=device)
        model._make_tables(device)  # and none of them narrow
        return model.eval()

    def __init__(self, raw: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self._identity: tuple[tuple[object, ...], MemoryIdentity] | None = None
        self.pictures_seen = 0
        self._build(raw, tensors)
        thin(self)
        config = self.text_model.config
        config._attn_implementation = WATCHED
        self.eos_token_ids = _ids(config.eos_token_id)
        limits = self._position_limits(raw)
        for name, most in limits.items():
            if most < 1:
                raise InvalidCheckpoint(f"{name} {most} in config.json.")
        self.max_positions = min(limits.values())

    # --- what a family says -----------------------------------------------------------------

    def _build(self, raw: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        raise NotImplementedError

    @staticmethod
    def _renamed(tensors: dict[str, Tensor], raw: dict[str, Any]) -> dict[str, Tensor]:
        """The checkpoint's tensors under the names of this module's; those never used left out."""
        raise NotImplementedError

    def _position_limits(self, raw: dict[str, Any]) -> dict[str, int]:
        """How many positions it has, by what config.json calls them; the least of them counts."""
        return {"max_position_embeddings": int(self.text_model.config.max_position_embeddings)}

    def _vision_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        """All that features depend on."""
        raise NotImplementedError

    def encode(self, pixel_values: Tensor, trace: dict[str, Tensor] | None = None) -> Tensor:
        """(N, 3, S, S) -> (N, P, D)."""
        raise NotImplementedError

    def splice(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        """One row: ids (T,) with the family's placeholders, features (n, P, D) -> (t, D).

        Raises InvalidInput: placeholders and pictures that differ in number.
        """
        raise NotImplementedError

    def pictures_in(self, input_ids: Tensor) -> int:
        """How many pictures (of Ovis: tiles) a row's placeholders stand for."""
        raise NotImplementedError

    def runs_together(self, input_ids: Tensor) -> bool:
        """Whether pictures follow one another in a way that the published code cannot read."""
        return False

    @property
    def text_model(self) -> Any:
        """The language model without its head."""
        return self.language_model.model

    def begin(
        self, prompt: Prompt, memories: Sequence[VisualMemory]
    ) -> tuple[Tensor, Tensor | None]:
        """One row as `stream_embeds` takes it: embeddings (1, t, D) and positions, where they are
        not 0, 1, 2, …; one memory for each picture of the prompt. Raises InvalidInput.
        """
        memory = VisualMemory.cat(memories) if memories else None
        return self.embed(prompt.tensor(), memory)[0], None

    def patch_map(self, mass: Tensor, shown: Shown | Clip, size: Size | None) -> Tensor | None:
        """mass (t,) on a picture's place in the sequence -> how it lies over the upright picture,
        (rows, columns); None where parts of the place have no place in the picture.
        """
        return None

    @property
    def scale(self) -> Tensor:
        """What the language model multiplies embeddings by."""
        return torch.ones((), dtype=self.dtype, device=self.device)

    @property
    def preprocessing(self) -> str:
        raise NotImplementedError

    def _make_tables(self, device: torch.device) -> None:
        """What no checkpoint holds, made where and as wide as it must be."""
        text = self.text_model
        text.rotary_emb = type(text.rotary_emb)(text.config).to(device)

    def tie(self) -> None:
        """Words that are written with the weights that they are read with, where it is so."""
        if self._tied():
            self.language_model.lm_head.weight = self.text_model.embed_tokens.weight

    def _tied(self) -> bool:
        return bool(self.language_model.config.tie_word_embeddings)

    # --- pictures -----------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        weight: Tensor = self.text_model.norm.weight
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        weight: Tensor = self.text_model.norm.weight
        return weight.dtype

    @property
    def memory_identity(self) -> MemoryIdentity:
        """What features depend on. Taken again after the weights changed."""
        weights: list[Tensor] = []
        for part in self._vision_parts():
            weights += list(part.parameters()) if isinstance(part, nn.Module) else [part]
        state = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if self._identity is None or self._identity[0] != state:
            # Without names, as what is stored already was made.
            name = f"{self.family}-{fingerprint(self.family, (('', w) for w in weights))}"
            self._identity = (state, MemoryIdentity(name, self.preprocessing))
        return self._identity[1]

    def remember(self, pixel_values: Tensor, ids: Sequence[str] | None = None) -> VisualMemory:
        """Encode pictures once: (N, 3, S, S) -> a memory of N pictures. Raises InvalidInput."""
        S = self.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, S, S):
            raise InvalidInput(
                f"pixel_values must be (N, 3, {S}, {S}), not {tuple(pixel_values.shape)}."
            )
        with placement.memory_guard(f"{len(pixel_values)} pictures"):
            pieces = [
                self.encode(pixel_values[i : i + PICTURES_AT_ONCE].to(self.device, self.dtype))
                for i in range(0, len(pixel_values), PICTURES_AT_ONCE)
            ]
            features = torch.cat(pieces)
        self.pictures_seen += len(pixel_values)
        return VisualMemory(
            features, self.memory_identity, tuple(ids or new_ids(len(pixel_values)))
        )

    # --- running ------------------------------------------------------------------------------

    def embed(
        self,
        input_ids: Tensor,
        memory: VisualMemory | None = None,
        pictures_per_row: Sequence[int] | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """ids (B, T), right-padded -> embeddings (B, t, D) and mask (B, t), padded with zeros.

        `memory` is flat over the rows' pictures, in order. Raises InvalidInput.
        """
        if input_ids.dim() != 2 or 0 in input_ids.shape:
            raise InvalidInput(f"input_ids must be (B, T) and not empty: {tuple(input_ids.shape)}.")
        features = None
        if memory is not None:
            check_identity(memory.identity, self.memory_identity, "the visual memory")
            features = memory.dense(self.device, self.dtype)
        B = input_ids.shape[0]
        held = 0 if features is None else len(features)
        counts = list(pictures_per_row) if pictures_per_row is not None else None
        if counts is None:
            if B > 1 and held:
                raise InvalidInput("say with pictures_per_row whose the pictures are.")
            counts = [held] + [0] * (B - 1)
        if len(counts) != B or sum(counts) != held:
            raise InvalidInput(f"pictures_per_row {counts} for {B} rows and {held} pictures.")
        rows, first = [], 0
        for row, count in enumerate(counts):
            ids = input_ids[row]
            if attention_mask is not None:
                ids = ids[attention_mask[row].bool()]
            mine = features[first : first + count] if features is not None and count else None
            rows.append(self.splice(ids.to(self.device), mine))
            first += count
        longest = max(len(row) for row in rows)
        if longest > self.max_positions:
            raise InvalidInput(
                f"a row of {longest} positions; this model has {self.max_positions}. "
                "Shorten the prompt or show fewer pictures."
            )
        mask = torch.zeros(B, longest, dtype=torch.long, device=self.device)
        for i, embeds in enumerate(rows):
            mask[i, : len(embeds)] = 1
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), mask

    def forward(
        self,
        input_ids: Tensor,
        memory: VisualMemory | None = None,
        pictures_per_row: Sequence[int] | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T) as `embed` takes them -> logits (B, t, V) in float32.

        Logits at padding mean nothing. Raises InvalidInput, OutOfMemory.
        """
        with placement.memory_guard(f"{tuple(input_ids.shape)} tokens"):
            embeds, mask = self.embed(input_ids, memory, pictures_per_row, attention_mask)
            out = self.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
            logits: Tensor = out.logits
            return logits.float()

    def step(
        self,
        embeds: Tensor,
        cache: DynamicCache | None = None,
        watcher: Watcher | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, DynamicCache]:
        """One row goes on by (1, t, D) -> the logits of its last position (V,), and the cache.

        positions: as `begin` gives them, where it does.
        """
        with placement.memory_guard(f"{embeds.shape[1]} positions"):
            if cache is None:
                cache = DynamicCache(config=self.text_model.config)
            out = self.language_model(
                inputs_embeds=embeds,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                watcher=watcher,
            )
        if watcher is not None:
            watcher.finish()
        logits: Tensor = out.logits[0, -1].float()
        return logits, cache

    def likely(self, embeds: Tensor, answer: Tensor, positions: Tensor | None = None) -> Tensor:
        """Log-probabilities of an answer's ids (1, n) behind a prompt (1, t, D) -> (1, n), float32.

        positions: as `begin` gives them. Raises OutOfMemory.
        """
        count = answer.shape[1]
        whole = torch.cat([embeds, self.text_model.embed_tokens(answer)], dim=1)
        if positions is not None:
            after = positions.max() + 1 + torch.arange(count, device=positions.device)
            positions = torch.cat([positions, after.expand(len(positions), 1, -1)], dim=2)
        with placement.memory_guard(f"{whole.shape[1]} positions"):
            out = self.language_model(
                inputs_embeds=whole,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=count + 1,
            )
            ahead = out.logits[:, :-1].float().log_softmax(dim=-1)  # (1, n, V)
        chosen: Tensor = ahead.gather(-1, answer[..., None])[..., 0]
        return chosen


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (int(value),)
