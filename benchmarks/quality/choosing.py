"""Which of the items that a search finds owl-nano takes its answer from, and how well it points.

    python -m benchmarks.quality.choosing --data DATA [--questions 300] [--weights FOLDER]

Articles that nothing was trained or set on are ingested; each question is searched for, and the
reader gets the five items that are found, as it does in the product. Baselines in the same run: the
search's first item, and the pointer's score (with half of the item's logit) alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.quality import validation
from benchmarks.quality.scores import exact, f1, interval, roc_area
from rag_owl import RagOwl
from rag_owl.model.nano.answerer import NanoAnswerer
from rag_owl.types import Context, Question, TextLocation

K = 5


@dataclass(frozen=True)
class Met:
    """A question with what the search found for it."""

    context: Context
    gold: tuple[bool, ...]  # per source: it holds the answer's place
    answer: str | None  # None: no article of the collection answers it


def met(data: Path, count: int, calibration: bool = False, seed: int = 0) -> list[Met]:
    """A fifth of the questions are about articles that the collection does not hold."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = validation.write(data, folder, count, seed, calibration)
        asked = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        with RagOwl.open(folder / "data") as owl:
            job = owl.ingest("articles", [folder / "texts"])
            if job.state != "done" or job.skipped_count:
                raise SystemExit(f"the articles were not ingested: {job}")
            return [_met(owl, each) for each in asked]


def _met(owl: RagOwl, asked: dict[str, object]) -> Met:
    text = str(asked["question"])
    found = owl.search("articles", text, k=K)
    place = asked["items"][0] if asked["items"] else None  # type: ignore[index]
    gold = []
    for source in found:
        at = source.item.location
        assert isinstance(at, TextLocation)
        gold.append(
            place is not None
            and source.item.document_name == place["document"]
            and at.start <= place["start"]
            and place["end"] <= at.end
        )
    answers = asked["answers"]
    answer = answers[0] if isinstance(answers, list) and answers else None
    return Met(Context(Question("articles", text, k=K), tuple(found)), tuple(gold), answer)


def measure(model: NanoAnswerer, asked: list[Met]) -> dict[str, float]:
    """The best span counts, whatever the threshold."""
    right, f1s, exacts, scores = [], [], [], []
    for each in asked:
        best = model.best(each.context)
        scores.append(best.score if best else -np.inf)
        if each.answer is None:
            continue
        said = ""
        if best is not None:
            said = (each.context.sources[best.item].item.text or "")[best.start : best.end]
        right.append(best is not None and each.gold[best.item])
        f1s.append(f1(said, each.answer))
        exacts.append(exact(said, each.answer))
    held = [score for score, each in zip(scores, asked, strict=True) if each.answer is not None]
    none = [score for score, each in zip(scores, asked, strict=True) if each.answer is None]
    low, high = interval(np.array(f1s))
    return {
        "right item": float(np.mean(right)),
        "token F1": float(np.mean(f1s)),
        "from": low,
        "to": high,
        "exact match": float(np.mean(exacts)),
        "no answer, ROC area": roc_area(held, none),
    }


def main() -> None:
    from rag_owl.blobs import FolderBlobs
    from rag_owl.model.nano import weights

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--weights", type=Path, default=weights.FOLDER)
    args = parser.parse_args()
    print(machine.describe())
    asked = met(args.data, args.questions)
    held = [each for each in asked if each.answer is not None]
    print(
        f"{len(held)} questions with an answer in the collection, {len(asked) - len(held)} without"
    )
    print(f"found among the {K}: {np.mean([any(each.gold) for each in held]):.3f}; "
          f"the search's first: {np.mean([each.gold[0] for each in held]):.3f}")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        model = NanoAnswerer.load(FolderBlobs(Path(scratch)), args.weights)
        ships = measure(model, asked)
        model.calibrate(plain_item=0.0, plain_terms=0.0)
        alone = measure(model, asked)
    print("| | as it ships | pointer alone |\n|---|---|---|")
    for name in ships:
        print(f"| {name} | {ships[name]:.3f} | {alone[name]:.3f} |")


if __name__ == "__main__":
    main()
