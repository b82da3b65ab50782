"""Ovis 1.6: SigLIP, probabilistic visual tokens, and Gemma 2 or Llama 3.2."""

from __future__ import annotations

from rag_owl.model.ovis.model import Ovis

__all__ = ["Ovis"]
