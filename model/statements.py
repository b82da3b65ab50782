"""Statements and their markers: what models that write are told, and how their words are read."""

from __future__ import annotations

import re

from rag_owl.sentences import sentence_spans
from rag_owl.terms import index_terms

ABSTENTION = "Not in the evidence."
INSTRUCTION = (
    "Answer the question from the numbered evidence. After each statement write the number of "
    "the evidence that it rests on in brackets, like [1]. If the evidence does not hold the "
    f"answer, write: {ABSTENTION}"
)
MARKER = re.compile(r"\[(\d{1,4})\]")
_LEADING_MARKERS = re.compile(r"(\s*\[\d{1,4}\])+")
_TRAILING_MARKER = re.compile(r"\s*\[\d{1,4}\]\s*$")
_LEAST_SHARED = 0.5  # of a statement's terms, for a sentence to be pointed at as its ground


def is_abstention(text: str) -> bool:
    """Whether the text says, or begins by saying, that the evidence does not hold the answer."""
    return text.strip().casefold().startswith(ABSTENTION.casefold()[:-1])


def statements(text: str, sources: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """(start, end, sources that its markers name) of each sentence, markers not included.

    Markers after the full stop belong to the sentence before them. Markers that point to no
    source are left to the check of the evidence.
    """
    found: list[tuple[int, int, list[int]]] = []
    for start, end in sentence_spans(text):
        leading = _LEADING_MARKERS.match(text, start, end)
        if leading and found:
            found[-1][2].extend(int(m) for m in MARKER.findall(leading.group()))
            start = leading.end()
        named = [int(m) for m in MARKER.findall(text, start, end)]
        body = text[start:end]
        while (trimmed := _TRAILING_MARKER.sub("", body)) != body:
            body = trimmed
        start += len(body) - len(body.lstrip())
        if body.strip():
            found.append((start, start + len(body.strip()), named))
        elif found:
            found[-1][2].extend(named)
    return [
        (start, end, tuple(dict.fromkeys(m - 1 for m in named if 1 <= m <= sources)))
        for start, end, named in found
    ]


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
