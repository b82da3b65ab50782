"""Answers with one planted error each, and untouched ones, made from the validation articles.

An answer is one statement with a marker, over four passages of one article. What is altered:

- `name`: another name or number in the statement, in half of the cases one of the same item,
  else one of another passage of the article;
- `marker`: the marker points to another of the sources;
- `removed`: the item that it rests on is taken away, and the sources behind it move up;
- `added`: a copy of the item is added in which another name or number stands.

A statement is made of question and answer where a rule makes one (about half of them); it is the
passage's own sentence elsewhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.nano_reading import Case, cases
from rag_owl.checking import names_and_numbers
from rag_owl.model.train.nano.statements import altered, sentence_with, swaps
from rag_owl.statements import declare

ALTERATIONS = ("name", "name", "marker", "removed", "added")  # as often as they stand here
UNTOUCHED = "untouched"
_NAMES_OR_NUMBERS = re.compile(r"\d|\b[A-Z]")


@dataclass(frozen=True)
class Planted:
    kind: str  # one of ALTERATIONS, or UNTOUCHED
    same_item: bool  # the other name or number is one of the same item
    question: str
    text: str  # the answer, with its marker
    texts: tuple[str, ...]  # the sources
    statement: str
    cited: int  # index of the source that the marker names; may be one behind the last


def planted(data: Path, count: int, *, calibration: bool = False, seed: int = 0) -> list[Planted]:
    """`count` altered and as many untouched answers, each pair of another question.

    calibration: from the first 20 validation articles, on which thresholds are set, instead of
    the other 20, on which they are measured.
    """
    rng = random.Random(seed)
    out: list[Planted] = []
    usable = _usable(cases(data, 12 * count, calibration=calibration, seed=seed), rng)
    for number in range(2 * count):
        case, others = next(usable)
        kind = ALTERATIONS[number // 2 % len(ALTERATIONS)] if number % 2 else UNTOUCHED
        out.append(_case(case, kind, number, others, rng))
    return out


def _usable(
    found: list[Case], rng: random.Random
) -> Iterator[tuple[Case, tuple[list[str], list[str]]]]:
    """Questions whose answer is a name or a number, with others of the same and of other items."""
    for case in found:
        if len(case.answer) > 60 or not _NAMES_OR_NUMBERS.search(case.answer):
            continue
        gold = case.texts[case.gold]
        elsewhere = " ".join(t for i, t in enumerate(case.texts) if i != case.gold)
        same = _fitting(case, gold)
        other = [o for o in _fitting(case, elsewhere) if o not in gold]
        if same and other and case.answer in gold:
            yield case, (same, other)
    raise SystemExit("the validation articles hold too few questions for so many cases")


def _fitting(case: Case, text: str) -> list[str]:
    """Names or numbers that are no sentence's first small word, and not in the question."""
    return [
        other
        for other in swaps(case.answer, text)
        if other.lower() not in case.question.lower() and names_and_numbers(other)
    ]


def _case(
    case: Case, kind: str, number: int, others: tuple[list[str], list[str]], rng: random.Random
) -> Planted:
    texts, cited = list(case.texts), case.gold
    gold = texts[case.gold]
    same_item = number // 2 % 2 == 0
    other = altered(case.answer, rng.choice(others[0 if same_item else 1]))
    said = _statement(case, gold, other if kind == "name" else case.answer)
    if kind == "marker":
        cited = rng.choice([i for i in range(len(texts)) if i != case.gold])
    elif kind == "removed":
        del texts[case.gold]
    elif kind == "added":
        at = rng.choice([i for i in range(len(texts) + 1) if i != case.gold + 1])
        texts.insert(at, gold.replace(case.answer, other))
        cited += at <= case.gold
    text = f"{said} [{cited + 1}]"
    return Planted(
        kind, kind == "name" and same_item, case.question, text, tuple(texts), said, cited
    )


def _statement(case: Case, gold: str, answer: str) -> str:
    """The passage's sentence, or question and answer as a statement where a rule makes one."""
    declared = declare(case.question, answer)
    if "?" not in declared:
        return declared
    start = gold.index(case.answer)
    a, b = sentence_with(gold, start)
    return " ".join((gold[a:start] + answer + gold[start + len(case.answer) : b]).split())
