"""The curves as small pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _figure() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, 2, figsize=(7.6, 3.1), dpi=80, layout="constrained")


def _reliability(axis: Any, bins: Sequence[Sequence[float]], title: str) -> None:
    axis.plot([0, 1], [0, 1], color="0.8")
    axis.plot([b[0] for b in bins], [b[1] for b in bins], "o-", markersize=4)
    axis.set(title=title, xlabel="probability", ylabel="share that is so", ylim=(0, 1))


def calibration(card: dict[str, Any], path: Path) -> None:
    """Of the judge: what each threshold would call unsupported, and its reliability."""
    figure, (left, right) = _figure()
    judge = card["judge"]
    curve = judge["curve"]
    left.plot(curve["threshold"], curve["altered_below"], label="altered statements")
    left.plot(curve["threshold"], curve["true_below"], label="true, in other words")
    left.axvline(judge["unsupported_below"], color="0.5", linestyle=":", label="unsupported below")
    left.axvline(judge["supported_from"], color="0.5", linestyle="--", label="supported from")
    left.set(title="Support", xlabel="threshold", ylabel="share below", ylim=(0, 1))
    left.legend(fontsize=7)
    _reliability(right, judge["reliability"], "Reliability of support")
    figure.savefig(path, metadata={"Software": None})


def abstention(
    rows: Sequence[dict[str, float]],
    bins: Sequence[Sequence[float]],
    threshold: float,
    path: Path,
) -> None:
    figure, (left, right) = _figure()
    at = [row["threshold"] for row in rows]
    for key, label in (
        ("answered_when_held", "answered, answer held"),
        ("answered_when_not", "answered, not held"),
        ("f1_of_answers", "F1 of what is said"),
    ):
        left.plot(at, [row[key] for row in rows], label=label)
    left.axvline(threshold, color="0.5", linestyle=":", label="as shipped")
    left.set(title="Abstention", xlabel="threshold", ylim=(0, 1))
    left.legend(fontsize=7)
    _reliability(right, bins, "Reliability of `answerable`")
    figure.savefig(path, metadata={"Software": None})
