"""Which answering models there are, by name."""

from __future__ import annotations

from collections.abc import Callable

from rag_owl.errors import ModelNotFound
from rag_owl.ports import Answerer, TextEmbedder


def load_answerer(name: str, text_embedder: Callable[[], TextEmbedder]) -> Answerer:
    """The answerer of that name, ready to be asked. Raises `ModelNotFound`.

    text_embedder: gives the embedder of the collection that is asked, for models that need one.
    """
    if name == "sentences":
        from rag_owl.model.sentences import SentencesAnswerer

        return SentencesAnswerer(text_embedder())
    raise ModelNotFound(f"no answering model {name!r}; there is: {', '.join(names())}")


def names() -> list[str]:
    return ["sentences"]
