"""rag_owl: ask your pictures, pages and videos; get an answer and the exact evidence for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_owl.client import RagOwl

__version__ = "0.1.0"
__all__ = ["RagOwl", "__version__"]


def __getattr__(name: str) -> Any:
    # torch, faiss and SQLAlchemy load on first use: `import rag_owl` stays fast.
    if name == "RagOwl":
        from rag_owl.client import RagOwl

        return RagOwl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
