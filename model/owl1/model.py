"""mPLUG-Owl (MAGAer13/mplug-owl-llama-7b and its kin), from its published checkpoint.

CLIP and LLaMA are transformers' own; only the abstractor is ours. A picture stands in the sequence
as `vectors` ids of -1, which its vectors replace.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from rag_owl.errors import InvalidCheckpoint, InvalidInput
from rag_owl.model.check import Family
from rag_owl.model.owl1.abstractor import Abstractor
from rag_owl.model.spliced.model import Spliced

PLACEHOLDER = -1
_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(.*)")
# Names of the published vision tower -> those of transformers' CLIP.
_VISION = {
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embedding": "embeddings.position_embedding.weight",
    "embeddings.patch_embed.weight": "embeddings.patch_embedding.weight",
    "embeddings.pre_layernorm.weight": "pre_layrnorm.weight",
    "embeddings.pre_layernorm.bias": "pre_layrnorm.bias",
    "post_layernorm.weight": "post_layernorm.weight",
    "post_layernorm.bias": "post_layernorm.bias",
}
_IN_LAYER = {
    "input_layernorm": "layer_norm1",
    "post_attention_layernorm": "layer_norm2",
    "self_attn.dense": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_FUSED = "self_attn.query_key_value"


class Owl1(Spliced):
    family: Family = "owl1"

    def _build(self, raw: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        vision, text = dict(raw.get("vision_config") or {}), dict(raw.get("text_config") or {})
        abstractor = dict(raw.get("visual_abstractor_config") or {})
        try:
            query = tensors["query_tokens"]
            mlp = tensors["abstractor.encoder.layers.0.crossattention.output.mlp.w1.weight"]
            embeddings = tensors["language_model.model.embed_tokens.weight"]
            gate = tensors["language_model.model.layers.0.mlp.gate_proj.weight"]
        except KeyError as error:
            raise InvalidCheckpoint(f"no mPLUG-Owl checkpoint: tensor {error} is missing") from None
        # What the tensors say is not asked of the config, whose defaults do not fit the release.
        self.image_size = int(vision.get("image_size", 224))
        self.vectors = query.shape[1] + 1
        clip = CLIPVisionConfig(
            hidden_size=query.shape[2],
            intermediate_size=int(vision.get("intermediate_size", 4096)),
            num_hidden_layers=int(vision.get("num_hidden_layers", 24)),
            num_attention_heads=int(vision.get("num_attention_heads", 16)),
            image_size=self.image_size,
            patch_size=int(vision.get("patch_size", 14)),
            layer_norm_eps=float(vision.get("layer_norm_eps", 1e-6)),
            hidden_act="quick_gelu",  # whatever the config says, as released
        )
        clip._attn_implementation = "sdpa"
        self.vision_model = CLIPVisionModel(clip)
        self.query_tokens = nn.Parameter(torch.empty(query.shape))
        self.abstractor = Abstractor(
            int(abstractor.get("num_hidden_layers", 6)),
            query.shape[2],
            mlp.shape[0],
            int(abstractor.get("num_attention_heads", 16)),
            float(abstractor.get("layer_norm_eps", 1e-6)),
            embeddings.shape[1],
        )
        llama = LlamaConfig(
            vocab_size=embeddings.shape[0],
            hidden_size=embeddings.shape[1],
            intermediate_size=gate.shape[0],
            num_hidden_layers=int(text.get("num_hidden_layers", 32)),
            num_attention_heads=int(text.get("num_attention_heads", 32)),
            max_position_embeddings=int(text.get("max_position_embeddings", 2048)),
            rms_norm_eps=float(text.get("rms_norm_eps", 1e-6)),
            rope_parameters={"rope_type": "default", "rope_theta": text.get("rope_theta", 10000.0)},
            pad_token_id=text.get("pad_token_id", 0),
            bos_token_id=text.get("bos_token_id", 1),
            eos_token_id=text.get("eos_token_id", 2),
            tie_word_embeddings=bool(text.get("tie_word_embeddings", False)),
        )
        self.language_model = LlamaForCausalLM(llama)

    @staticmethod
    def _renamed(tensors: dict[str, Tensor], raw: dict[str, Any]) -> dict[str, Tensor]:
        renamed: dict[str, Tensor] = {}
        heads = int((raw.get("vision_config") or {}).get("num_attention_heads", 16))
        for name, tensor in tensors.items():
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if not name.startswith("vision_model."):
                renamed[name] = tensor
                continue
            layer = _LAYER.fullmatch(name)
            short = name.removeprefix("vision_model.")
            if layer is None:
                to = _VISION.get(short)
                if to is None:
                    renamed[name] = tensor  # listed as unexpected
                    continue
                if to.startswith("embeddings.") and "patch" not in to:
                    tensor = tensor[0] if "position" in to else tensor.flatten()
                renamed[f"vision_model.{to}"] = tensor
                continue
            before = f"vision_model.encoder.layers.{layer[1]}."
            part, _, kind = layer[2].rpartition(".")
            if part == _FUSED:
                # Rows are laid out head by head, in each its query, key and value.
                apart = tensor.view(heads, 3, -1, *tensor.shape[1:])
                for j, which in enumerate("qkv"):
                    renamed[f"{before}self_attn.{which}_proj.{kind}"] = (
                        apart[:, j].flatten(0, 1).contiguous()
                    )
            else:
                renamed[f"{before}{_IN_LAYER.get(part, part)}.{kind}"] = tensor
        return renamed

    def _vision_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        return [self.vision_model, self.abstractor, self.query_tokens]

    @property
    def preprocessing(self) -> str:
        return f"clip-square-bicubic-{self.image_size}"

    def _make_tables(self, device: torch.device) -> None:
        super()._make_tables(device)
        embeddings = self.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]

    def encode(self, pixel_values: Tensor, trace: dict[str, Tensor] | None = None) -> Tensor:
        """(N, 3, S, S) -> (N, vectors, D). All patches and the class token are normed and seen."""
        tower: Any = self.vision_model
        hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))
        if trace is not None:
            trace["vision_embeddings_out"] = hidden
        for layer in tower.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
        normed = tower.post_layernorm(hidden)
        if trace is not None:
            trace["vision_encoder_out_before_post_layernorm"] = hidden
            trace["vision_last_hidden_state"] = normed
        out: Tensor = self.abstractor(self.query_tokens, normed, trace)
        if trace is not None:
            trace["abstractor_output"] = out
        return out

    def splice(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        embeds: Tensor = self.language_model.model.embed_tokens(input_ids.clamp(min=0))
        places = input_ids == PLACEHOLDER
        count = 0 if features is None else features.shape[0] * features.shape[1]
        if int(places.sum()) != count or bool((input_ids < PLACEHOLDER).any()):
            raise InvalidInput(
                f"the prompt has {int(places.sum())} places for pictures, which take {count}: "
                f"{self.vectors} of -1 for each."
            )
        if features is not None:
            embeds = embeds.masked_scatter(places[:, None], features.flatten(0, 1).to(embeds.dtype))
        return embeds

    def pictures_in(self, input_ids: Tensor) -> int:
        return int((input_ids == PLACEHOLDER).sum()) // self.vectors

    def runs_together(self, input_ids: Tensor) -> bool:
        for row in input_ids.tolist():
            run = 0
            for token in row:
                run = run + 1 if token == PLACEHOLDER else 0
                if run > self.vectors:
                    return True
        return False
