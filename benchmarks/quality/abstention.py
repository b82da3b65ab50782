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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.choosing import met
from benchmarks.quality.nano_reading import Case, cases, context
from benchmarks.quality.scores import f1, roc_area
from rag_owl.model.nano import minilm
from rag_owl.model.nano.answerer import NanoAnswerer, words_of
from rag_owl.model.nano.pointing import Span, behind
from rag_owl.model.nano.signals import held
from rag_owl.model.train.nano.export import logistic
from rag_owl.model.train.nano.tables import load_tables
from rag_owl.types import Context

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
    """Over articles and tables kept apart: how much the question's terms in an item, and how
    alike question and text are, count beside the score of its best span (the right item's among
    all; see `pointing.spans`), the slope and offset from the best of these to the probability that
    the sources hold the answer, and the threshold that keeps `KEPT` of the articles' answerable
    questions."""
    from rag_owl.blobs import FolderBlobs

    asked = _contexts(data, count)
    with tempfile.TemporaryDirectory() as scratch:
        model = NanoAnswerer.load(FolderBlobs(Path(scratch)), folder)
    model.calibrate(plain_item=0.0, plain_terms=0.0, plain_alike=0.0)
    signs: list[Floats] = []  # per context: (items, 3)
    golds: list[NDArray[np.bool_]] = []
    for _, shown, gold in asked:
        found = model.point(shown, [], [None] * len(shown.sources))
        signs.append(signs_of(shown, found))
        golds.append(np.array([gold[s.item] for s in found]))
    return fit([kind for kind, _, _ in asked], signs, golds)


def fit(
    each_kind: Sequence[str], signs: Sequence[Floats], golds: Sequence[NDArray[np.bool_]]
) -> dict[str, Any]:
    """Per context its kind, `signs_of`, and which items hold the answer -> what `calibrate` writes.

    The weights are those that best tell an item with the answer from one without in one context
    (logistic regression on differences, Bradley and Terry 1952); the probability is that of the
    best item's score as the answerer makes it.
    """
    from benchmarks.quality.calibrate import reliability, sigmoid

    kinds = np.array(each_kind)
    pairs = np.concatenate(
        [x[g][:1] - x[~g] for x, g in zip(signs, golds, strict=True) if g.any() and not g.all()]
    )
    weights, _ = logistic(np.concatenate([pairs, -pairs]), np.repeat([True, False], len(pairs)))
    weights = weights / weights[0]
    weighed = [x[:, :2] @ weights[:2] for x in signs]
    weighed = [s - behind(s, x[:, 2], weights[2]) for s, x in zip(weighed, signs, strict=True)]
    best = np.array([float(s.max()) for s in weighed])
    holds = np.array([bool(g.any()) for g in golds])
    slope, offset = logistic(best[:, None], holds)
    likely = sigmoid(best * slope[0] + offset)
    right = np.array([g[s.argmax()] for s, g in zip(weighed, golds, strict=True)])
    measured = {}
    for kind in ("passages", "tables", "found"):
        at = kinds == kind
        measured[f"right_item_{kind}"] = float(right[at & holds].mean())
        area = roc_area(best[at & holds].tolist(), best[at & ~holds].tolist())
        measured[f"roc_area_{kind}"] = area
    return {
        "plain_terms": float(weights[1]),
        "plain_alike": float(weights[2]),
        "plain_slope": float(slope[0]),
        "plain_offset": offset,
        "plain_threshold": float(np.quantile(likely[holds & (kinds != "tables")], 1 - KEPT)),
        **measured,
        "reliability": reliability(likely, holds),
    }


def _contexts(data: Path, count: int) -> list[tuple[str, Context, Sequence[bool]]]:
    """(kind, what the reader is shown, which sources hold the answer): passages and table rows
    with the answer and without, and what a search finds in a collection of articles."""
    out: list[tuple[str, Context, Sequence[bool]]] = []
    groups = (("passages", cases(data, count, calibration=True, seed=5)), ("tables", tables(data)))
    for kind, asked in groups:
        for case in asked:
            gold = [i == case.gold for i in range(len(case.texts))]
            out.append((kind, context(case.question, case.texts), gold))
            out.append((kind, context(case.question, case.without), [False] * len(gold)))
    out += [("found", each.context, each.gold) for each in met(data, count, calibration=True)]
    return out


def signs_of(shown: Context, found: Sequence[Span]) -> Floats:
    """(items, 3): the best span's score, the share of the question's terms that the item holds, and
    the cosine of question and text."""
    items = [shown.sources[span.item].item for span in found]
    asked = shown.question.text
    terms = [held(asked, i.text or "", f"{i.title} {i.heading}") for i in items]
    question, *texts = minilm.sentence_vectors([asked, *(words_of(i) for i in items)])
    alike = np.array(texts) @ question
    return np.stack([[s.score for s in found], terms, alike], axis=1)


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
