"""When to say that the collection does not hold the answer: how well the probability is calibrated
on the articles kept apart, and what each threshold does.

    python -m benchmarks.quality.abstention --data DATA [--questions 600] [--plot FILE]

Every question is asked twice: with the passage that answers it among four of its article, and with
another one in its place. `RAG_OWL_ABSTAIN_BELOW` sets the threshold.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.nano_reading import Case, cases, context
from benchmarks.quality.scores import f1, roc_area
from rag_owl.model.nano.answerer import NanoAnswerer
from rag_owl.model.nano.signals import held
from rag_owl.model.train.nano.export import logistic
from rag_owl.model.train.nano.passages import load_tables

Floats = NDArray[np.float64]
KEPT = 0.95  # of the answerable questions are answered at the threshold that ships
PLOT = Path(__file__).parent / "abstention.png"


def tables(data: Path, seed: int = 0) -> list[Case]:
    """Rows of the tables kept apart, as cards: what a row of a CSV file is in a collection."""
    rng = random.Random(seed)
    out = []
    for asked in load_tables(data, "val"):
        others = [c for i, c in enumerate(asked.cards) if i != asked.row]
        if len(others) < 2:
            continue
        without = rng.sample(others, min(len(others), 5))
        texts, gold = list(without), rng.randrange(len(without))
        texts[gold] = asked.cards[asked.row]
        out.append(Case(asked.question, asked.answer, texts, gold, without[gold]))
    return out


def read(model: NanoAnswerer, asked: list[Case]) -> tuple[Floats, Floats, Floats]:
    """Scores with and without the answer, and the token F1 of the answers given with it."""
    scores, empty, right = [], [], []
    for case in asked:
        best = model.point(context(case.question, case.texts), [], [None] * len(case.texts))[0]
        scores.append(best.score)
        right.append(f1(case.texts[best.item][best.start : best.end], case.answer))
        empty.append(model.point(context(case.question, case.without), [], [None] * 4)[0].score)
    return np.array(scores), np.array(empty), np.array(right)


def calibrate(data: Path, folder: Path, count: int) -> dict[str, Any]:
    """Over articles and tables kept apart: how much an item's own logit and the question's terms
    in it count beside the pointer (the right item's span among all), the slope and offset from the
    best span's score to the probability that the sources hold the answer, and the threshold that
    keeps `KEPT` of the articles' answerable questions."""
    from benchmarks.quality.calibrate import reliability, sigmoid
    from rag_owl.blobs import FolderBlobs

    text = cases(data, count, calibration=True, seed=5)
    asked = text + tables(data)
    with tempfile.TemporaryDirectory() as scratch:
        model = NanoAnswerer.load(FolderBlobs(Path(scratch)), folder)
    model.calibrate(plain_item=0.0, plain_terms=0.0)
    signs: list[Floats] = []  # per context: (items, 3)
    golds: list[NDArray[np.bool_]] = []
    for case in asked:
        for texts in (case.texts, case.without):
            found = model.point(context(case.question, texts), [], [None] * len(texts))
            rows = [[s.score, s.item_logit, held(case.question, texts[s.item])] for s in found]
            signs.append(np.array(rows))
            golds.append(np.array([s.item == case.gold and texts is case.texts for s in found]))
    weights, _ = logistic(np.concatenate(signs), np.concatenate(golds))
    weights = weights / weights[0]
    best = np.array([float((x @ weights).max()) for x in signs])
    holds = np.tile([True, False], len(asked))
    slope, offset = logistic(best[:, None], holds)
    likely = sigmoid(best * slope[0] + offset)
    first = np.arange(len(best)) < 2 * len(text)
    return {
        "plain_item": float(weights[1]),
        "plain_terms": float(weights[2]),
        "plain_slope": float(slope[0]),
        "plain_offset": offset,
        "plain_threshold": float(np.quantile(likely[holds & first], 1 - KEPT)),
        "right_item": float(np.mean([g[(x @ weights).argmax()] for x, g in
                                     zip(signs[::2], golds[::2], strict=True)])),
        "roc_area": roc_area(best[holds & first].tolist(), best[~holds & first].tolist()),
        "roc_area_tables": roc_area(best[holds & ~first].tolist(), best[~holds & ~first].tolist()),
        "reliability": reliability(likely, holds),
    }  # fmt: skip


def curve(likely: Floats, without: Floats, right: Floats) -> list[dict[str, float]]:
    """Per threshold: of answerable questions answered, of others answered, F1 of what is said."""
    rows = []
    for t in np.linspace(0, 0.95, 20):
        kept = likely >= t
        false = without >= t
        said = kept.sum() + false.sum()
        rows.append(
            {
                "threshold": round(float(t), 2),
                "answered_when_held": float(kept.mean()),
                "answered_when_not": float(false.mean()),
                "f1_of_answers": float(right[kept].sum() / max(1, said)),
            }
        )
    return rows


def main() -> None:
    from benchmarks.quality.calibrate import reliability
    from benchmarks.quality.plots import abstention
    from rag_owl.blobs import FolderBlobs
    from rag_owl.model.nano import weights

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=weights.FOLDER)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--plot", type=Path, default=PLOT)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = NanoAnswerer.load(FolderBlobs(Path(scratch)), args.weights)
        scores, empty, right = read(model, cases(args.data, args.questions))
    likely = np.array([model.answerable(s) for s in scores])
    without = np.array([model.answerable(s) for s in empty])
    rows = curve(likely, without, right)
    holds = np.repeat([True, False], len(likely))
    bins = reliability(np.concatenate([likely, without]), holds)
    error = sum(abs(p - t) * n for p, t, n in bins) / len(holds)
    print(f"{len(likely)} questions with and without their answer; ROC area "
          f"{roc_area(likely.tolist(), without.tolist()):.3f}; expected calibration error "
          f"{error:.3f}; ships with {model.threshold:.2f}")  # fmt: skip
    print("| threshold | answered, answer held | answered, not held | F1 of what is said |")
    print("|---|---|---|---|")
    for row in rows:
        print("| {threshold:.2f} | {answered_when_held:.3f} | {answered_when_not:.3f} | "
              "{f1_of_answers:.3f} |".format(**row))  # fmt: skip
    abstention(rows, bins, model.threshold, args.plot)
    if args.json:
        args.json.write_text(json.dumps({"curve": rows, "reliability": bins}, indent=1))


if __name__ == "__main__":
    main()
