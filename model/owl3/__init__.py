"""mPLUG-Owl3 on a runtime of our own: exact, and it keeps what it computed of a picture."""

from __future__ import annotations

from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.model import Owl3

__all__ = ["Owl3", "VisualMemory"]
