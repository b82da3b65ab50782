"""What a statement and a text have in common, counted: beside the support head, which sees meaning
but may overlook one number of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_owl.checking import names_and_numbers
from rag_owl.sentences import sentence_spans
from rag_owl.terms import index_terms

SIGNALS = (
    "supported - contradicted",  # of the support head's logits
    "supported - unrelated",
    "item",  # logit of the item head
    "names missing in the text",  # share of the statement's names and numbers
    "names missing in the nearest sentence",
    "terms in the nearest sentence",  # share of the statement's terms
    "terms in the text",
)
_LARGEST = 8.0  # of a logit: beyond that it says no more


@dataclass(frozen=True)
class Words:
    """The last four signals, and where the nearest sentence is."""

    signals: tuple[float, float, float, float]
    nearest: tuple[int, int]  # characters of the text


def compare(statement: str, text: str, head: str = "") -> Words:
    """head: title and heading, which may name what the text is about."""
    wanted = set(index_terms(statement))
    about = set(index_terms(head))
    best, place, there = -1, (0, len(text)), set[str]()
    everything = set(about)
    for start, end in sentence_spans(text):
        terms = set(index_terms(text[start:end]))
        everything |= terms
        if len(wanted & terms) > best:
            best, place, there = len(wanted & terms), (start, end), terms
    named = [set(index_terms(name)) for name in names_and_numbers(statement)]
    total, names = max(1, len(wanted)), max(1, len(named))
    return Words(
        (
            sum(not name <= everything for name in named) / names,
            sum(not name <= there | about for name in named) / names,
            len(wanted & (there | about)) / total,
            len(wanted & everything) / total,
        ),
        place,
    )


def together(support: Sequence[float], item: float, words: Words) -> NDArray[np.float64]:
    """Logits of the support head (supported, contradicted, unrelated) and the item head, and what
    the words say, in the order of SIGNALS."""
    yes, no, nothing = support
    logits = np.clip([yes - no, yes - nothing, item], -_LARGEST, _LARGEST)
    return np.concatenate([logits, words.signals])
