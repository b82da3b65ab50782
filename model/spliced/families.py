"""The families whose pictures stand in the sequence, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rag_owl.model.spliced.model import Spliced
from rag_owl.model.spliced.tokenizer import ModelTokenizer


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    model: Callable[[], type[Spliced]]  # imported on use
    processor: Callable[[Any, ModelTokenizer, Mapping[str, Any]], Any]  # of a model and its config
    tolerance: float  # that its logits are held to


def _owl1() -> type[Spliced]:
    from rag_owl.model.owl1 import Owl1

    return Owl1


def _ovis() -> type[Spliced]:
    from rag_owl.model.ovis import Ovis

    return Ovis


def _owl1_processor(model: Any, tokenizer: ModelTokenizer, config: Mapping[str, Any]) -> Any:
    from rag_owl.model.owl1.processor import Owl1Processor

    return Owl1Processor(tokenizer, model.image_size, model.vectors)


def _ovis_processor(model: Any, tokenizer: ModelTokenizer, config: Mapping[str, Any]) -> Any:
    from rag_owl.model.ovis.processor import OvisProcessor

    formatter = str(config.get("conversation_formatter_class"))
    return OvisProcessor(tokenizer, model.image_size, model.vectors, formatter)


FAMILIES: Mapping[str, FamilyFacts] = {
    "owl1": FamilyFacts(_owl1, _owl1_processor, 5e-5),
    "ovis16": FamilyFacts(_ovis, _ovis_processor, 1e-3),
}
