"""From which likeness on two pictures show the same: the threshold of statements like "it looks
like Japan", and of when one look at the user's picture is enough. Part of `calibrate`.

Bad photographs, looked at as the answerer does: of Caltech pictures of classes that owl-nano never
saw, and of half of the real flags; each beside the picture itself and beside others.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quality.pictures import flags, photograph
from benchmarks.quality.scores import roc_area

Floats = NDArray[np.float64]
_PER_CLASS = 8
_OTHERS = 40  # that each photograph is compared with


def read(data: Path, cache: Path, folder: Path, flagged: int = 0) -> tuple[Floats, Floats]:
    """-> likeness of photographs to what they show, and to other things. flagged: which half of the
    flags."""
    from rag_owl.model.nano import shown, weights
    from rag_owl.model.nano.embedder import mean, scales, see
    from rag_owl.model.train.nano.pictures import load

    eyes = weights.load_eyes(folder)
    scale = scales(eyes, weights.manifest(folder)["calibration"])
    rng = random.Random(31)
    unseen = load(data, cache, "unseen")
    pictures: list[Image.Image] = []
    kinds: list[str] = []
    for label, name in enumerate(unseen.names):
        own = np.flatnonzero(unseen.labels == label)
        for i in rng.sample(own.tolist(), min(_PER_CLASS, len(own))):
            pictures.append(Image.fromarray(np.asarray(unseen.pixels[i])))
            kinds.append(name)
    for group in flags(data)[flagged::2]:
        pictures.append(group.pictures[0])
        kinds.append(group.name)
    _, clean = see(eyes, pictures)
    indexed = clean * scale
    same, other = [], []
    for i, picture in enumerate(pictures):
        _, pooled = see(eyes, shown.views(photograph(picture, rng)))
        alike = indexed @ (mean(eyes, pooled) * scale)
        same.append(float(alike[i]))
        flag = kinds[i].startswith("the flag of ")
        rest = [
            j for j in range(len(pictures))
            if kinds[j] != kinds[i] and kinds[j].startswith("the flag of ") == flag
        ]  # fmt: skip
        other += alike[torch.tensor(rng.sample(rest, min(_OTHERS, len(rest))))].tolist()
    return np.array(same), np.array(other)


def calibrate(data: Path, cache: Path, folder: Path) -> dict[str, Any]:
    """-> slope and offset from likeness to the probability of the same (as many pairs of each kind
    count), and its thresholds: supported is what two of a hundred other pairs reach, unsupported
    what one of ten pairs of the same stays below."""
    from sklearn.linear_model import LogisticRegression

    from benchmarks.quality.calibrate import FALSE_ALARMS, PASSED, reliability, sigmoid

    same, other = read(data, cache, folder)
    drawn = np.random.default_rng(0).choice(other, len(same), replace=False)
    both, truth = np.concatenate([same, drawn]), np.repeat([True, False], len(same))
    fitted = LogisticRegression(C=1e3).fit(both[:, None], truth)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    likely = sigmoid(both * slope + offset)
    reached = float(np.quantile(sigmoid(other * slope + offset), 1 - PASSED))
    below = float(np.quantile(likely[truth], FALSE_ALARMS))
    return {
        "slope": slope,
        "offset": offset,
        "thresholds": {"alike_from": max(reached, below), "alike_below": below},
        "roc_area": roc_area(same.tolist(), other.tolist()),
        "pairs": [len(same), len(other)],
        "reliability": reliability(likely, truth),
    }
