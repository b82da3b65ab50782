"""Statements and their markers: what models that write are told, and how their words are read."""

from __future__ import annotations

from rag_owl.sentences import sentence_spans
from rag_owl.statements import MARKER, statements
from rag_owl.terms import index_terms

__all__ = ["ABSTENTION", "INSTRUCTION", "MARKER", "ground", "is_abstention", "statements"]

ABSTENTION = "Not in the evidence."
INSTRUCTION = (
    "Answer the question from the numbered evidence. After each statement write the number of "
    "the evidence that it rests on in brackets, like [1]. If the evidence does not hold the "
    f"answer, write: {ABSTENTION}"
)
_LEAST_SHARED = 0.5  # of a statement's terms, for a sentence to be pointed at as its ground


def is_abstention(text: str) -> bool:
    """Whether the text says, or begins by saying, that the evidence does not hold the answer."""
    return text.strip().casefold().startswith(ABSTENTION.casefold()[:-1])


def ground(statement: str, text: str) -> tuple[int, int] | None:
    """Where in a source's text a statement may rest: the sentence that shares most terms with it.

    None where none shares at least half of the statement's distinct terms. A pointer for readers,
    not a check: shared words support nothing by themselves.
    """
    wanted = set(index_terms(MARKER.sub(" ", statement)))
    best: tuple[float, int, int] | None = None
    for start, end in sentence_spans(text):
        terms = set(index_terms(text[start:end]))
        shared = len(wanted & terms) / max(1, len(wanted))
        # Of equals the shorter: it says the same with less around it.
        if shared >= _LEAST_SHARED and (best is None or (shared, start - end) > best[:2]):
            best = (shared, start - end, start)
    return (best[2], best[2] - best[1]) if best else None
