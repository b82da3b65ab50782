"""owl-nano trained further on the sample's own questions, beside the shipped one.

    python -m benchmarks.quality.further [--minutes 4] [--learnt 450] [--asked 220]

The sample is ingested; the countries are parted in two. Of one half's questions examples are made
(`rag-owl train make-data`) and learnt (`rag-owl train run nano`); of the other half's, both models
are asked. Counted are the kinds of questions of which the shipped model gets less than 95 % right:
the answer stands in what was said, or it abstains where there is none. The interval of the
difference is a paired bootstrap over questions.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.quality.sample import COLLECTION, open_sample, right
from rag_owl import RagOwl
from rag_owl.api import train_data
from rag_owl.evaluation import dataset
from rag_owl.evaluation.scores import paired
from rag_owl.model.nano import weights
from rag_owl.model.train.nano import further
from rag_owl.sample.questions import sample_questions


def halves(folder: Path, learnt: int, asked: int) -> tuple[list[Any], list[Any]]:
    """Questions of one half of the countries and of the other; pictures as paths."""
    parts: tuple[list[Any], list[Any]] = ([], [])
    for question in sample_questions():
        row = dict(question) | {"images": [str(folder / name) for name in question["images"]]}
        country = question["id"].split("/")[0]
        parts[zlib.crc32(country.encode()) % 2].append(row)
    chance = random.Random(0)
    return tuple(  # type: ignore[return-value]
        chance.sample(part, min(count, len(part)))
        for part, count in zip(parts, (learnt, asked), strict=True)
    )


def kind_of(question: dict[str, Any]) -> str:
    return "unanswerable" if not question["answers"] else question["id"].split("/", 1)[1]


def ask_all(owl: RagOwl, questions: list[Any], model: str) -> list[bool]:
    out = []
    for question in questions:
        answer = owl.ask(COLLECTION, question["question"], images=question["images"], model=model)
        wanted = question["answers"]
        out.append(right(answer, wanted) if wanted else answer.abstained)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--learnt", type=int, default=450)
    parser.add_argument("--asked", type=int, default=220)
    args = parser.parse_args()
    print(machine.describe(), flush=True)
    print(f"shipped reader: {weights.manifest()['files']['reader.safetensors'][:12]}", flush=True)
    began = time.perf_counter()

    def passed(what: str) -> None:
        print(f"{(time.perf_counter() - began) / 60:.1f} minutes: {what}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        owl = open_sample(folder)
        learnt, asked = halves(folder / "files", args.learnt, args.asked)
        file = folder / "learnt.jsonl"
        file.write_text("\n".join(map(json.dumps, learnt)), encoding="utf-8")
        made = train_data.make(owl, COLLECTION, dataset.load(file), folder / "examples")
        print(f"{made['examples']} examples: {made['kinds']}", flush=True)
        passed("the examples are made")
        before = ask_all(owl, asked, "owl-nano")
        passed("the shipped model is asked")
        new = further.run(folder / "examples", folder / "run", minutes=args.minutes)
        card = json.loads((new / "card.json").read_text(encoding="utf-8"))
        passed(f"{card['name']}: {card['steps']} steps on {card['examples']} examples")
        after = ask_all(owl, asked, str(new))
        owl.close()
    by_kind: dict[str, list[int]] = defaultdict(list)
    for at, question in enumerate(asked):
        by_kind[kind_of(question)].append(at)
    weak: list[int] = []
    for kind, places in sorted(by_kind.items()):
        shares = [sum(model[i] for i in places) / len(places) for model in (before, after)]
        mark = ""
        if shares[0] < 0.95:
            weak += places
            mark = "  <- below 95 %"
        print(f"{kind} ({len(places)}): shipped {shares[0]:.3f}, further {shares[1]:.3f}{mark}")
    for name, places in (("the kinds below 95 %", weak), ("all", list(range(len(asked))))):
        if places:
            first, second = (sum(m[i] for i in places) / len(places) for m in (before, after))
            ours, theirs = ([float(m[i]) for i in places] for m in (after, before))
            _, (low, high), p = paired(ours, theirs)
            print(
                f"{name} ({len(places)} questions): shipped {first:.3f}, further {second:.3f}, "
                f"difference {second - first:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, "
                f"p {p:.4f})"
            )
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
