"""The whole system over the sample: ingest it, ask by words and by pictures, count what is right.

    python -m benchmarks.quality.sample [--model owl-nano] [--questions 300] [--flags DATA]

Every sample question has a known answer and a known place in a document. Per model and kind of
question: answered right (the answer stands in what was said), cited right (the item that holds the
answer is cited), abstained. With `--flags`, photographs (warps) of the real flags in DATA are asked
about instead of the drawn ones: "What is the capital of this country?".
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.quality.scores import normalise
from benchmarks.quality.warps import warp
from rag_owl import RagOwl
from rag_owl.sample import write_sample
from rag_owl.sample.questions import sample_questions
from rag_owl.types import Answer

COLLECTION = "sample"


def kind_of(question: dict[str, Any]) -> str:
    parts = question["id"].split("/")
    if "unanswerable" in parts:
        return "unanswerable"
    return "picture" if question["images"] else "text"


def right(answer: Answer, wanted: list[str]) -> bool:
    said = f" {normalise(answer.text)} "
    return not answer.abstained and any(f" {normalise(w)} " in said for w in wanted)


def cited(answer: Answer, documents: set[str]) -> bool:
    return any(c.document_name in documents for c in answer.citations)


def chosen_questions(count: int, seed: int) -> list[dict[str, Any]]:
    """As many of each kind, in a fixed random order."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for question in sample_questions():
        by_kind[kind_of(dict(question))].append(dict(question))
    rng = random.Random(seed)
    out: list[dict[str, Any]] = []
    for kind in ("text", "picture", "unanswerable"):
        pool = by_kind[kind]
        out += rng.sample(pool, min(count // 3, len(pool)))
    return out


def by_files(owl: RagOwl, folder: Path, model: str, count: int) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    for question in chosen_questions(count, seed=0):
        images = [folder / name for name in question["images"]]
        answer = owl.ask(COLLECTION, question["question"], images=images, model=model)
        tally = counts[kind_of(question)]
        tally["asked"] += 1
        tally["abstained"] += answer.abstained
        tally["right"] += right(answer, question["answers"])
        documents = {e["document"] for e in question["items"]}
        tally["cited"] += cited(answer, documents)
        if question["answers"] and not right(answer, question["answers"]):
            said = "(abstained)" if answer.abstained else (answer.short or answer.text)[:60]
            wrong.append(f"{question['id']}: {said!r} instead of {question['answers'][0][:60]!r}")
        if not question["answers"] and not answer.abstained:
            wrong.append(f"{question['id']}: {(answer.short or answer.text)[:60]!r}")
    for kind, tally in counts.items():
        n = tally["asked"]
        shares = ", ".join(f"{k} {tally[k] / n:.3f}" for k in ("right", "cited", "abstained"))
        print(f"{model}: {kind} questions ({n}): {shares}", flush=True)
    for line in wrong[:40]:
        print(f"    {line}")


def photographs(data: Path, count: int) -> Iterator[tuple[bytes, str, str]]:
    """Warps of real flags whose country is in the sample -> (PNG, capital, document)."""
    from rag_owl.model.train.nano.pictures import load_flags
    from rag_owl.sample.facts import COUNTRIES
    from rag_owl.sample.flags import FLAGS

    flags = load_flags(data)
    by_code = {c["iso2"].lower(): i for i, c in enumerate(flags.countries)}
    known = [c for c in COUNTRIES if c.stem in FLAGS and c.iso.lower() in by_code]
    rng = random.Random(4)
    for _ in range(count):
        country = rng.choice(known)
        entry = flags.countries[by_code[country.iso.lower()]]
        picture = Image.open(data / "countries" / entry["image"]).convert("RGB")
        buffer = io.BytesIO()
        warp(picture, rng).save(buffer, "PNG")
        yield buffer.getvalue(), country.capital, f"{country.stem}.png"


def by_photographs(owl: RagOwl, data: Path, model: str, count: int) -> dict[str, float]:
    tally: Counter[str] = Counter()
    for picture, capital, document in photographs(data, count):
        answer = owl.ask(
            COLLECTION, "What is the capital of this country?", images=[picture], model=model
        )
        good, shown = right(answer, [capital]), cited(answer, {document})
        tally["answer"] += good
        tally["cited"] += shown
        tally["both"] += good and shown
        tally["abstained"] += answer.abstained
    return {name: tally[name] / count for name in ("answer", "cited", "both", "abstained")}


def open_sample(folder: Path) -> RagOwl:
    """A new data folder with the sample, written beside it, ingested."""
    write_sample(folder / "files")
    owl = RagOwl.open(folder / "data")
    job = owl.ingest(COLLECTION, [folder / "files"])
    if job.state != "done" or job.skipped_count:
        raise SystemExit(f"the sample was not ingested: {job}")
    return owl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="again for each (owl-nano, sentences)")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--flags", type=Path, help="the folder with countries/flags")
    parser.add_argument("--photographs", type=int, default=400)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, open_sample(Path(scratch)) as owl:
        for model in args.model or ["owl-nano", "sentences"]:
            by_files(owl, Path(scratch) / "files", model, args.questions)
            if args.flags:
                got = by_photographs(owl, args.flags, model, args.photographs)
                shares = ", ".join(f"{name} {share:.3f}" for name, share in got.items())
                print(f"{model}: photographs ({args.photographs}): {shares}", flush=True)


if __name__ == "__main__":
    main()
