"""Reading episodes of tables: rows as cards (`column: value; …`), and pieces of Markdown tables."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_owl.model.nano.window import tokenise
from rag_owl.model.train.nano.passages import Episode, occurrences, token_range

CARD_TOKENS, PIECE_TOKENS = 90, 180  # the longest card, the longest piece of a Markdown table


@dataclass(frozen=True)
class TableQuestion:
    question: str
    answer: str
    row: int
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def cards(self) -> list[str]:
        return [card(self.header, row) for row in self.rows]


def load_tables(data: Path, part: str) -> list[TableQuestion]:
    """Questions that one row answers: the answer is a cell of that row alone, and the question
    names something else of it. A tenth of the tables, by a digest of their name, is `val`."""
    out = []
    path = data / "text" / "wikitablequestions-train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            table = json.loads(line)
            if (zlib.crc32(table["table"].encode()) % 10 == 0) != (part == "val"):
                continue
            header, rows = table["header"], table["rows"]
            for qa in table["qas"]:
                row = _row_of(rows, qa)
                if row is not None:
                    out.append(TableQuestion(qa["question"], qa["answers"][0], row, header, rows))
    return out


def card(header: Sequence[str], row: Sequence[str]) -> str:
    cells = zip(header, row, strict=False)
    return "; ".join(f"{' '.join(k.split())}: {' '.join(v.split())}" for k, v in cells if v.strip())


def markdown(header: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> str:
    """As a Markdown file has them; header: None for what follows in the middle of a table."""
    lines = [f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in rows]
    if header is not None:
        head = f"| {' | '.join(' '.join(cell.split()) for cell in header)} |"
        lines = [head, f"|{'---|' * len(header)}", *lines]
    return "\n".join(lines)


def _row_of(rows: list[list[str]], qa: dict[str, Any]) -> int | None:
    if len(qa["answers"]) != 1:
        return None
    answer = qa["answers"][0].strip().lower()
    holding = [i for i, row in enumerate(rows) if any(c.strip().lower() == answer for c in row)]
    if len(holding) != 1:
        return None
    question = qa["question"].lower()
    named = any(
        len(c.strip()) > 2 and c.strip().lower() in question
        for c in rows[holding[0]]
        if c.strip().lower() != answer
    )
    return holding[0] if named else None


def table_episode(asked: TableQuestion, rng: random.Random, tokenizer: Any) -> Episode:
    """Up to six rows of the table as cards; without the gold row in 15 %."""
    cards = asked.cards
    others = [i for i in range(len(cards)) if i != asked.row]
    rows = rng.sample(others, min(len(others), rng.randint(1, 5)))
    answerable = rng.random() > 0.15 or not rows
    if answerable:
        rows.insert(rng.randint(0, len(rows)), asked.row)
    at = rows.index(asked.row) if answerable else None
    return _episode(asked, [cards[i] for i in rows], at, tokenizer, CARD_TOKENS)


def markdown_episode(asked: TableQuestion, rng: random.Random, tokenizer: Any) -> Episode:
    """One to three pieces of the table in Markdown, as a splitter leaves them: the first has the
    header, the others have it in half of the cases. Without the gold row in 15 %, and where it is
    cut off."""
    answerable = rng.random() > 0.15 or len(asked.rows) == 1
    kept = [i for i in range(len(asked.rows)) if answerable or i != asked.row]
    pieces: list[list[int]] = []
    while kept and len(pieces) < 24:
        size = rng.randint(2, 6)
        pieces.append(kept[:size])
        kept = kept[size:]
    shown = sorted(rng.sample(range(len(pieces)), min(len(pieces), rng.randint(1, 3))))
    holding = next((p for p, piece in enumerate(pieces) if answerable and asked.row in piece), None)
    if holding is not None and holding not in shown:
        shown = sorted([*shown[1:], holding])
    texts = [
        markdown(
            asked.header if p == 0 or rng.random() < 0.5 else None,
            [asked.rows[i] for i in pieces[p]],
        )
        for p in shown
    ]
    rng.shuffle(order := list(range(len(shown))))
    at = next((n for n, o in enumerate(order) if shown[o] == holding), None)
    line = markdown(None, [asked.rows[asked.row]])  # not the same words in another row
    return _episode(asked, [texts[o] for o in order], at, tokenizer, PIECE_TOKENS, line)


def _episode(
    asked: TableQuestion,
    texts: Sequence[str],
    at: int | None,
    tokenizer: Any,
    longest: int,
    line: str = "",
) -> Episode:
    """at: which of the texts holds the answer; line: the part of it that does, if not all."""
    coded = [t.cut(0, longest) for t in tokenise(tokenizer, list(texts))]
    answers = []
    if at is not None:
        low = texts[at].index(line)
        high = low + len(line) if line else len(texts[at])
        for start, end in occurrences(texts[at].lower(), asked.answer.lower()):
            place = token_range(coded[at], start, end)
            if place is not None and low <= start < high:
                answers.append((at, *place))
    none = np.zeros(0, np.int32)
    return Episode(asked.question, [(none, t) for t in coded], answers, [a[0] for a in answers[:1]])
