"""Models with random weights at known sizes: for tests, benchmarks and trying things out."""

from __future__ import annotations

from dataclasses import replace

import torch

from rag_owl.model.hyper_attention import GateKind
from rag_owl.model.owl3.config import Owl3Config, Projector, VisionConfig
from rag_owl.model.owl3.model import Owl3

SIGLIP = VisionConfig()  # so400m/14 at 384

SIZES: dict[str, Owl3Config] = {
    # 5 x 5 patches, the vocabulary of single bytes and three control tokens
    "tiny": Owl3Config(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        hyper_layers=(1, 3),
        vision=VisionConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=70,
        ),
        gate="dynamic",
        projector="linear",
        max_position_embeddings=4096,
    ),
    # Qwen2-0.5B with four hyper layers, spread as in the released 7B
    "0.5b": Owl3Config(
        vocab_size=151851,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        hyper_layers=(1, 7, 13, 19),
        vision=SIGLIP,
        gate="dynamic",
        projector="linear",
        tie_word_embeddings=True,
    ),
    # mPLUG-Owl3-7B-240728
    "7b": Owl3Config(
        vocab_size=151851,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        hyper_layers=(1, 9, 17, 25),
        vision=SIGLIP,
        gate="dynamic",
        projector="linear",
    ),
}


def sized(size: str, gate: GateKind = "dynamic") -> Owl3Config:
    """A size's config for any of the three variants."""
    projector: Projector = "mlp" if gate == "fused" else "linear"
    return replace(SIZES[size], gate=gate, projector=projector)


def random_model(
    size: str = "tiny",
    gate: GateKind = "dynamic",
    *,
    seed: int = 0,
    deviation: float | None = None,
    vision_layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Owl3:
    """Random weights, the same for the same seed on the same device, in evaluation mode.

    `deviation` of the matrices: 0.02 as in training from scratch, 0.15 at "tiny", where a model
    must answer differently to different pictures. `vision_layers`: fewer of them, where features
    are given anyway.
    """
    config = sized(size, gate)
    if vision_layers is not None:
        config = replace(config, vision=replace(config.vision, num_hidden_layers=vision_layers))
    if deviation is None:
        deviation = 0.15 if size == "tiny" else 0.02
    with torch.device("meta"):
        model = Owl3(config)
    model.to_empty(device=device)
    model._finish_loading()
    model.to(device=device, dtype=dtype)
    random = torch.Generator(device=model.device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 or name.endswith((".bias", ".gate")):
                weight.normal_(0, deviation, generator=random)
            else:
                weight.fill_(1)  # norms
    return model.eval()
