"""Qwen2-VL: a vision tower for pictures of any size, M-RoPE, and Qwen2."""

from __future__ import annotations

from rag_owl.model.qwen2_vl.model import Qwen2VL

__all__ = ["Qwen2VL"]
