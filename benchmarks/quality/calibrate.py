"""Set every threshold of owl-nano's evidence on the first 20 validation articles, and write them
beside the weights with the curves they were read off:

    python -m benchmarks.quality.calibrate --data DATA --cache FOLDER [--weights FOLDER]

Writes FOLDER/support.json (numbers; bound to the sha256 of reader and eyes) and
benchmarks/quality/calibration.png. To be run again after every export of weights; the other 20
articles are left to `planted` and `abstention`, which measure.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.nano_reading import context
from benchmarks.quality.planted_cases import UNTOUCHED, Planted, planted
from benchmarks.quality.scores import roc_area
from rag_owl.checking import Asked, Checker
from rag_owl.model.nano.signals import ASKED, SIGNALS
from rag_owl.model.train.nano.export import logistic
from rag_owl.types import Claim

Floats = NDArray[np.float64]

FALSE_ALARMS = 0.10  # of true statements that are not word for word: called unsupported
PASSED = 0.02  # of altered statements: called supported
DENIALS = 0.02  # of true statements: called contradicted by another source
MISTAKEN = 0.05  # of statements about something else: called contradicted
PLOT = Path(__file__).parent / "calibration.png"


def sigmoid(x: Floats) -> Floats:
    out: Floats = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return out


def support(judge: Any, cases: Sequence[Planted]) -> dict[str, Any]:
    """The judge's part: claims of untouched and altered answers, weighed and cut."""
    claims, kinds, verbatim = [], [], []
    for case in cases:
        items = [source.item for source in context(case.question, list(case.texts)).sources]
        checker = Checker(case.question, items, lambda: None)
        if case.cited < len(items) and case.kind != "added":
            asked = Asked(case.statement, case.cited)
            claims.append(Claim(case.statement, items[case.cited], case.question))
            kinds.append(case.kind)
            verbatim.append(checker.check([asked])[0].verdict == "supported")
        if case.kind in ("added", UNTOUCHED):
            for other in checker.denying(case.statement, [case.cited]):
                claims.append(Claim(case.statement, items[other], case.question))
                kinds.append(f"{case.kind}, beside")
                verbatim.append(False)
    read = judge.signs(claims)
    found = [(r, k, v) for r, k, v in zip(read, kinds, verbatim, strict=True) if r is not None]
    x = np.array([r.signals for r, _, _ in found])
    asked = np.array([r.asked is not None for r, _, _ in found])
    more = np.array([r.asked for r, _, _ in found if r.asked is not None])
    shares = np.array([r.shares for r, _, _ in found])
    kind, word_for_word = np.array([k for _, k, _ in found]), np.array([v for _, _, v in found])
    true = kind == UNTOUCHED
    cited = ~np.char.endswith(kind, "beside")
    weights, offset = logistic(x[cited], true[cited])
    likely = sigmoid(x @ weights + offset)
    asked_weights, asked_offset = logistic(more[cited[asked]], true[asked & cited])
    likely[asked] = sigmoid(more @ asked_weights + asked_offset)
    denied = (1 - likely) * shares[:, 1] / (shares[:, 1] + shares[:, 2] + 1e-9)
    judged = true & ~word_for_word
    altered = cited & ~true
    untouched = sum(case.kind == UNTOUCHED for case in cases)
    beside = np.sort(denied[kind == f"{UNTOUCHED}, beside"])
    allowed = int(DENIALS * untouched)
    least = float(beside[-allowed - 1]) if len(beside) > allowed else 0.0
    below = float(np.quantile(likely[judged], FALSE_ALARMS))
    # At least as sure as a statement that is not called unsupported.
    above = max(float(np.quantile(likely[altered], 1 - PASSED)), below)
    unrelated = denied[(kind == "marker") | (kind == "removed")]
    least = max(least + 1e-6, float(np.quantile(unrelated, 1 - MISTAKEN)))
    caught = denied[kind == "added, beside"] >= least
    false = denied[kind == "name"] >= least
    grid = np.linspace(0, 1, 51)
    return {
        "weights": dict(zip(SIGNALS, weights.tolist(), strict=True)),
        "offset": offset,
        "asked_weights": dict(zip(ASKED, asked_weights.tolist(), strict=True)),
        "asked_offset": asked_offset,
        "supported_from": above,
        "unsupported_below": below,
        "contradicted_from": least,
        "counts": {k: int((kind == k).sum()) for k in sorted(set(kind.tolist()))},
        "roc_area": roc_area(likely[judged].tolist(), likely[altered].tolist()),
        "deniers_caught": float(caught.mean()),
        "false_called_contradicted": float(false.mean()),
        "true_called_supported": float((likely[judged] >= above).mean()),
        "curve": {
            "threshold": grid.round(2).tolist(),
            "true_below": [float((likely[judged] < t).mean()) for t in grid],
            "altered_below": [float((likely[altered] < t).mean()) for t in grid],
        },
        "reliability": reliability(likely[judged | altered], true[judged | altered]),
    }


def reliability(likely: Floats, true: NDArray[np.bool_], bins: int = 10) -> list[list[float]]:
    """Per tenth of the probability: its mean, the share that is true, how many."""
    place = np.minimum((likely * bins).astype(int), bins - 1)
    return [
        [float(likely[place == b].mean()), float(true[place == b].mean()), int((place == b).sum())]
        for b in range(bins)
        if (place == b).any()
    ]


def write(folder: Path, card: dict[str, Any]) -> None:
    from rag_owl.model.nano.weights import EVIDENCE

    # Keys stay in their order: weights are named in the order of their signals.
    text = json.dumps(card, indent=1) + "\n"
    (folder / EVIDENCE).write_text(text, encoding="utf-8")


def main() -> None:
    from rag_owl.model.nano import NanoJudge, weights

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=weights.FOLDER)
    parser.add_argument("--cases", type=int, default=600, help="altered ones; as many untouched")
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--cache", type=Path, required=True, help="decoded pictures are kept here")
    parser.add_argument("--plot", type=Path, default=PLOT)
    parser.add_argument(
        "--only", choices=["judge", "answerable", "likeness", "pointing", "grounding"]
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    import torch

    from benchmarks.quality.abstention import calibrate as answerable
    from benchmarks.quality.grounding import calibrate as grounding
    from benchmarks.quality.likeness import calibrate as likeness
    from benchmarks.quality.plots import calibration
    from benchmarks.quality.pointing import calibrate as pointing

    torch.set_num_threads(args.threads)
    begun = time.time()
    files = weights.manifest(args.weights)["files"]
    card = {name: files[f"{name}.safetensors"] for name in ("reader", "eyes")}
    if args.only:
        card = (weights.evidence(args.weights) or {}) | card
    parts = {
        "judge": lambda: support(
            NanoJudge.load(args.weights), planted(args.data, args.cases, calibration=True)
        ),
        "answerable": lambda: answerable(args.data, args.weights, args.questions),
        "likeness": lambda: likeness(args.data, args.cache, args.weights),
        "pointing": lambda: pointing(args.data, args.cache, args.weights, args.scenes),
        # Last: what is answered depends on the threshold above.
        "grounding": lambda: grounding(args.data, args.weights, args.questions // 2),
    }
    for name, part in parts.items():
        if args.only in (None, name):
            card[name] = part()
            write(args.weights, card)
            print(f"{name}: {time.time() - begun:.0f} s", flush=True)
    if "judge" in card:
        calibration(card, args.plot)
    for name in (name for name in parts if name in card):
        print(name, {k: round(v, 3) for k, v in card[name].items() if isinstance(v, float)})
    print(f"{args.weights / weights.EVIDENCE} and {args.plot} in {time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
