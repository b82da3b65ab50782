"""What owl-nano does with pictures before it reads: views of the user's, and which it reads beside.

It was trained on three to six pictured items at a time. Of more, the least alike are not read; of
fewer, pictures of nothing in particular stand beside, so that "more alike than the others" still
means something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PICTURED = 6  # items with a picture that are read at once
LEAST_PICTURED = 3
STAND_IN = "Another picture."  # what is written in an item that stands beside
SURE = 0.95  # probability of the same from which on a second look is not needed
AHEAD = 0.1  # and how much more alike the best must be than the next
_ANGLES = (-16, 0, 16)  # degrees
_SHARES = (1.0, 0.85, 0.7)  # of both sides, about the middle
_SIDE = 160  # pixels that views are cut from: more than the eyes see


def views(picture: Image) -> list[Image]:
    """The same picture turned and from nearer by, itself first: a photograph is rarely straight and
    has something around what it shows."""
    from PIL import Image as pillow  # noqa: N813

    small = picture.convert("RGB").resize((_SIDE, _SIDE), pillow.Resampling.BICUBIC)
    found = [picture]
    for angle in _ANGLES:
        turned = small.rotate(angle, pillow.Resampling.BICUBIC) if angle else small
        for share in _SHARES:
            if angle == 0 and share == 1.0:
                continue
            low, high = round((1 - share) / 2 * _SIDE), round((1 + share) / 2 * _SIDE)
            found.append(turned.crop((low, low, high, high)))
    return found


def stand_ins(count: int) -> list[Image]:
    """Pictures of nothing in particular: soft gradients of greys."""
    import numpy as np
    from PIL import Image as pillow  # noqa: N813

    ramp = np.linspace(60, 200, 64)
    grids = [np.add.outer(ramp, ramp) / 2, np.subtract.outer(ramp, ramp) / 2 + 128]
    made = [pillow.fromarray(grid.astype(np.uint8)).convert("RGB") for grid in grids]
    return made[:count]


def shortlist(alike: Sequence[float | None]) -> list[int]:
    """alike: per source its picture's likeness to the user's, None without one -> those to read."""
    pictured = sorted((-a, i) for i, a in enumerate(alike) if a is not None)
    left_out = {i for _, i in pictured[MOST_PICTURED:]}
    return [i for i in range(len(alike)) if i not in left_out]
