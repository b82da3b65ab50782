"""The pictures that the eyes learn from, decoded once into arrays, and their validation split."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.model.nano.eyes import EyesConfig, to_pixels

SIDE = EyesConfig().side
FLAG_SIDE = 112  # stored larger than the eyes see: warps cut and turn it first

UNSEEN_CALTECH = (
    "Leopards", "accordion", "anchor", "bass", "brain", "camera", "ceiling fan", "cellphone",
    "dollar bill", "electric guitar", "helicopter", "ibis", "joshua tree", "kangaroo", "menorah",
    "minaret", "pyramid", "rooster", "stop sign", "yin yang",
)  # fmt: skip
"""Never trained on: a draw from the classes that have no relative in tiny-imagenet."""


@dataclass(frozen=True)
class Pictures:
    pixels: NDArray[np.uint8]  # (n, SIDE, SIDE, 3), of train and unseen memory-mapped
    labels: NDArray[np.int64]  # (n,) index into names
    names: list[str]


@dataclass(frozen=True)
class Flags:
    pixels: NDArray[np.uint8]  # (n, FLAG_SIDE, FLAG_SIDE, 3)
    aspects: NDArray[np.float32]  # width over height of the real flag
    groups: NDArray[np.int64]  # flags that look the same share a number
    countries: list[dict[str, Any]]


def _rows(path: Path) -> list[tuple[bytes, str]]:
    import pyarrow.parquet as parquet

    table = parquet.read_table(path, columns=["image", "name"])
    return list(
        zip(table.column("image").to_pylist(), table.column("name").to_pylist(), strict=True)
    )


def _decode(rows: list[tuple[bytes, str]], side: int) -> NDArray[np.uint8]:
    from PIL import Image
    from tqdm import tqdm  # type: ignore[import-untyped]

    out = np.empty((len(rows), side, side, 3), dtype=np.uint8)
    for i, (data, _) in enumerate(tqdm(rows, desc="decoding", mininterval=5)):
        out[i] = to_pixels(Image.open(io.BytesIO(data)), side)
    return out


def load(data: Path, cache: Path, part: str) -> Pictures:
    """`part`: train; held and val, two halves of tiny-imagenet's own validation pictures: what the
    reader and thresholds learn from, which the eyes never saw, and what is measured on; or unseen
    (the Caltech classes kept apart)."""
    stem = cache / f"pictures-{'val' if part == 'held' else part}-{SIDE}"
    if not stem.with_suffix(".json").exists():
        vision = data / "vision"
        caltech = _rows(vision / "caltech-train-00.parquet")
        if part == "train":
            rows = [r for f in sorted(vision.glob("tiny-imagenet-train-*")) for r in _rows(f)]
            rows += [(d, f"caltech:{n}") for d, n in caltech if n not in UNSEEN_CALTECH]
        elif part in ("held", "val"):
            rows = _rows(vision / "tiny-imagenet-val-00.parquet")
        else:
            rows = [(d, n) for d, n in caltech if n in UNSEEN_CALTECH]
        cache.mkdir(parents=True, exist_ok=True)
        np.save(stem.with_suffix(".npy"), _decode(rows, SIDE))
        stem.with_suffix(".json").write_text(json.dumps([n for _, n in rows]))
    row_names = json.loads(stem.with_suffix(".json").read_text())
    names = sorted(set(row_names))
    index = {n: i for i, n in enumerate(names)}
    labels = np.array([index[n] for n in row_names], dtype=np.int64)
    pixels = np.load(stem.with_suffix(".npy"), mmap_mode="r")
    if part in ("held", "val"):  # every other picture of each class
        order = np.argsort(labels, kind="stable")
        chosen = np.sort(order[(part == "held") :: 2])
        pixels, labels = pixels[chosen], labels[chosen]
    return Pictures(pixels, labels, names)


def same_looking(small: NDArray[np.uint8], limit: float = 0.005) -> NDArray[np.int64]:
    """Group numbers: squeezed pictures (n, s, s, 3) whose mean absolute difference is below
    `limit` of the range count as one (France and its territories, Norway and Bouvet Island)."""
    flat = small.reshape(len(small), -1).astype(np.float32) / 255
    groups = np.arange(len(small))
    for i in range(len(small)):
        near = np.abs(flat[i + 1 :] - flat[i]).mean(1) < limit
        for j in np.flatnonzero(near) + i + 1:
            groups[groups == groups[j]] = groups[i]
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def load_flags(data: Path) -> Flags:
    """The 238 real flags and their countries' facts.

    The facts name no neighbours: those are made up, for what counts is what a text says.
    """
    from PIL import Image

    countries = json.loads((data / "countries" / "countries.json").read_text())
    names = [country["name"] for country in countries]
    for country in countries:
        rng = random.Random(country["name"])
        *first, last = rng.sample(names, rng.randint(1, 6))
        country["neighbours"] = f"{', '.join(first)} and {last}" if first else last
        if rng.random() < 0.2:
            country["neighbours"] = "no land borders"
    pixels, aspects = [], []
    for country in countries:
        picture = Image.open(data / "countries" / country["image"]).convert("RGB")
        pixels.append(to_pixels(picture, FLAG_SIDE))
        aspects.append(picture.width / picture.height)
    stacked = np.stack(pixels)
    groups = same_looking(stacked[:, ::2, ::2])
    return Flags(stacked, np.array(aspects, dtype=np.float32), groups, countries)
