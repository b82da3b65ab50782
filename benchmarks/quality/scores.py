"""The product's own measures, by the names that benchmarks use."""

from __future__ import annotations

from rag_owl.evaluation.scores import exact, f1, interval, normalise, roc_area

__all__ = ["exact", "f1", "interval", "normalise", "roc_area"]
