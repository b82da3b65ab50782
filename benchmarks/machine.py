"""What a figure was measured on."""

from __future__ import annotations

from rag_owl.evaluation.machine import describe

__all__ = ["describe"]
