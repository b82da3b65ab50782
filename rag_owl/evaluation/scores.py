"""Measures of answers, each as its authors define it."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """As SQuAD 1.1's own script: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(said: str, truth: str) -> float:
    return float(normalise(said) == normalise(truth))


def f1(said: str, truth: str) -> float:
    """Token F1 of SQuAD 1.1."""
    a, b = normalise(said).split(), normalise(truth).split()
    common = sum((Counter(a) & Counter(b)).values())
    if not common:
        return float(a == b)
    precision, recall = common / len(a), common / len(b)
    return 2 * precision * recall / (precision + recall)


def best(measure: Callable[[str, str], float], said: str, truths: Sequence[str]) -> float:
    """Against the answer that fits best, as SQuAD 1.1 does where there are several."""
    return max(measure(said, truth) for truth in truths)


# --- rankings ---------------------------------------------------------------------------------


def recall_at(ranks: Sequence[int | None], k: int) -> float:
    """Share of the wanted items that stand among the first k; ranks count from 1, None: missing."""
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


def reciprocal_rank(ranks: Sequence[int | None]) -> float:
    """One over the rank of the first wanted item, 0 where none was found; its mean is the MRR."""
    found = [rank for rank in ranks if rank is not None]
    return 1 / min(found) if found else 0.0


# --- confidence -------------------------------------------------------------------------------


def roc_area(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The probability that a positive scores above a negative, ties half (Mann-Whitney U)."""
    both = np.concatenate([np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def risk_coverage(
    confidence: Sequence[float], risk: Sequence[float], asked: int
) -> list[tuple[float, float]]:
    """(share of all questions answered, mean risk among them), surest answers first.

    confidence, risk: of each answer that was given; asked: questions, also those not answered.
    Answers of one confidence enter together, for no threshold parts them.
    El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective Classification".
    """
    order = sorted(range(len(confidence)), key=lambda at: -confidence[at])
    curve: list[tuple[float, float]] = []
    total = 0.0
    for count, at in enumerate(order, 1):
        total += risk[at]
        last = count == len(order)
        if last or confidence[order[count]] != confidence[at]:
            curve.append((count / asked, total / count))
    return curve


def area_under(curve: Sequence[tuple[float, float]]) -> float | None:
    """Mean risk over the coverages of a risk-coverage curve (a step down to 0 at its left)."""
    if not curve:
        return None
    area, before = 0.0, 0.0
    for coverage, risk in curve:
        area += (coverage - before) * risk
        before = coverage
    return area / before


# --- how sure figures are ---------------------------------------------------------------------

_AT_ONCE = 2_000_000  # numbers drawn at once: 16 MB


def interval(values: Sequence[float], rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of the mean, by the percentile bootstrap over questions (Efron 1979)."""
    data = np.asarray(values, dtype=float)
    chance = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < rounds:
        some = min(rounds - len(means), max(1, _AT_ONCE // len(data)))
        means += data[chance.integers(0, len(data), (some, len(data)))].mean(1).tolist()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def interval_of(
    measure: Callable[[np.ndarray], float], size: int, rounds: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """As `interval` for what is no mean: `measure` is given drawn indices into the questions.

    Rounds that `measure` cannot judge (NaN) are left out; None where it never can.
    """
    chance = np.random.default_rng(seed)
    drawn = [measure(chance.integers(0, size, size)) for _ in range(rounds)]
    good = [value for value in drawn if not np.isnan(value)]
    if not good:
        return None
    low, high = np.percentile(good, [2.5, 97.5])
    return float(low), float(high)


def paired(
    one: Sequence[float], other: Sequence[float], rounds: int = 10_000, seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """Two models on the same questions -> (mean difference one - other, its 95 % interval, p).

    p: the share of random swaps of the two models' results, question by question, that differ at
    least as much (approximate randomisation, two-sided; Noreen 1989), the real one counted too.
    """
    difference = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    mean = float(difference.mean())
    chance = np.random.default_rng(seed)
    extreme = done = 0
    while done < rounds:
        some = min(rounds - done, max(1, _AT_ONCE // len(difference)))
        signs = chance.integers(0, 2, (some, len(difference))) * 2 - 1
        swapped = np.abs((signs * difference).mean(1))
        extreme += int((swapped >= abs(mean) - 1e-12).sum())
        done += some
    return mean, interval(difference.tolist(), seed=seed), (extreme + 1) / (rounds + 1)
