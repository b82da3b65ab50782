"""Validation pictures for benchmarks about pictures: none of them was trained on."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality.warps import warp
from rag_owl.ports import BlobStore

_SIDE = 256  # small pictures are enlarged before they are warped


@dataclass(frozen=True)
class Group:
    """Pictures that show the same, and what that is called."""

    name: str
    pictures: Sequence[Image.Image]

    def two(self, rng: random.Random) -> tuple[Image.Image, Image.Image]:
        """Two different views: two pictures, or bad photographs of the only one."""
        if len(self.pictures) > 1:
            one, other = rng.sample(list(self.pictures), 2)
            return one, other
        return self.view(rng), self.view(rng)

    def view(self, rng: random.Random) -> Image.Image:
        if len(self.pictures) > 1:
            return rng.choice(list(self.pictures))
        return photograph(self.pictures[0], rng)


def photograph(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The picture as a bad photograph of it."""
    scale = max(1.0, _SIDE / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    return warp(picture.resize(size, Image.Resampling.BICUBIC), rng)


def things(data: Path, cache: Path) -> list[Group]:
    """Half of tiny-imagenet's own validation pictures by class: 202 classes of 10."""
    from rag_owl.model.train.nano.pictures import load

    found = load(data, cache, "val")
    return [
        Group(
            name.split(",")[0],
            [
                Image.fromarray(np.asarray(found.pixels[i]))
                for i in np.flatnonzero(found.labels == c)
            ],
        )
        for c, name in enumerate(found.names)
    ]


def flags(data: Path) -> list[Group]:
    """The real flags that look like no other, one picture each."""
    from rag_owl.model.train.nano.pictures import load_flags

    loaded = load_flags(data)
    sizes = np.bincount(loaded.groups)
    return [
        Group(
            f"the flag of {country['name']}",
            [Image.open(data / "countries" / country["image"]).convert("RGB")],
        )
        for country, group in zip(loaded.countries, loaded.groups, strict=True)
        if sizes[group] == 1
    ]


class Shelf:
    """Pictures as blobs, each put once."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._keys: dict[int, tuple[Image.Image, str]] = {}

    def put(self, picture: Image.Image) -> str:
        known = self._keys.get(id(picture))
        if known is None:
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            # The picture itself is kept, so that its id stays its own.
            known = self._keys[id(picture)] = (picture, self._blobs.put(buffer.getvalue()))
        return known[1]
