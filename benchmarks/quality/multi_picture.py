"""Questions over two to eight pictures at once, made from the validation pictures.

    python -m benchmarks.quality.multi_picture --data DATA --cache FOLDER [--model owl-nano]… \
        [--of flags|things] [--questions 20] [--out FILE.json]

Per kind and number of pictures: "Do the two pictures show the same?", "Which one shows something
else?", "Which other one shows the same as the first?", "How many show …?" (by its name: beside it
stand five items, one of them of that name with another picture of it, as retrieval would find it).
Flags are bad photographs of real ones; things are different pictures of one class. Right is an
answer whose only number (in digits or words, also as an ordinal) is the right one; "yes" or "no"
for two pictures. Beside the models stand chance, and the eyes alone: the picture embedder's cosines
without a model.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from benchmarks.quality.pictures import Group, Shelf, flags, things
from rag_owl import RagOwl
from rag_owl.errors import RagOwlError
from rag_owl.evaluation import scores
from rag_owl.ports import PictureEmbedder
from rag_owl.types import Context, Draft, ImageLocation, Item, Question, Retrieved

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
ITEMS = 5  # retrieved beside a question for a name
_NUMBER = re.compile(rf"\d+|\b(?:{'|'.join([*WORDS, *ORDINALS[1:], 'none'])})\b", re.I)
_PRONOUN = re.compile(rf"\b({'|'.join([*ORDINALS[1:], 'the', 'this', 'that'])})\s+one\b", re.I)


@dataclass(frozen=True)
class Case:
    kind: str
    question: str
    pictures: Sequence[Image.Image]
    answer: str  # "yes", "no" or a number in digits
    chance: float
    items: Sequence[tuple[str, Image.Image]] = ()  # what is retrieved: title and picture


def make(kind: str, n: int, groups: Sequence[Group], rng: random.Random) -> Case:
    """A question of this kind over n pictures."""
    same, other, *rest = rng.sample(list(groups), n + 1)
    if kind == "same or different":
        alike = rng.random() < 0.5
        one, another = same.two(rng) if alike else (same.view(rng), other.view(rng))
        asked = "Do the two pictures show the same thing?"
        return Case(kind, asked, [one, another], "yes" if alike else "no", 0.5)
    if kind == "which differs":
        at = rng.randrange(n)
        pictures = [other.view(rng) if i == at else same.view(rng) for i in range(n)]
        asked = f"One of these {WORDS[n]} pictures shows something else than the others. Which one?"
        return Case(kind, asked, pictures, str(at + 1), 1 / n)
    if kind == "same as the first":
        at = rng.randrange(1, n)
        first, match = same.two(rng)
        others = [group.view(rng) for group in (other, *rest)]
        pictures = [first, *(match if i == at else others[i] for i in range(1, n))]
        asked = "Which of the other pictures shows the same as the first one?"
        return Case(kind, asked, pictures, str(at + 1), 1 / (n - 1))
    count = rng.randint(1, n)
    used = {id(group) for group in (same, other, *rest)}
    apart = [group for group in groups if id(group) not in used]
    beside = rng.sample(apart, min(ITEMS - 1, len(apart)))
    items = [(group.name, group.pictures[0]) for group in (same, *beside)]
    rng.shuffle(items)
    if len(same.pictures) > 1:  # what is retrieved is none of those shown
        same = Group(same.name, same.pictures[1:])
    pictures = [same.view(rng) for _ in range(count)]
    pictures += [group.view(rng) for group in (other, *rest)[: n - count]]
    rng.shuffle(pictures)
    name = same.name if same.name.startswith("the ") else f"this: {same.name}"
    asked = f"How many of these pictures show {name}?"
    return Case(kind, asked, pictures, str(count), 1 / n, items)


KINDS = {
    "same or different": range(2, 3),
    "which differs": range(3, 9),
    "same as the first": range(3, 9),
    "how many": range(2, 9),
}


def cases(groups: Sequence[Group], each: int, seed: int = 0) -> dict[tuple[str, int], list[Case]]:
    rng = random.Random(seed)
    return {
        (kind, n): [make(kind, n, groups, rng) for _ in range(each)]
        for kind, numbers in KINDS.items()
        for n in numbers
    }


def is_right(draft: Draft, case: Case) -> bool:
    said = draft.short if draft.short is not None else draft.text
    if draft.abstained:
        return False
    if case.answer in ("yes", "no"):
        found = re.match(r"\W*(yes|no)\b", said, re.I)
        return found is not None and found[1].lower() == case.answer
    numbers = _NUMBER.findall(_PRONOUN.sub(r"\1", said))
    return {number_of(word) for word in numbers} == {int(case.answer)}


def number_of(word: str) -> int:
    """
    >>> number_of("Third"), number_of("seven"), number_of("12")
    (3, 7, 12)
    """
    plain = word.lower()
    if plain.isdigit():
        return int(plain)
    if plain == "none":
        return 0
    return (WORDS if plain in WORDS else ORDINALS).index(plain)


def by_eyes(embedder: PictureEmbedder, case: Case) -> bool | None:
    """Whether cosines alone say it; None: they cannot count."""
    vectors = embedder.embed_pictures(list(case.pictures))
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, 0.0)
    if case.kind == "which differs":
        return int(alike.sum(1).argmin()) + 1 == int(case.answer)
    if case.kind == "same as the first":
        return int(alike[0, 1:].argmax()) + 2 == int(case.answer)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="decoded pictures are kept here")
    parser.add_argument("--model", action="append", help="again for each (owl-nano, sentences)")
    parser.add_argument("--of", choices=["flags", "things"], default="flags")
    parser.add_argument("--questions", type=int, default=20, help="per kind and number")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    groups = flags(args.data) if args.of == "flags" else things(args.data, args.cache)
    asked = cases(groups, args.questions)
    names = args.model or ["owl-nano", "sentences"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, RagOwl.open(scratch) as owl:
        embedder = owl.models.picture_embedder(owl.settings.picture_embedder)
        put = Shelf(owl.blobs).put
        print(f"{args.of}, {args.questions} questions each")
        for (kind, n), some in asked.items():
            row: dict[str, Any] = {"kind": kind, "pictures": n, "chance": some[0].chance}
            seen = [by_eyes(embedder, case) for case in some]
            row["eyes alone"] = None if None in seen else float(np.mean(seen))  # type: ignore[arg-type]
            for name in names:
                right = [_ask(owl, name, case, put) for case in some]
                row[name] = float(np.mean(right))
                row[f"{name} interval"] = list(scores.interval(right))
            rows.append(row)
            figures = ", ".join(
                f"{name} {'–' if row[name] is None else format(row[name], '.3f')}"
                for name in (*names, "eyes alone", "chance")
            )
            print(f"{kind}, {n} pictures: {figures}", flush=True)
    machine = describe()
    print(machine)
    if args.out:
        args.out.write_text(
            json.dumps({"of": args.of, "machine": machine, "rows": rows}, indent=2) + "\n", "utf-8"
        )


def _ask(owl: RagOwl, name: str, case: Case, put: Any) -> float:
    question = Question("benchmark", case.question, tuple(put(p) for p in case.pictures))
    sources = tuple(
        Retrieved(
            Item(
                id=str(i), document_id=str(i), document_name=str(i), revision=1, ordinal=0,
                kind="picture", title=title, location=ImageLocation(), picture=put(picture),
            ),
            1.0,
        )
        for i, (title, picture) in enumerate(case.items)
    )  # fmt: skip
    try:
        draft = owl.models.answerer(name).answer(Context(question, sources))
        return float(is_right(draft, case))
    except RagOwlError as error:
        print(f"    {name} failed on {len(case.pictures)} pictures: {error}")
        return 0.0


if __name__ == "__main__":
    main()
