"""Qwen2-VL (Qwen/Qwen2-VL-2B-Instruct, -7B-Instruct), from its published checkpoint.

The networks are transformers' own (arXiv 2409.12191). Ours is what the family has in common with
the others: pictures are encoded once and kept, and what each word looked at is recorded. A picture
stands in the sequence as one pad id for each of its tokens, which its features replace; M-RoPE's
positions are transformers' (`get_rope_index`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from rag_owl.errors import InvalidCheckpoint, InvalidInput
from rag_owl.model import placement
from rag_owl.model.check import Family
from rag_owl.model.owl3.memory import VisualMemory, check_identity
from rag_owl.model.prompting import Clip, Piece, Prompt, Shown, Size
from rag_owl.model.spliced.attention import WATCHED
from rag_owl.model.spliced.model import Spliced

# Published names begin as they did before transformers nested them.
_OLD = re.compile(r"^(?:(visual)\.|model\.(?!visual\.|language_model\.))")


class Qwen2VL(Spliced):
    family: Family = "qwen2_vl"

    def _build(self, raw: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        kind = raw.get("model_type")
        if kind != "qwen2_vl":
            raise InvalidCheckpoint(f"model_type {kind!r} in config.json; Qwen2-VL has 'qwen2_vl'.")
        self.config = Qwen2VLConfig.from_dict(raw)
        self.language_model = Qwen2VLForConditionalGeneration(self.config)
        vision = self.config.vision_config
        vision._attn_implementation = "sdpa"
        self.config.text_config._attn_implementation = WATCHED
        self.merge = int(vision.spatial_merge_size)
        self.patch_width = (
            vision.in_channels * vision.temporal_patch_size * int(vision.patch_size) ** 2
        )

    @staticmethod
    def _renamed(tensors: dict[str, Tensor], raw: dict[str, Any]) -> dict[str, Tensor]:
        renamed = {}
        for name, tensor in tensors.items():
            if not name.endswith("rotary_emb.inv_freq"):
                nested = _OLD.sub(
                    lambda old: "model.visual." if old[1] else "model.language_model.", name
                )
                renamed[f"language_model.{nested}"] = tensor
        return renamed

    @property
    def text_model(self) -> Any:
        return self.language_model.model.language_model

    @property
    def _visual(self) -> Any:
        return self.language_model.model.visual

    def _vision_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        return [self._visual]

    def _tied(self) -> bool:
        return bool(self.config.tie_word_embeddings)

    def _make_tables(self, device: torch.device) -> None:
        super()._make_tables(device)
        visual = self._visual
        visual.rotary_pos_emb = type(visual.rotary_pos_emb)(visual.config).to(device)

    @property
    def preprocessing(self) -> str:
        return f"dynamic-bicubic-{self.config.vision_config.patch_size}"

    # --- pictures -------------------------------------------------------------------------------

    def remember_piece(self, piece: Piece, name: str) -> VisualMemory:
        """A picture's or two frames' patches (rows * columns * merge^2, width) -> a memory
        (1, rows * columns, D). Raises InvalidInput, OutOfMemory."""
        rows, columns = piece.shown.grid or (0, 0)
        expected = (rows * columns * self.merge**2, self.patch_width)
        if tuple(piece.pixels.shape) != expected:
            raise InvalidInput(f"patches must be {expected}, not {tuple(piece.pixels.shape)}.")
        grid = torch.tensor([[1, rows * self.merge, columns * self.merge]], device=self.device)
        with placement.memory_guard("a picture"):
            features = self.encode_patches(piece.pixels, grid)[None]
        self.pictures_seen += 1
        return VisualMemory(features, self.memory_identity, (name,), sizes=(piece.size,))

    def encode_patches(self, patches: Tensor, grids: Tensor) -> Tensor:
        """Patches of pictures and videos one behind the other, their grids (n, 3) -> (t, D)."""
        seen = self._visual(patches.to(self.device, self.dtype), grid_thw=grids.to(self.device))
        features: Tensor = seen.pooler_output
        return features

    # --- running --------------------------------------------------------------------------------

    def begin(
        self, prompt: Prompt, memories: Sequence[VisualMemory]
    ) -> tuple[Tensor, Tensor | None]:
        ids = prompt.tensor().to(self.device)
        for memory in memories:
            check_identity(memory.identity, self.memory_identity, "the visual memory")
        features = [memory.dense(self.device, self.dtype)[0] for memory in memories]
        return self.embedded(ids, features, *self._grids(prompt.visuals))

    def embedded(
        self, ids: Tensor, features: Sequence[Tensor], images: Tensor, videos: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """ids (1, T) and what stands at their pads, in order, (n, D) each; (steps, rows, columns)
        in patches of each picture and of each video -> embeddings (1, T, D), positions (3, 1, T).
        """
        embeds: Tensor = self.text_model.embed_tokens(ids)
        kinds = (ids == self.config.image_token_id) + 2 * (ids == self.config.video_token_id)
        places, held = int((kinds > 0).sum()), sum(map(len, features))
        if places != held:
            raise InvalidInput(f"the prompt has {places} places for pictures, which take {held}.")
        if not features:
            return embeds, None
        there = torch.cat(list(features)).to(embeds.dtype)
        embeds = embeds.masked_scatter((kinds > 0)[..., None], there)
        positions, _ = self.language_model.model.get_rope_index(
            ids, mm_token_type_ids=kinds, image_grid_thw=images, video_grid_thw=videos
        )
        return embeds, positions

    def _grids(self, visuals: Sequence[Shown | Clip]) -> tuple[Tensor, Tensor]:
        found: tuple[list[list[int]], list[list[int]]] = ([], [])
        for shown in visuals:
            rows, columns = shown.grid or (0, 0)
            clip = isinstance(shown, Clip)
            steps = shown.frames if isinstance(shown, Clip) else 1
            found[clip].append([steps, rows * self.merge, columns * self.merge])
        images, videos = (torch.tensor(grids).view(-1, 3) for grids in found)
        return images, videos

    def patch_map(self, mass: Tensor, shown: Shown | Clip, size: Size | None) -> Tensor | None:
        return mass.view(shown.grid) if shown.grid is not None else None
