"""How much irrelevant pictures distract: Distractor Resistance, as mPLUG-Owl3's authors measure it.

    python -m benchmarks.quality.distractors --data DATA --cache FOLDER [--model owl-nano]… \
        [--questions 30] [--counts 0,5,20,50,100,400] [--task find|choose] [--out FOLDER]

Ye et al. 2024 (arXiv 2408.04840): the same question among more and more irrelevant pictures, in
shuffled order, in four variants; it counts when all four are right. Two tasks:

- `choose`, theirs: "In Image X, which of these is shown?", with four options that are rotated from
  variant to variant. For models that write.
- `find`, for models that point too: every picture has a code, the user shows a bad photograph of
  one (`--query photograph`) or another picture of the same class (`--query class`) and asks for its
  code; codes are dealt anew for every variant. Chance is one in the number of pictures, to the
  fourth.

Pictures: half of tiny-imagenet's validation set in DATA; irrelevant ones are of other classes.
`sentences`, which sees by the picture embedder alone, is the baseline. Stopped, a run goes on with
the same `--out`; it writes report.json and report.html there.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from benchmarks.quality.pictures import Group, Shelf, photograph, things
from rag_owl import RagOwl
from rag_owl.evaluation import page, plots, scores
from rag_owl.evaluation.journal import Journal, write_whole
from rag_owl.evaluation.run import MOST_FAILURES
from rag_owl.ports import Answerer, PictureEmbedder
from rag_owl.types import Context, Draft, ImageLocation, Item, Question, Retrieved

VARIANTS = 4
COUNTS = (0, 5, 20, 50, 100, 400)
LETTERS = "ABCD"


@dataclass(frozen=True)
class Case:
    """A picture, what the user shows of it, and irrelevant ones, of which fewer are the first."""

    name: str
    shown: Image.Image
    query: Image.Image
    others: Sequence[Image.Image]
    options: Sequence[str]  # what else it might be called


def cases(groups: Sequence[Group], count: int, most: int, query: str, seed: int = 0) -> list[Case]:
    """query: "photograph" of the picture itself, or another of its "class"."""
    rng = random.Random(seed)
    found = []
    for group in rng.sample(list(groups), min(count, len(groups))):
        shown, another = group.two(rng)
        rest = [g for g in groups if g is not group]
        pool = [picture for g in rest for picture in g.pictures]
        if len(pool) < most:
            raise SystemExit(f"{most} irrelevant pictures are asked for, there are {len(pool)}")
        found.append(
            Case(
                group.name,
                shown,
                photograph(shown, rng) if query == "photograph" else another,
                rng.sample(pool, most),
                [g.name for g in rng.sample(rest, len(LETTERS) - 1)],
            )
        )
    return found


# --- the two tasks --------------------------------------------------------------------------------

Put = Callable[[Image.Image], str]


class Find:
    """Which picture is this? Its code."""

    def __init__(self, embedder: PictureEmbedder) -> None:
        self._embedder = embedder
        self._vectors: dict[int, np.ndarray] = {}

    def ask(self, case: Case, count: int, variant: int, put: Put) -> tuple[Context, str]:
        """-> what the model is shown, and the right answer."""
        rng = random.Random(f"{case.name} {count} {variant}")
        pictures = [case.shown, *case.others[:count]]
        rng.shuffle(pictures)
        numbers = rng.sample(range(100, 10_000), len(pictures))
        codes = [f"{rng.choice('ABCDEFGHK')}{number}" for number in numbers]
        query = self._vector(case.query)
        sources = tuple(
            Retrieved(
                _item(n, f"Picture {n + 1}", put(picture), f"Its code is {code}."),
                1.0,
                {"picture": float(self._vector(picture) @ query)},
            )
            for n, (picture, code) in enumerate(zip(pictures, codes, strict=True))
        )
        asked = Question("benchmark", "What is the code of this?", (put(case.query),))
        right = codes[next(n for n, picture in enumerate(pictures) if picture is case.shown)]
        return Context(asked, sources), right

    @staticmethod
    def is_right(draft: Draft, right: str) -> bool:
        said = draft.short if draft.short is not None else draft.text
        return not draft.abstained and re.findall(r"\b[A-HK]\d{3,4}\b", said) == [right]

    def _vector(self, picture: Image.Image) -> np.ndarray:
        if id(picture) not in self._vectors:
            self._vectors[id(picture)] = self._embedder.embed_pictures([picture])[0]
        return self._vectors[id(picture)]


class Choose:
    """What does Image X show? One of four."""

    def ask(self, case: Case, count: int, variant: int, put: Put) -> tuple[Context, str]:
        rng = random.Random(f"{case.name} {count} {variant}")
        pictures = [case.shown, *case.others[:count]]
        rng.shuffle(pictures)
        names = [case.name, *case.options]
        random.Random(case.name).shuffle(names)
        names = names[variant:] + names[:variant]
        at = 1 + next(n for n, picture in enumerate(pictures) if picture is case.shown)
        options = " ".join(f"{letter}. {name}" for letter, name in zip(LETTERS, names, strict=True))
        asked = f"In Image {at}, which of these is shown? {options} Answer with the letter alone."
        sources = tuple(
            Retrieved(_item(n, f"Image {n + 1}", put(picture), None), 1.0)
            for n, picture in enumerate(pictures)
        )
        return Context(Question("benchmark", asked), sources), LETTERS[names.index(case.name)]

    @staticmethod
    def is_right(draft: Draft, right: str) -> bool:
        said = draft.short if draft.short is not None else draft.text
        found = re.match(r"\W*([A-D])\b", said)
        return not draft.abstained and found is not None and found[1] == right


def _item(number: int, title: str, picture: str, text: str | None) -> Item:
    return Item(
        id=str(number), document_id=str(number), document_name=str(number), revision=1, ordinal=0,
        kind="picture", title=title, location=ImageLocation(), text=text, picture=picture,
    )  # fmt: skip


# --- a run ---------------------------------------------------------------------------------------


def run(
    model: Answerer,
    name: str,
    task: Find | Choose,
    asked: Sequence[Case],
    counts: Sequence[int],
    put: Put,
    journal: Journal,
) -> None:
    """A line per question and number of pictures."""
    done = {(row["model"], row["count"], row["case"]) for row in journal.rows}
    failures = 0
    for count in counts:
        for number, case in enumerate(asked):
            if (name, count, number) in done:
                continue
            right, seconds, error = [], [], None
            for variant in range(VARIANTS):
                context, wanted = task.ask(case, count, variant, put)
                start = time.perf_counter()
                try:
                    right.append(task.is_right(model.answer(context), wanted))
                except Exception as failure:  # a context that is too long for a model is a result
                    error = f"{type(failure).__name__}: {failure}"
                    right.append(False)
                seconds.append(time.perf_counter() - start)
            row = {
                "model": name, "count": count, "case": number, "right": right, "seconds": seconds,
                "error": error,
            }  # fmt: skip
            journal.append(row)
            journal.rows.append(row)
            failures = failures + 1 if error else 0
            if failures == MOST_FAILURES:
                print(f"{name} fails with {count} irrelevant pictures: {error}")
                break


def summary(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for name in names:
        points = []
        for count in sorted({row["count"] for row in rows if row["model"] == name}):
            mine = [row for row in rows if row["model"] == name and row["count"] == count]
            all_right = [float(all(row["right"])) for row in mine]
            points.append(
                {
                    "distractors": count,
                    "questions": len(mine),
                    "all_four": float(np.mean(all_right)),
                    "all_four_interval": list(scores.interval(all_right)),
                    "single": float(np.mean([row["right"] for row in mine])),
                    "seconds": float(np.median([s for row in mine for s in row["seconds"]])),
                    "errors": sum(row["error"] is not None for row in mine),
                }
            )
        models[name] = points
    return models


def html(report: dict[str, Any]) -> str:
    models = report["models"]
    series = {
        name: [(float(p["distractors"]), p["all_four"]) for p in points]
        for name, points in models.items()
    }
    plot = plots.lines(
        "Distractor resistance",
        series,
        across="irrelevant pictures beside the right one",
        even=True,
    )
    rows = [
        [
            f"{name}, {p['distractors']}",
            page.with_interval(p["all_four"], p["all_four_interval"]),
            f"{p['single']:.3f}",
            f"{p['seconds']:.2f}",
        ]
        for name, points in models.items()
        for p in points
    ]
    head = ["model, irrelevant pictures", "all four right", "single right", "seconds (median)"]
    body = (
        f"<h1>Distractor resistance: {escape(report['task'])}</h1>"
        + page.figure("Share of questions with all four variants right", plot)
        + page.table(head, rows)
        + f'<p class="small">{report["questions"]} questions. {escape(report["machine"])}</p>'
    )
    return page.document("Distractor resistance", body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="decoded pictures are kept here")
    parser.add_argument("--model", action="append", help="again for each (owl-nano, sentences)")
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument("--task", choices=["find", "choose"], default="find")
    parser.add_argument("--query", choices=["photograph", "class"], default="photograph")
    parser.add_argument("--out", type=Path, default=Path("distractors"))
    args = parser.parse_args()
    counts = sorted({int(part) for part in args.counts.split(",")})
    names = args.model or ["owl-nano", "sentences"]
    about = {"format": 1, "task": args.task, "query": args.query, "questions": args.questions}
    asked = cases(things(args.data, args.cache), args.questions, max(*counts, 1), args.query)
    with (
        tempfile.TemporaryDirectory() as scratch,
        RagOwl.open(scratch) as owl,
        Journal(args.out, about) as journal,
    ):
        embedder = owl.models.picture_embedder(owl.settings.picture_embedder)
        task = Find(embedder) if args.task == "find" else Choose()
        put = Shelf(owl.blobs).put
        for name in names:
            run(owl.models.answerer(name), name, task, asked, counts, put, journal)
            for p in summary(journal.rows, [name])[name]:
                low, high = p["all_four_interval"]
                print(
                    f"{name}: {p['distractors']:>3} irrelevant pictures: all four right "
                    f"{p['all_four']:.3f} [{low:.3f}, {high:.3f}], single {p['single']:.3f}, "
                    f"{p['seconds']:.2f} s ({p['questions']} questions)",
                    flush=True,
                )
        report = {
            **about, "task": f"{args.task}, {args.query}", "machine": describe(),
            "models": summary(journal.rows, names),
        }  # fmt: skip
    write_whole(args.out / "report.json", json.dumps(report, indent=2) + "\n")
    write_whole(args.out / "report.html", html(report))
    print(report["machine"])


if __name__ == "__main__":
    main()
