"""Reading episodes: SQuAD with passages of the same article."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.model.nano.window import EMPTY, Tokens, tokenise
from rag_owl.sentences import sentence_spans

VALIDATION_ARTICLES = 40  # the last ones
PASSAGE_TOKENS = 110


@dataclass(frozen=True)
class Passage:
    text: str
    tokens: Tokens
    sentences: list[tuple[int, int]]  # token ranges


@dataclass(frozen=True)
class Asked:
    question: str
    answer: str
    spans: list[tuple[int, int]]  # characters of the passage: every place where the answer stands
    passage: int


@dataclass
class Article:
    title: str
    passages: list[Passage] = field(default_factory=list)
    questions: list[Asked] = field(default_factory=list)


@dataclass
class Episode:
    """One row to learn from: items as (prefix ids, text), and where the answer is.

    `answers` are (item, first token, last token) of the item's text; empty: no answer here.
    `support[i]` is an index into reader.SUPPORT where the question is a statement.
    `user_picture`, `item_pictures`: see episodes.py. `strange`: as if the eyes had never seen such
    things, no more is told of their likeness than how they appear.
    """

    question: str
    items: list[tuple[NDArray[np.int32], Tokens]]
    answers: list[tuple[int, int, int]]
    gold: list[int]
    support: list[int] | None = None
    user_picture: Any = None
    item_pictures: list[Any] = field(default_factory=list)
    strange: bool = False


def occurrences(text: str, answer: str) -> list[tuple[int, int]]:
    """Every place where `answer` stands as whole words."""
    found, at = [], text.find(answer)
    while at >= 0:
        end = at + len(answer)
        whole_start = at == 0 or not (text[at - 1].isalnum() and answer[0].isalnum())
        whole_end = end == len(text) or not (text[end].isalnum() and answer[-1].isalnum())
        if whole_start and whole_end:
            found.append((at, end))
        at = text.find(answer, at + 1)
    return found


def load_squad(data: Path, part: str, tokenizer: Any) -> list[Article]:
    """`part`: train, or val (the last 40 articles)."""
    articles: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(data / "text" / "squad-train.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            paragraph = json.loads(line)
            articles.setdefault(paragraph["title"], []).append(paragraph)
    titles = list(articles)
    chosen = titles[-VALIDATION_ARTICLES:] if part == "val" else titles[:-VALIDATION_ARTICLES]
    out = []
    for title in chosen:
        article = Article(title.replace("_", " "))
        tokens = tokenise(tokenizer, [p["context"] for p in articles[title]])
        for paragraph, coded in zip(articles[title], tokens, strict=True):
            text = paragraph["context"]
            number = len(article.passages)
            article.passages.append(Passage(text, coded, sentence_tokens(text, coded)))
            for qa in paragraph["qas"]:
                end = qa["start"] + len(qa["answer"])
                spans = occurrences(text, qa["answer"]) or [(qa["start"], end)]
                article.questions.append(Asked(qa["question"], qa["answer"], spans, number))
        out.append(article)
    return out


def sentence_tokens(text: str, tokens: Tokens) -> list[tuple[int, int]]:
    starts = [int(np.searchsorted(tokens.spans[:, 0], a)) for a, _ in sentence_spans(text)] or [0]
    return [(a, b) for a, b in zip(starts, [*starts[1:], len(tokens.ids)], strict=True) if b > a]


def token_range(tokens: Tokens, start: int, end: int) -> tuple[int, int] | None:
    """Characters [start, end) -> (first token, last token), or None outside of the tokens."""
    if not len(tokens.ids):
        return None
    first = int(np.searchsorted(tokens.spans[:, 1], start, side="right"))
    last = int(np.searchsorted(tokens.spans[:, 0], end, side="left")) - 1
    inside = first < len(tokens.ids) and 0 <= first <= last
    if not inside or start < tokens.spans[0, 0] or end > tokens.spans[-1, 1]:
        return None
    return first, last


def crop(passage: Passage, around: int | None, rng: random.Random, limit: int) -> Tokens:
    """Consecutive whole sentences of at most `limit` tokens, with token `around` in them."""
    if len(passage.tokens.ids) <= limit:
        return passage.tokens
    runs = passage.sentences
    if around is None:
        low = high = rng.randrange(len(runs))
    else:
        low = high = max(i for i, (a, _) in enumerate(runs) if a <= around or i == 0)
    while True:
        options = []
        if low > 0 and runs[high][1] - runs[low - 1][0] <= limit:
            options.append(-1)
        if high + 1 < len(runs) and runs[high + 1][1] - runs[low][0] <= limit:
            options.append(1)
        if not options:
            break
        if rng.choice(options) < 0:
            low -= 1
        else:
            high += 1
    start, end = runs[low][0], runs[high][1]
    if end - start > limit:  # one sentence longer than the limit
        middle = start if around is None else around
        start = max(start, min(middle - limit // 2, end - limit))
        end = start + limit
    return passage.tokens.cut(start, end)


def squad_episode(
    article: Article,
    asked: Asked,
    rng: random.Random,
    prefix: NDArray[np.int32],
    *,
    passages: int,
    answerable: bool,
    limit: int = PASSAGE_TOKENS,
) -> Episode:
    """`passages` items of one article, the gold one among them, or replaced by another or by what
    is left of it without the answer."""
    gold = article.passages[asked.passage]
    place = token_range(gold.tokens, *asked.spans[0])
    others = [i for i in range(len(article.passages)) if i != asked.passage]
    picked = rng.sample(others, min(len(others), passages - answerable))
    items = [(prefix, crop(article.passages[i], None, rng, limit)) for i in picked]
    if not answerable and items and rng.random() < 0.5:
        # the right passage without its answer: close in meaning is not yet an answer
        rest = crop(gold, None, rng, limit // 2)
        if all(token_range(rest, *span) is None for span in asked.spans):
            items[rng.randrange(len(items))] = (prefix, rest)
    answers: list[tuple[int, int, int]] = []
    at: list[int] = []
    if answerable and place is not None:
        shown = crop(gold, place[0], rng, limit)
        index = rng.randint(0, len(items))
        items.insert(index, (prefix, shown))
        ranges = (token_range(shown, *span) for span in asked.spans)
        answers = [(index, *r) for r in ranges if r is not None]
        at = [index] if answers else []
    return Episode(asked.question, items or [(prefix, EMPTY)], answers, at)
