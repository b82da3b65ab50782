"""The validation questions as a collection and a dataset for `rag-owl eval`, and its figures.

    python -m benchmarks.quality.validation --data DATA --out FOLDER [--questions 300] \
        [--model owl-nano]… [--judge owl-nano]

SQuAD articles that owl-nano was not trained on and that no threshold was set on: 16 of them are
the collection, a text file each; questions about the four others are the ones that it cannot
answer (a fifth of all). FOLDER gets `texts/`, `questions.jsonl`, the data folder and the run, which
goes on where it was stopped; its report.html has plots and every question. Prints what
`rag-owl eval` prints: ALCE's citation recall and precision, the dataset's own evidence, F1, and so
on, for each model.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_owl import RagOwl
from rag_owl.api import cli_eval
from rag_owl.evaluation import dataset, page, run
from rag_owl.evaluation.journal import write_whole
from rag_owl.model.train.nano.passages import VALIDATION_ARTICLES

CALIBRATION_ARTICLES = 20  # of the validation articles; thresholds were set on these
LEFT_OUT = 4  # articles that are asked about and are not in the collection
COLLECTION = "validation"


def articles(data: Path, calibration: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Title -> paragraphs of the articles that figures are measured on, or thresholds set on."""
    found: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(data / "text" / "squad-train.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            paragraph = json.loads(line)
            found.setdefault(paragraph["title"], []).append(paragraph)
    titles = list(found)[-VALIDATION_ARTICLES:]
    titles = titles[:CALIBRATION_ARTICLES] if calibration else titles[CALIBRATION_ARTICLES:]
    return {title: found[title] for title in titles}


def write(data: Path, folder: Path, count: int, seed: int = 0, calibration: bool = False) -> Path:
    """`texts/` and `questions.jsonl` in the folder; -> the questions."""
    texts = folder / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    found = list(articles(data, calibration).items())
    asked, unknown = [], []
    for number, (title, paragraphs) in enumerate(found):
        name = f"{title.replace('/', '_')}.txt"
        rows = list(_questions(name, paragraphs))
        if number < len(found) - LEFT_OUT:
            asked += rows
            (texts / name).write_text(_joined(paragraphs), "utf-8", newline="\n")
        else:
            unknown += [{**row, "answers": [], "items": []} for row in rows]
    none = count // 5
    chosen = rng.sample(asked, count - none) + rng.sample(unknown, none)
    path = folder / "questions.jsonl"
    write_whole(path, "".join(json.dumps(row) + "\n" for row in chosen))
    return path


def _joined(paragraphs: list[dict[str, Any]]) -> str:
    return "\n\n".join(paragraph["context"] for paragraph in paragraphs)


def _questions(name: str, paragraphs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    at = 0
    for paragraph in paragraphs:
        for qa in paragraph["qas"]:
            start = at + qa["start"]
            place = {"document": name, "start": start, "end": start + len(qa["answer"])}
            yield {
                "id": qa["id"], "question": qa["question"].strip(), "answers": [qa["answer"]],
                "items": [place],
            }  # fmt: skip
        at += len(paragraph["context"]) + 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--model", action="append", help="again for each (owl-nano, sentences)")
    parser.add_argument("--judge", default="owl-nano")
    args = parser.parse_args()
    questions = dataset.load(write(args.data, args.out, args.questions))
    folder = args.out / f"run-{args.questions}"
    with RagOwl.open(args.out / "data") as owl:
        job = owl.ingest(COLLECTION, [args.out / "texts"])
        if job.state != "done" or job.skipped_count:
            raise SystemExit(f"the articles were not ingested: {job}")
        report = run.evaluate(
            owl,
            questions,
            COLLECTION,
            args.model or ["owl-nano", "sentences"],
            folder,
            judge=args.judge,
            on_progress=_say,
        )
    write_whole(folder / "report.json", json.dumps(report, indent=2) + "\n")
    write_whole(folder / "report.html", page.write(report))
    cli_eval.show(cli_eval.out, report)
    print(report["machine"])


def _say(what: str, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"{what}: {done} of {total}", flush=True)


if __name__ == "__main__":
    main()
