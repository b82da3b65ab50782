"""What a statement and a text have in common, counted: beside the support head, which sees meaning
but may overlook one number of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag_owl.checking import names_and_numbers
from rag_owl.model.nano.pointing import pairs
from rag_owl.model.nano.window import Tokens
from rag_owl.sentences import sentence_spans
from rag_owl.terms import index_terms
from rag_owl.types import Claim

SIGNALS = (
    "supported - contradicted",  # of the support head's logits
    "supported - unrelated",
    "item",  # logit of the item head
    "names missing in the text",  # share of the statement's names and numbers
    "names missing in the nearest sentence",
    "terms in the nearest sentence",  # share of the statement's terms
    "terms in the text",
)
ASKED = (
    *SIGNALS,
    "best place for an answer",  # score of the pointer's best span for the question
    "gap to the stated one",  # how far the best span in the statement's own words lies below it
    "stated of the best",  # share of the best span's words that are in the statement
)
"""Where the statement speaks of what was asked, the pointer reads the text for the question."""
_LARGEST = 8.0  # of a logit: beyond that it says no more
_FARTHEST = 15.0  # of a score
_SPEAKS_OF = 0.5  # of the question's terms: then the statement is about what was asked
_ASKING_WORDS = """
what which who whom whose when where why how is are was were do does did has have had can the a an
of in on at to by for from with and or much many
"""
_ASKING = frozenset(_ASKING_WORDS.split())


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


def held(question: str, text: str, head: str = "") -> float:
    """The share of the question's terms that stand in a text, or in its title and heading."""
    wanted = set(index_terms(question))
    return len(wanted & set(index_terms(f"{head} {text}"))) / max(1, len(wanted))


def together(support: Sequence[float], item: float, words: Sequence[float]) -> NDArray[np.float64]:
    """Logits of the support head (supported, contradicted, unrelated) and the item head, and what
    the words say, in the order of SIGNALS."""
    yes, no, nothing = support
    logits = np.clip([yes - no, yes - nothing, item], -_LARGEST, _LARGEST)
    return np.concatenate([logits, words])


def speaks_of(statement: str, question: str) -> bool:
    """Whether a statement is an answer to the question, and not a remark beside it."""
    asked = set(index_terms(question)) - _ASKING
    return bool(asked) and len(asked & set(index_terms(statement))) >= _SPEAKS_OF * len(asked)


def pointed(
    start: Tensor, end: Tensor, nothing: float, text: str, tokens: Tokens, claim: Claim
) -> NDArray[np.float64]:
    """The last three signals of ASKED: does the statement say what the pointer would?

    start, end (n,) logits of the text's tokens; nothing: those of "no answer here" together.
    """
    said = set(index_terms(claim.statement)) - set(index_terms(claim.question or ""))
    pair = pairs(start, end)
    best = float(pair.max())
    at = int(pair.argmax())
    first, last = divmod(at, pair.shape[1])
    own = torch.tensor([bool(said & set(index_terms(w))) for w in words_of(text, tokens)])
    inside = pair.masked_fill(~(own[:, None] & own[None]), -torch.inf)
    stated = float(inside.max()) if bool(own.any()) else -torch.inf
    place = text[tokens.spans[first, 0] : tokens.spans[last, 1]]
    terms = index_terms(place)
    covered = sum(term in said for term in terms) / len(terms) if terms else 1.0
    return np.array(
        [
            np.clip(best - nothing, -10.0, _FARTHEST),
            np.clip(best - stated, 0.0, _FARTHEST),
            covered,
        ]
    )


def words_of(text: str, tokens: Tokens) -> list[str]:
    """Per token the whole word that it is a piece of."""
    found = []
    for start, end in tokens.spans:
        while start > 0 and text[start - 1].isalnum():
            start -= 1
        while end < len(text) and text[end].isalnum():
            end += 1
        found.append(text[start:end])
    return found
