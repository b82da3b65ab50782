"""Whether owl-nano's own signs, its pointer's share and what leaving an item out costs, tell a
right citation from a wrong one. `calibrate` takes thresholds from here; run alone it prints the
figures on the articles kept apart:

    python -m benchmarks.quality.grounding --data DATA [--questions 300]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.nano_reading import cases, context
from benchmarks.quality.scores import roc_area

PRECISION = 0.95  # of the citations whose share reaches the threshold, so many are right
SPARED = 0.95  # of the items that another one could stand for cost less than the threshold
LEAST = 20  # of such items must have been seen
REACHED = 0.2  # of the right ones must reach the share's threshold, else it says nothing


def measure(data: Path, folder: Path, count: int, calibration: bool) -> dict[str, list[Any]]:
    """Of each question, with the passage that answers it and without: the share of the item that is
    pointed to, whatever the threshold, and whether that is the right one. Of those answered from
    the right one: what leaving it out costs, and now and then the same where it stands twice."""
    from rag_owl.blobs import FolderBlobs
    from rag_owl.model.nano import NanoAnswerer
    from rag_owl.model.nano.pointing import shares
    from rag_owl.types import Draft

    found: dict[str, list[Any]] = {"share": [], "right": [], "drop": [], "other": []}
    with tempfile.TemporaryDirectory() as scratch:
        model = NanoAnswerer.load(FolderBlobs(Path(scratch)), folder)
        for number, case in enumerate(cases(data, count, calibration=calibration, seed=4)):
            for texts in (case.texts, case.without):
                spans = model.point(context(case.question, texts), [], [None] * len(texts))
                right = texts is case.texts and spans[0].item == case.gold
                found["share"].append(shares(spans)[spans[0].item])
                found["right"].append(right)
            shown = context(case.question, case.texts)
            draft = model.answer(shown)
            if draft.abstained or draft.attributions[0].source != case.gold:
                continue
            first = draft.attributions[0]
            found["drop"].append(model.ablate(shown, Draft(draft.text, (first,)))[0])
            if number % 4 == 0:
                # With the same passage twice, leaving one of them out costs next to nothing.
                twice = context(case.question, [*case.texts, case.texts[case.gold]])
                again = model.answer(twice)
                if not again.abstained:
                    alone = Draft(again.text, again.attributions[:1])
                    found["other"].append(model.ablate(twice, alone)[0])
    return found


def calibrate(data: Path, folder: Path, count: int) -> dict[str, Any]:
    """-> thresholds (a `rag_owl.ports.Grounding`) and the numbers that they were read off."""
    found = measure(data, folder, count, True)
    share, right = np.array(found["share"], float), np.array(found["right"])
    drop, other = np.array(found["drop"], float), np.array(found["other"], float)
    order = np.argsort(-share)
    precise = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(precise >= PRECISION)
    attention_from = float(share[order][enough[-1]]) if len(enough) else None
    if attention_from is not None and (share[right] >= attention_from).mean() < REACHED:
        attention_from = None
    return {
        "thresholds": {
            "attention_from": attention_from,
            "drop_from": float(np.quantile(other, SPARED)) if len(other) >= LEAST else None,
        },
        "counts": {"pointed": len(right), "answered": len(drop)},
        "right": float(right.mean()),
        "share_roc_area": roc_area(share[right].tolist(), share[~right].tolist()),
        "drop_quantiles": np.quantile(drop, [0.05, 0.25, 0.5, 0.75]).tolist(),
    }


def main() -> None:
    from rag_owl.model.nano import weights

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=weights.FOLDER)
    parser.add_argument("--questions", type=int, default=300)
    args = parser.parse_args()
    thresholds = (weights.evidence(args.weights) or {})["grounding"]["thresholds"]
    found = measure(args.data, args.weights, args.questions, False)
    share, right = np.array(found["share"], float), np.array(found["right"])
    drop, other = np.array(found["drop"], float), np.array(found["other"], float)
    print(f"{len(right)} readings, {right.mean():.3f} point to the item that was asked about")
    area = roc_area(share[right].tolist(), share[~right].tolist())
    print(f"share tells right from wrong: ROC area {area:.3f}")
    least = thresholds["attention_from"]
    if least is not None:
        reached = share >= least
        print(f"share of {least:.2f} or more: {reached.mean():.3f} of them, of which right: "
              f"{right[reached].mean():.3f}")  # fmt: skip
    reach = np.mean(drop >= (thresholds["drop_from"] or 0.0))
    print(
        f"nats lost without the cited item, median: {np.median(drop):.2f}; without "
        f"one that stands there twice {np.median(other):.2f}"
    )
    print(f"{reach:.3f} reach the threshold ({thresholds['drop_from']})")


if __name__ == "__main__":
    main()
