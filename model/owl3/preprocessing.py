"""Pictures to pixel values, exactly as the published processor computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.prompting import Grid

if TYPE_CHECKING:
    from PIL.Image import Image

# The grids that a picture may be cropped to; the first best one wins, in this order.
GRIDS: tuple[Grid, ...] = ((2, 2), (1, 3), (1, 4), (3, 1), (4, 1), (2, 3), (3, 2))
MEAN = DEVIATION = 0.5


def square(picture: Image, size: int) -> Tensor:
    """Resize to size x size (bicubic, the aspect ratio is not kept) -> (3, size, size)."""
    return _normalised(_resized(picture, size, size))


def crop(picture: Image, size: int) -> tuple[Tensor, Grid]:
    """Tiles, row by row, and the whole picture last -> (rows * columns + 1, 3, size, size)."""
    rows, columns = choose_grid(*picture.size, size)
    large = _normalised(_resized(picture, columns * size, rows * size))  # (3, rows*S, columns*S)
    tiles = large.view(3, rows, size, columns, size).permute(1, 3, 0, 2, 4).flatten(0, 1)
    return torch.cat((tiles, square(picture, size)[None])), (rows, columns)


def choose_grid(width: int, height: int, size: int) -> Grid:
    """The published rule: the grid whose shape, and then whose size, fits the picture best."""
    if width < 1 or height < 1:
        raise InvalidInput(f"a picture of {width} x {height} pixels.")

    def score(grid: Grid) -> float:
        rows, columns = grid
        box = (columns * size, rows * size)
        # Reference: the picture scaled to the grid's width, its height cut to whole pixels.
        same_width = (box[0], int(box[0] * height / width))
        return 100 * _overlap(box, same_width) + _overlap(box, (width, height))

    return max(GRIDS, key=score)  # the first maximum


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Intersection over union of two boxes at the same corner."""
    common = min(a[0], b[0]) * min(a[1], b[1])
    return common / (a[0] * a[1] + b[0] * b[1] - common + 1e-5)


def sample_frames(count: int, fps: float, most: int = 16) -> list[int]:
    """Which frames of a video to show: about one per second, then evenly at most `most`."""
    if count < 1 or fps <= 0 or most < 1:
        raise InvalidInput(f"a video of {count} frames at {fps} per second, {most} to be shown.")
    chosen = list(range(0, count, max(1, round(fps))))
    if len(chosen) > most:
        gap = len(chosen) / most
        chosen = [chosen[int(i * gap + gap / 2)] for i in range(most)]
    return chosen


def _resized(picture: Image, width: int, height: int) -> Image:
    from PIL.Image import Resampling

    return picture.convert("RGB").resize((width, height), Resampling.BICUBIC)


def _normalised(picture: Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32) / 255)  # (height, width, 3)
    return ((pixels - MEAN) / DEVIATION).permute(2, 0, 1).contiguous()
