"""mPLUG-Owl: a CLIP tower, a visual abstractor with learnt queries, and LLaMA."""

from __future__ import annotations

from rag_owl.model.owl1.model import Owl1

__all__ = ["Owl1"]
