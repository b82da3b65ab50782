"""Models of these families with random weights at known sizes: for tests and benchmarks.

The published sizes are those of the checkpoints' own configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch

from rag_owl.errors import InvalidInput
from rag_owl.model.pixels import PIXELS, Pixels
from rag_owl.model.spliced.families import FAMILIES
from rag_owl.model.spliced.model import Spliced
from rag_owl.model.spliced.tokenizer import ModelTokenizer

Size: TypeAlias = Literal["tiny", "published"]

CONTROLS: Mapping[str, tuple[str, ...]] = {
    "owl1": ("<s>",),
    "ovis16": ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    "qwen2_vl": (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
}
_TINY_TEXT = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8_192,
}
_TINY_VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_SIGLIP = {  # so400m/14 at 384
    "hidden_size": 1_152,
    "intermediate_size": 4_304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
}
_GEMMA = {
    "model_type": "gemma2",
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4_096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}


def _owl1(size: Size) -> dict[str, Any]:
    if size == "tiny":
        return {
            "vision_config": {**_TINY_VISION, "image_size": 70},
            "visual_abstractor_config": {
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
            },
            "text_config": _TINY_TEXT,
            "num_query_tokens": 16,
        }
    return {
        "vision_config": {"hidden_size": 1_024},
        "visual_abstractor_config": {"intermediate_size": 2_816},
        # Trained to 2,048 positions; 32 pictures take more, and time does not ask what they mean.
        "text_config": {
            "vocab_size": 32_000,
            "hidden_size": 4_096,
            "intermediate_size": 11_008,
            "max_position_embeddings": 8_192,
        },
        "num_query_tokens": 64,
    }


def _ovis16(size: Size) -> dict[str, Any]:
    tiny = size == "tiny"
    text = {"vocab_size": 256_000, "hidden_size": 3_584, "intermediate_size": 14_336}
    text |= {"num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8}
    text |= {"max_position_embeddings": 8_192}
    gemma: dict[str, Any] = {**text, **_GEMMA}
    if tiny:
        gemma = {**_GEMMA, **_TINY_TEXT, "head_dim": 16, "query_pre_attn_scalar": 16}
    backbone = {**_TINY_VISION, "image_size": 70, "patch_size": 14} if tiny else _SIGLIP
    return {
        "hidden_size": gemma["hidden_size"],
        "llm_config": gemma,
        "visual_tokenizer_config": {
            "vocab_size": 128 if tiny else 65_536,
            "tokenize_function": "softmax",
            "hidden_stride": 2,
            "backbone_config": backbone,
        },
    }


def _qwen2_vl(size: Size) -> dict[str, Any]:
    ids = {name: 256 + at for at, name in enumerate(CONTROLS["qwen2_vl"])}
    text = {"vocab_size": 152_064, "hidden_size": 3_584, "intermediate_size": 18_944}
    text |= {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    text |= {"max_position_embeddings": 32_768}
    vision, sections = {"hidden_size": 3_584}, [16, 24, 24]
    if size == "tiny":
        text, sections = dict(_TINY_TEXT), [2, 3, 3]
        vision = {"depth": 3, "embed_dim": 48, "num_heads": 4, "mlp_ratio": 2, "hidden_size": 64}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    return {
        "model_type": "qwen2_vl",
        "text_config": {
            **text,
            "rope_parameters": rope,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        "vision_config": vision,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


_CONFIGS = {"owl1": _owl1, "ovis16": _ovis16, "qwen2_vl": _qwen2_vl}


def random_model(
    family: str,
    size: Size = "tiny",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Spliced:
    """In evaluation mode, the same for the same seed on the same device.

    Raises InvalidInput: a family that is not one of these.
    """
    if family not in _CONFIGS:
        raise InvalidInput(f"no family {family!r}; known: {', '.join(_CONFIGS)}.")
    raw = _CONFIGS[family](size)
    with torch.device("meta"):
        model = FAMILIES[family].model()(raw, _shapes(family, raw))
    # Never in wide numbers first: that would take twice the memory.
    model.to(dtype).to_empty(device=device)
    model.tie()
    model._make_tables(torch.device(device))
    random = torch.Generator(device=model.device).manual_seed(seed)
    deviation = 0.15 if size == "tiny" else 0.02
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 or name.endswith(".bias"):
                weight.normal_(0, deviation, generator=random)
            else:
                weight.fill_(1)  # norms
    return model.eval()


def random_processor(family: str, model: Any, pixels: Pixels = PIXELS) -> Any:
    """With one token per byte."""
    tokenizer = ModelTokenizer.of_bytes(CONTROLS[family])
    if family == "owl1":
        from rag_owl.model.owl1.processor import Owl1Processor

        return Owl1Processor(tokenizer, model.image_size, model.vectors)
    if family == "ovis16":
        from rag_owl.model.ovis.processor import OvisProcessor

        return OvisProcessor(
            tokenizer,
            model.image_size,
            model.vectors,
            "GemmaConversationFormatter",
            source_pixels=pixels.source,
            question_pixels=pixels.question,
        )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from rag_owl.model.qwen2_vl.processor import Qwen2VLProcessor

    return Qwen2VLProcessor(
        tokenizer,
        Qwen2VLImageProcessorPil(),
        pixels,
    )


def _shapes(family: str, raw: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """mPLUG-Owl's sizes are read from its tensors, not from its config."""
    if family != "owl1":
        return {}
    text, width = raw["text_config"], raw["vision_config"]["hidden_size"]
    inner = raw["visual_abstractor_config"]["intermediate_size"]
    shapes = {
        "query_tokens": (1, raw["num_query_tokens"], width),
        "abstractor.encoder.layers.0.crossattention.output.mlp.w1.weight": (inner, width),
        "language_model.model.embed_tokens.weight": (text["vocab_size"], text["hidden_size"]),
        "language_model.model.layers.0.mlp.gate_proj.weight": (
            text["intermediate_size"],
            text["hidden_size"],
        ),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
