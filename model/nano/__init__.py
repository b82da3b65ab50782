"""owl-nano: the bundled model that reads and looks. Imported on use: it needs torch.

from rag_owl.model.nano import NanoAnswerer, NanoJudge, NanoPictureEmbedder
NanoAnswerer.load(blobs)        implements rag_owl.ports.Answerer
NanoPictureEmbedder.load()      implements rag_owl.ports.PictureEmbedder
NanoJudge.load()                implements rag_owl.ports.Judge
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_owl.model.nano.answerer import NanoAnswerer
    from rag_owl.model.nano.embedder import NanoPictureEmbedder
    from rag_owl.model.nano.judge import NanoJudge

__all__ = ["NanoAnswerer", "NanoJudge", "NanoPictureEmbedder"]


def __getattr__(name: str) -> Any:
    if name == "NanoAnswerer":
        from rag_owl.model.nano.answerer import NanoAnswerer

        return NanoAnswerer
    if name == "NanoPictureEmbedder":
        from rag_owl.model.nano.embedder import NanoPictureEmbedder

        return NanoPictureEmbedder
    if name == "NanoJudge":
        from rag_owl.model.nano.judge import NanoJudge

        return NanoJudge
    raise AttributeError(name)
