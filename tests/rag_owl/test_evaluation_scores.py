"""The measures on cases that were computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rag_owl.evaluation import scores
from rag_owl.evaluation.places import Gold, holds, iou, pointed, ranks


def test_f1_and_exact_match_as_squad_counts_them() -> None:
    assert scores.exact("The Amur!", "amur") == 1.0
    assert scores.f1("the river Amur in Asia", "Amur river") == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert scores.f1("a river", "Volga") == 0.0
    assert scores.f1("the", "an") == 1.0  # nothing is left of either
    assert scores.best(scores.f1, "Amur", ["Volga", "the Amur"]) == 1.0


def test_recall_and_reciprocal_rank() -> None:
    assert scores.recall_at([1, 4, None], 3) == pytest.approx(1 / 3)
    assert scores.recall_at([1, 4, None], 4) == pytest.approx(2 / 3)
    assert scores.reciprocal_rank([None, 4, 2]) == 0.5
    assert scores.reciprocal_rank([None]) == 0.0


def test_roc_area_counts_pairs() -> None:
    # of six pairs four are in order, one is a tie
    assert scores.roc_area([0.9, 0.5], [0.1, 0.5, 0.7]) == pytest.approx(4.5 / 6)
    assert scores.roc_area([1, 1], [0, 0]) == 1.0
    assert scores.roc_area([1], [1]) == 0.5
    assert math.isnan(scores.roc_area([], [1.0]))


def test_risk_coverage_surest_first_and_ties_together() -> None:
    curve = scores.risk_coverage([0.9, 0.5, 0.5], [0.0, 1.0, 0.0], asked=4)
    assert curve == [(0.25, 0.0), (0.75, pytest.approx(1 / 3))]
    assert scores.area_under(curve) == pytest.approx((0.25 * 0 + 0.5 / 3) / 0.75)
    assert scores.risk_coverage([], [], asked=4) == []
    assert scores.area_under([]) is None


def test_the_bootstrap_finds_the_interval_that_is_known() -> None:
    assert scores.interval([0.4] * 30) == (pytest.approx(0.4), pytest.approx(0.4))
    values = [0.0, 1.0] * 200  # standard error 0.5 / 20
    low, high = scores.interval(values, rounds=4000)
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
    assert scores.interval(values) == scores.interval(values)


def test_the_bootstrap_of_what_is_no_mean() -> None:
    values = np.arange(100.0)
    span = scores.interval_of(lambda drawn: float(np.median(values[drawn])), 100)
    assert span is not None
    assert span[0] < 49.5 < span[1]
    assert scores.interval_of(lambda drawn: math.nan, 10, rounds=5) is None


def test_paired_comparison() -> None:
    # all of ten differences point one way: 2 of 2^10 sign patterns are as extreme
    mean, (low, high), p = scores.paired([1.0] * 10, [0.0] * 10, rounds=20_000)
    assert (mean, low, high) == (1.0, 1.0, 1.0)
    assert p == pytest.approx(2 / 1024, abs=0.001)
    mean, (low, high), p = scores.paired([1, 0, 1, 0], [0, 1, 0, 1])
    assert mean == 0.0
    assert low < 0 < high
    assert p == 1.0


def place(**location: object) -> dict[str, object]:
    return {"document_id": "d1", "document_name": "a.txt", "location": location}


def test_places_bear_on_what_they_overlap() -> None:
    passage = place(type="text", start=0, end=800)
    assert holds(passage, Gold("a.txt", 790, 810))
    assert holds(passage, Gold("d1"))
    assert not holds(passage, Gold("a.txt", 800, 810))
    assert not holds(passage, Gold("b.txt", 0, 10))
    page = place(type="page", page=2, boxes=[], start=0, end=100)
    assert holds(page, Gold("a.txt", page=2))
    assert not holds(page, Gold("a.txt", page=3))
    film = place(type="video", start_seconds=10.0, end_seconds=20.0)
    assert holds(film, Gold("a.txt", start_seconds=19.0, end_seconds=30.0))
    assert not holds(film, Gold("a.txt", start_seconds=20.0, end_seconds=30.0))
    others = [place(type="text", start=900, end=950), passage]
    assert ranks(others, [Gold("a.txt", 5, 6), Gold("a.txt", 2000, 2001)]) == [2, None]


def test_boxes() -> None:
    half, quarter = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 0.5, 0.5)
    assert iou([half], [half]) == 1.0
    assert iou([half], [quarter]) == pytest.approx(0.5)
    assert iou([], [quarter]) == pytest.approx(0.25)  # the whole picture is cited
    # boxes that overlap each other count once
    assert iou([half, quarter], [half]) == pytest.approx(1.0)
    assert iou([(0, 0, 0.1, 0.1)], [(0.5, 0.5, 1, 1)]) == 0.0
    assert pointed([quarter], (0.2, 0.2, 0.3, 0.3))
    assert not pointed([half], (0.2, 0.2, 0.3, 0.3))
    assert pointed([], (0.4, 0.4, 0.6, 0.6))
