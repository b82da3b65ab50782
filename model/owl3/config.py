"""What a checkpoint's `config.json` and its keys say about the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.checkpoint import read_json
from rag_owl.model.hyper_attention import GateKind

Projector: TypeAlias = Literal["linear", "mlp"]

# gate, projector -> the released variant. Only these three were ever trained.
VARIANTS: dict[tuple[GateKind, Projector], str] = {
    ("dynamic", "linear"): "240728",
    ("static", "linear"): "241014",
    ("fused", "mlp"): "241101",
}


@dataclass(frozen=True, slots=True)
class VisionConfig:
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 384
    patch_size: int = 14

    @property
    def grid(self) -> int:
        """Patches per side; pixels that do not fill a patch are ignored."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2


@dataclass(frozen=True, slots=True)
class Owl3Config:
    """The sizes of a model. `hyper_layers` counts from 1, as published."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    hyper_layers: tuple[int, ...]
    vision: VisionConfig
    gate: GateKind
    projector: Projector
    max_position_embeddings: int = 32768
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    dtype: str = "float32"
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0

    @property
    def variant(self) -> str:
        return VARIANTS[self.gate, self.projector]

    @property
    def hyper_indices(self) -> tuple[int, ...]:
        """The hyper layers, counted from 0."""
        return tuple(layer - 1 for layer in self.hyper_layers)

    @property
    def position_shift(self) -> int:
        """A picture's MI-RoPE position is its first placeholder's index plus this."""
        return 0 if self.gate == "fused" else 1

    @classmethod
    def read(cls, folder: Path, keys: Mapping[str, Any]) -> Owl3Config:
        """Read `folder/config.json`; `keys` are the names of the checkpoint's tensors.

        Raises InvalidCheckpoint: no or unreadable config, a missing size, an unknown variant, or
        hyper layers that differ between the config and the keys.
        """
        raw = read_json(folder / "config.json")
        generation = {}
        if (folder / "generation_config.json").is_file():
            generation = read_json(folder / "generation_config.json")
        gate, projector = variant_of(keys)
        found = sorted(
            int(key.split(".layers.")[1].split(".")[0]) + 1
            for key in keys
            if key.startswith("language_model.") and key.endswith(".self_attn.v_kv_proj.weight")
        )
        said = sorted(raw.get("hyper_layers", found))
        if said != found:
            raise InvalidCheckpoint(
                f"config.json names the hyper layers {said} (from 1), but the tensors "
                f"self_attn.v_kv_proj are in {found}. Both must come from the same checkpoint."
            )
        vision = raw.get("vision_config", {})
        rope = raw | (raw.get("rope_parameters") or {})  # where transformers 5 writes it
        known = VisionConfig.__dataclass_fields__
        try:
            return cls(
                vocab_size=int(raw["vocab_size"]),
                hidden_size=int(raw["hidden_size"]),
                intermediate_size=int(raw["intermediate_size"]),
                num_hidden_layers=int(raw["num_hidden_layers"]),
                num_attention_heads=int(raw["num_attention_heads"]),
                num_key_value_heads=int(raw["num_key_value_heads"]),
                hyper_layers=tuple(found),
                vision=VisionConfig(**{k: int(v) for k, v in vision.items() if k in known}),
                gate=gate,
                projector=projector,
                max_position_embeddings=int(raw.get("max_position_embeddings", 32768)),
                rope_theta=float(rope.get("rope_theta", 1e6)),
                rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
                tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
                dtype=str(raw.get("torch_dtype") or raw.get("dtype") or "float32"),
                eos_token_ids=_ids(generation.get("eos_token_id"), raw.get("eos_token_id")),
                pad_token_id=next(iter(_ids(raw.get("pad_token_id"), raw.get("eos_token_id"))), 0),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCheckpoint(
                f"{folder / 'config.json'}: {type(error).__name__} {error}. It must state the "
                "sizes of mPLUG-Owl3's language model and vision tower."
            ) from None

    def to_json(self) -> dict[str, Any]:
        """The published layout of `config.json`."""
        return {
            "model_type": "mplugowl3",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "hyper_layers": list(self.hyper_layers),
            "max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": self.dtype,
            "eos_token_id": list(self.eos_token_ids) or None,
            "pad_token_id": self.pad_token_id,
            "vision_config": {
                name: getattr(self.vision, name) for name in VisionConfig.__dataclass_fields__
            },
        }


def variant_of(keys: Mapping[str, Any]) -> tuple[GateKind, Projector]:
    """Which of the three released variants these tensors are.

    Raises InvalidCheckpoint when they are none of them.
    """
    language = [key for key in keys if key.startswith("language_model.")]
    dynamic = any(key.endswith(".self_attn.gate_proj.0.weight") for key in language)
    static = any(key.endswith(".self_attn.gate") for key in language)
    visual = any(key.endswith(".self_attn.v_kv_proj.weight") for key in language)
    projector: Projector | None = None
    if "vision2text_model.weight" in keys:
        projector = "linear"
    elif "vision2text_model.0.weight" in keys and "vision2text_model.2.weight" in keys:
        projector = "mlp"
    gate: GateKind = "dynamic" if dynamic else "static" if static else "fused"
    if not visual or projector is None or (dynamic and static) or (gate, projector) not in VARIANTS:
        gates = [
            name for name, there in (("gate_proj", dynamic), ("gate", static)) if there
        ] or "none"
        raise InvalidCheckpoint(
            "the tensors belong to no known mPLUG-Owl3 variant: "
            f"self_attn.v_kv_proj {'found' if visual else 'missing'}, gates {gates}, projector "
            f"{projector or 'missing'}. Known: 240728 (gate_proj, linear), 241014 (gate, linear), "
            "241101 (no gate, mlp)."
        )
    return gate, projector


def _ids(*values: Any) -> tuple[int, ...]:
    """The first value that is a token id or a list of them."""
    for value in values:
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list) and value:
            return tuple(int(v) for v in value)
    return ()
