"""Statements to check: made of a question and its answer, true or with something swapped."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.model.nano.reader import SUPPORT
from rag_owl.model.nano.window import tokenise
from rag_owl.model.train.nano.passages import Article, Asked, Episode, crop, token_range
from rag_owl.sentences import sentence_spans
from rag_owl.statements import declare

_NUMBER = re.compile(r"\b\d[\d,.]*\d\b|\b\d\b")
_NAME = re.compile(r"\b[A-Z][\w'’-]+(?:\s+(?:of\s+|the\s+|de\s+)?[A-Z][\w'’-]+)*")
SUPPORTED, CONTRADICTED, UNRELATED = range(len(SUPPORT))


def swaps(answer: str, text: str) -> list[str]:
    """Names or numbers of `text` that could stand in the answer's place and are not it."""
    pattern = _NUMBER if _NUMBER.search(answer) else _NAME
    found = {m.group() for m in pattern.finditer(text)}
    low = answer.lower()
    return sorted(s for s in found if s.lower() not in low and low not in s.lower())


def altered(answer: str, other: str) -> str:
    """The answer with its number replaced by another, or another name in its place."""
    if _NUMBER.search(answer) and _NUMBER.search(other):
        return _NUMBER.sub(lambda _: other, answer, count=1)
    return other


def sentence_with(text: str, start: int) -> tuple[int, int]:
    for a, b in sentence_spans(text):
        if a <= start < b:
            return a, b
    return 0, len(text)


def statement(article: Article, asked: Asked, rng: random.Random, kind: int) -> tuple[str, int]:
    """-> (statement, its truth in the passage); contradicted ones fall back to supported where
    nothing can be swapped. Half of the swaps come from the same passage."""
    text = article.passages[asked.passage].text
    start, end = asked.spans[0]
    answer = text[start:end]
    other = None
    if kind == CONTRADICTED:
        source = text
        if rng.random() < 0.5:
            source = article.passages[rng.randrange(len(article.passages))].text
        choices = swaps(answer, source) or swaps(answer, text)
        if not choices:
            kind = SUPPORTED
        else:
            other = altered(answer, rng.choice(choices))
    said = other if other is not None else answer
    how = rng.random()
    if how < 0.45:
        return declare(asked.question, said), kind
    if how < 0.55:
        return f"{asked.question} {said}", kind
    a, b = sentence_with(text, start)
    return text[a:start] + said + text[end:b], kind


def statement_episode(
    article: Article,
    asked: Asked,
    rng: random.Random,
    prefix: NDArray[np.int32],
    truth: int,
    count: int,
    stranger: Article,
    limit: int = 110,
) -> Episode:
    """A statement of the wanted truth and `count` items: its own passage, which one in six is
    replaced, and others of the article or, as often as not, of a stranger to it."""
    said, truth = statement(article, asked, rng, truth)
    gold = article.passages[asked.passage]
    place = token_range(gold.tokens, *asked.spans[0])
    others = [i for i in range(len(article.passages)) if i != asked.passage]
    own = rng.random() > 1 / 6 or not others
    picked = [article.passages[i] for i in rng.sample(others, min(len(others), count - own))]
    picked = [p if rng.random() < 0.5 else rng.choice(stranger.passages) for p in picked]
    items = [(prefix, crop(p, None, rng, limit)) for p in picked]
    support = [UNRELATED] * len(items)
    if own:
        at = rng.randint(0, len(items))
        around = place[0] if place else None
        items.insert(at, (prefix, crop(gold, around, rng, limit)))
        support.insert(at, truth)
    return Episode(said, items, [], [], support)


def single(tokenizer: Any, said: str, text: str) -> Episode:
    """A statement and one item, as citations are checked."""
    none = np.zeros(0, np.int32)
    return Episode(said, [(none, tokenise(tokenizer, [text])[0])], [], [], [UNRELATED])
