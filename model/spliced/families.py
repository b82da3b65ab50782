"""The families whose pictures stand in the sequence, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rag_owl.model.checkpoint import read_json
from rag_owl.model.pixels import Pixels
from rag_owl.model.spliced.model import Spliced
from rag_owl.model.spliced.tokenizer import ModelTokenizer

Processors: TypeAlias = Callable[[Any, ModelTokenizer, Path, Pixels], Any]


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    model: Callable[[], type[Spliced]]  # imported on use
    processor: Processors  # of a model, its tokenizer and its folder
    tolerance: float  # that its logits are held to


def _owl1() -> type[Spliced]:
    from rag_owl.model.owl1 import Owl1

    return Owl1


def _ovis() -> type[Spliced]:
    from rag_owl.model.ovis import Ovis

    return Ovis


def _qwen2_vl() -> type[Spliced]:
    from rag_owl.model.qwen2_vl import Qwen2VL

    return Qwen2VL


def _owl1_processor(model: Any, tokenizer: ModelTokenizer, folder: Path, pixels: Pixels) -> Any:
    from rag_owl.model.owl1.processor import Owl1Processor

    return Owl1Processor(tokenizer, model.image_size, model.vectors)


def _ovis_processor(model: Any, tokenizer: ModelTokenizer, folder: Path, pixels: Pixels) -> Any:
    from rag_owl.model.ovis.processor import OvisProcessor

    formatter = str(read_json(folder / "config.json").get("conversation_formatter_class"))
    return OvisProcessor(
        tokenizer,
        model.image_size,
        model.vectors,
        formatter,
        source_pixels=pixels.source,
        question_pixels=pixels.question,
    )


def _qwen2_vl_processor(model: Any, tokenizer: ModelTokenizer, folder: Path, pixels: Pixels) -> Any:
    from rag_owl.model.qwen2_vl.processor import Qwen2VLProcessor

    return Qwen2VLProcessor.load(tokenizer, folder, model.config, pixels)


FAMILIES: Mapping[str, FamilyFacts] = {
    "owl1": FamilyFacts(_owl1, _owl1_processor, 5e-5),
    "ovis16": FamilyFacts(_ovis, _ovis_processor, 1e-3),
    "qwen2_vl": FamilyFacts(_qwen2_vl, _qwen2_vl_processor, 1e-4),
}
