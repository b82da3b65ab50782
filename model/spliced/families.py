"""The families whose pictures stand in the sequence, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rag_owl.model.spliced.model import Spliced


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    model: Callable[[], type[Spliced]]  # imported on use
    tolerance: float  # that its logits are held to


def _owl1() -> type[Spliced]:
    from rag_owl.model.owl1 import Owl1

    return Owl1


def _ovis() -> type[Spliced]:
    from rag_owl.model.ovis import Ovis

    return Ovis


FAMILIES: Mapping[str, FamilyFacts] = {
    "owl1": FamilyFacts(_owl1, 5e-5),
    "ovis16": FamilyFacts(_ovis, 1e-3),
}
