"""The probability of `sentences` that the sources hold the answer: SLOPE and OFFSET of
model/sentences.py, and how well they do on questions that they were not set on.

    python -m benchmarks.quality.sentences --data DATA [--questions 200]

Every question is asked twice, with what answers it among the sources and without: SQuAD questions
over passages of their article (first the articles for thresholds, then the others), and the
capitals of the sample's countries over five of its cards (half of the countries each time). As
many questions of both kinds count.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.quality.nano_reading import cases, context
from benchmarks.quality.scores import roc_area
from rag_owl.model.sentences import OFFSET, SLOPE, SentencesAnswerer
from rag_owl.types import Context

Floats = NDArray[np.float64]
CARDS = 5


def articles(data: Path, count: int, calibration: bool) -> list[tuple[Context, Context]]:
    """Contexts with and without the answer."""
    return [
        (context(case.question, case.texts), context(case.question, case.without))
        for case in cases(data, count, calibration=calibration, seed=5)
    ]


def cards(count: int, calibration: bool) -> list[tuple[Context, Context]]:
    from rag_owl.sample.facts import COUNTRIES
    from rag_owl.sample.text import describe as card

    rng = random.Random(7)
    asked = list(COUNTRIES)[0 if calibration else 1 :: 2]
    pairs = []
    for country in rng.sample(asked, min(count, len(asked))):
        others = rng.sample([c for c in COUNTRIES if c is not country], CARDS)
        question = f"What is the capital of {country.name}?"
        pairs.append(
            (
                _cards(question, [country, *others[1:]], card),
                _cards(question, others, card),
            )
        )
    return pairs


def _cards(question: str, countries: list, card) -> Context:  # type: ignore[no-untyped-def, type-arg]
    plain = context(question, [card(c).text for c in countries])
    titled = [
        replace(s, item=replace(s.item, title=c.name))
        for s, c in zip(plain.sources, countries, strict=True)
    ]
    return replace(plain, sources=tuple(titled))


def cosines(
    model: SentencesAnswerer, pairs: list[tuple[Context, Context]]
) -> tuple[Floats, Floats]:
    """Of the best sentence, with and without the answer; NaN where no sentence may be quoted."""
    found: tuple[list[float], list[float]] = ([], [])
    for pair in pairs:
        for one, out in zip(pair, found, strict=True):
            likely = model.answer(one).answerable
            odds = np.log(likely / (1 - likely)) if likely else np.nan
            out.append((odds - OFFSET) / SLOPE)
    return np.array(found[0]), np.array(found[1])


def main() -> None:
    from sklearn.linear_model import LogisticRegression

    from benchmarks.quality.calibrate import reliability, sigmoid
    from rag_owl.indexer.embed import load_text_embedder

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=200, help="of articles")
    args = parser.parse_args()
    model = SentencesAnswerer(load_text_embedder())
    slope, offset = SLOPE, OFFSET
    for calibration in (True, False):
        kinds = {
            "articles": articles(args.data, args.questions, calibration),
            "cards": cards(args.questions, calibration),
        }
        x, truth, share = [], [], []
        for name, pairs in kinds.items():
            held, none = cosines(model, pairs)
            both = np.concatenate([held, none])
            seen = ~np.isnan(both)
            x.append(both[seen])
            truth.append(np.repeat([True, False], len(held))[seen])
            share.append(np.full(int(seen.sum()), 1 / max(1, seen.sum())))
            if not calibration:
                certain = np.nan_to_num(both, nan=-1.0)
                area = roc_area(certain[: len(held)].tolist(), certain[len(held) :].tolist())
                print(f"{name}, {len(held)} other questions: ROC area {area:.3f}")
        cosine, holds, weight = (np.concatenate(each) for each in (x, truth, share))
        if calibration:
            weight *= len(weight) / weight.sum()
            fitted = LogisticRegression(C=1e3).fit(cosine[:, None], holds, sample_weight=weight)
            slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
            print(f"SLOPE, OFFSET = {slope:.2f}, {offset:.2f}  # {len(cosine)} contexts; "
                  f"now {SLOPE}, {OFFSET}")  # fmt: skip
        for name, (a, b) in {"new": (slope, offset), "as shipped": (SLOPE, OFFSET)}.items():
            bins = reliability(sigmoid(cosine * a + b), holds)
            error = sum(abs(p - t) * n for p, t, n in bins) / len(holds)
            which = "the same" if calibration else "others"
            print(f"expected calibration error on {which}, {name}: {error:.3f}", flush=True)
    print(describe())


if __name__ == "__main__":
    main()
