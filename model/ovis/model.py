"""Ovis 1.6 (AIDC-AI/Ovis1.6-Gemma2-9B, -Llama3.2-3B), from its published checkpoint.

SigLIP and the language models are transformers' own. A tile of a picture becomes one probability
over a visual vocabulary for each of its places, and with it a mean of that vocabulary's embeddings
(arXiv 2405.20797, section 3). In the sequence a tile is the id -300, which its vectors replace;
-301 to -305 are marks around and between tiles, the last rows of the same embedding table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

from rag_owl.errors import InvalidCheckpoint, InvalidInput
from rag_owl.model.check import Family
from rag_owl.model.ovis.partition import INDICATORS, TILE, over_picture
from rag_owl.model.owl3.memory import VisualMemory, check_identity
from rag_owl.model.prompting import Clip, Piece, Prompt, Shown, Size
from rag_owl.model.spliced.model import Spliced

_LANGUAGE = {
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
_TOKENIZE = ("softmax", "gumbel_argmax", "st_argmax")
_UNUSED = (
    "visual_tokenizer.backbone.vision_model.post_layernorm.",
    "visual_tokenizer.backbone.vision_model.head.",
    "visual_tokenizer.backbone.vision_model.embeddings.position_ids",
)


class _Siglip(nn.Module):
    """SigLIP up to its last layer; its final norm and pooling head influence nothing here."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.embeddings = SiglipVisionEmbeddings(config)
        self.encoder = SiglipEncoder(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        hidden: Tensor = self.embeddings(pixel_values)
        for layer in self.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
        return hidden


class Ovis(Spliced):
    family: Family = "ovis16"

    def _build(self, raw: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        visual = dict(raw.get("visual_tokenizer_config") or {})
        backbone, text = (
            dict(visual.get("backbone_config") or {}),
            dict(raw.get("llm_config") or {}),
        )
        kind = text.pop("model_type", None)
        if kind not in _LANGUAGE:
            raise InvalidCheckpoint(
                f"llm_config.model_type {kind!r} in config.json; Ovis 1.6 has one of "
                f"{', '.join(_LANGUAGE)}."
            )
        tower = backbone.pop("model_type", "siglip_vision_model")
        if tower != "siglip_vision_model":
            raise InvalidCheckpoint(
                f"backbone_config.model_type {tower!r} in config.json; Ovis 1.6 has "
                "'siglip_vision_model'."
            )
        self.temperature = float(visual.get("tau", 1.0))  # of drawn visual tokens, in training
        self.tokenize = str(visual.get("tokenize_function", "softmax"))
        if self.tokenize not in _TOKENIZE:
            raise InvalidCheckpoint(
                f"tokenize_function {self.tokenize!r} in config.json; known: "
                f"{', '.join(_TOKENIZE)}."
            )
        siglip = SiglipVisionConfig(**backbone)
        siglip._attn_implementation = "sdpa"
        self.stride = int(visual.get("hidden_stride", 1))
        self.side = siglip.image_size // siglip.patch_size  # patches along an edge
        self._patch = siglip.patch_size
        self.image_size = siglip.image_size
        self.vectors = (-(-self.side // self.stride)) ** 2
        self.vision_model = _Siglip(siglip)
        vocabulary, width = int(visual["vocab_size"]), int(raw["hidden_size"])
        self.head = nn.Sequential(
            nn.Linear(
                siglip.hidden_size * self.stride**2, vocabulary - len(INDICATORS), bias=False
            ),
            nn.LayerNorm(vocabulary - len(INDICATORS)),
        )
        self.vte = nn.Embedding(vocabulary, width)
        config_class, model_class = _LANGUAGE[kind]
        config = config_class(**text)
        # Gemma 2's scores are capped, which torch's kernel cannot: it is built as released.
        config._attn_implementation = "eager"
        self.language_model = model_class(config)
        self.scaled = kind == "gemma2"

    @staticmethod
    def _renamed(tensors: dict[str, Tensor], raw: dict[str, Any]) -> dict[str, Tensor]:
        renamed = {}
        for name, tensor in tensors.items():
            if name.startswith(_UNUSED) or name.endswith("rotary_emb.inv_freq"):
                continue
            for old, new in (
                ("llm.", "language_model."),
                ("visual_tokenizer.backbone.vision_model.", "vision_model."),
                ("visual_tokenizer.head.", "head."),
            ):
                if name.startswith(old):
                    name = new + name.removeprefix(old)
                    break
            renamed[name] = tensor
        return renamed

    def _position_limits(self, raw: dict[str, Any]) -> dict[str, int]:
        """Llama 3.2 could read on, but the whole was trained to `multimodal_max_length` only."""
        limits = super()._position_limits(raw)
        if (whole := raw.get("multimodal_max_length")) is not None:
            limits["multimodal_max_length"] = int(whole)
        return limits

    def _vision_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        return [self.vision_model, self.head, self.vte]

    @property
    def preprocessing(self) -> str:
        return f"letterbox-bicubic-{self.image_size}"

    def _make_tables(self, device: torch.device) -> None:
        super()._make_tables(device)
        embeddings = self.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]
        if self.scaled:
            words: Any = self.language_model.model.embed_tokens
            words.embed_scale = torch.tensor(words.scalar_embed_scale, device=device)

    @property
    def scale(self) -> Tensor:
        """What Gemma 2 multiplies every embedding by, visual ones too: in its own numbers."""
        factor = self.vte.embedding_dim**0.5 if self.scaled else 1.0
        return torch.tensor(factor, dtype=self.dtype, device=self.device)

    # --- pictures -------------------------------------------------------------------------------

    def encode(self, pixel_values: Tensor, trace: dict[str, Tensor] | None = None) -> Tensor:
        """Tiles (N, 3, S, S) -> (N, vectors, D), not yet scaled."""
        hidden = self.vision_model(pixel_values)  # (N, P, Dv)
        merged = self._merged(hidden)
        logits = self.head(merged)  # (N, vectors, V - 5)
        if self.tokenize == "softmax":
            tokens = logits.softmax(dim=-1)
        elif self.tokenize == "gumbel_argmax" and self.training and torch.is_grad_enabled():
            # Drawn while it learns; the published code draws when it answers too, which no answer
            # could be replayed with: then it is the likeliest, as of the next kind.
            tokens = F.gumbel_softmax(logits, tau=self.temperature, hard=True)
        else:  # straight through: one-hot forward, the logits' gradient backward
            hard = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
            tokens = hard - logits.detach() + logits
        # The marks get no probability: their rows of the table are left out.
        embeds: Tensor = tokens @ self.vte.weight[: -len(INDICATORS)]
        if trace is not None:
            trace["vision_hidden_last_before_post_layernorm"] = hidden
            trace["merged_features"], trace["head_logits"] = merged, logits
            trace["visual_tokens"] = F.pad(tokens, (0, len(INDICATORS)))
            trace["visual_embeds"] = embeds
            trace["indicator_embeds"] = self.vte.weight[-len(INDICATORS) :]
        return embeds

    def _merged(self, hidden: Tensor) -> Tensor:
        """stride x stride neighbours side by side: (N, P, Dv) -> (N, vectors, stride^2 Dv)."""
        if self.stride == 1:
            return hidden
        N, _, width = hidden.shape
        short = -self.side % self.stride
        grid = F.pad(hidden.view(N, self.side, self.side, width), (0, 0, 0, short, 0, short))
        edge, s = (self.side + short) // self.stride, self.stride
        blocks = grid.view(N, edge, s, edge, s, width).transpose(2, 3)  # (N, edge, edge, s, s, Dv)
        return blocks.reshape(N, edge * edge, s * s * width)

    def remember_piece(self, piece: Piece, name: str) -> VisualMemory:
        """A picture's tiles, one behind the other -> a memory (1, tiles * vectors, D)."""
        tiles = self.remember(piece.pixels)
        features = tiles.features.flatten(0, 1)[None]
        self.pictures_seen -= len(tiles) - 1  # one picture
        return VisualMemory(features, tiles.identity, (name,), sizes=(piece.size,))

    def begin(
        self, prompt: Prompt, memories: Sequence[VisualMemory]
    ) -> tuple[Tensor, Tensor | None]:
        if not memories:
            return super().begin(prompt, memories)
        for memory in memories:
            check_identity(memory.identity, self.memory_identity, "the visual memory")
        tiles = [
            memory.dense(self.device, self.dtype).view(-1, self.vectors, self.vte.embedding_dim)
            for memory in memories
        ]
        return self.splice(prompt.tensor()[0].to(self.device), torch.cat(tiles))[None], None

    def patch_map(self, mass: Tensor, shown: Shown | Clip, size: Size | None) -> Tensor | None:
        return over_picture(mass, shown.grid, size, self.image_size, self.stride * self._patch)

    def pictures_in(self, input_ids: Tensor) -> int:
        return int((input_ids == TILE).sum())

    def splice(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        tiles = (input_ids == TILE).nonzero().flatten().tolist()
        held = 0 if features is None else len(features)
        if len(tiles) != held or bool((input_ids < INDICATORS[-1]).any()):
            raise InvalidInput(f"the prompt has {len(tiles)} places for tiles; there are {held}.")
        embeds: Tensor = self.language_model.model.embed_tokens(input_ids.clamp(min=0))
        marks = input_ids < TILE
        if bool(marks.any()):
            rows = self.vte.num_embeddings - len(INDICATORS) + (INDICATORS[0] - input_ids[marks])
            embeds = embeds.clone()
            embeds[marks] = self.vte(rows) * self.scale
        if features is None:
            return embeds
        pieces, after = [], 0
        for place, tile in zip(tiles, features, strict=True):
            pieces += [embeds[after:place], tile.to(embeds.dtype) * self.scale]
            after = place + 1
        return torch.cat([*pieces, embeds[after:]])
