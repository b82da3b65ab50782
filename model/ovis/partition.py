"""Ovis 1.6's pictures: cut into tiles where that shows more, each fitted into a square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.ovis.model import INDICATORS, TILE
from rag_owl.model.prompting import Grid

if TYPE_CHECKING:
    from PIL.Image import Image

COVERED = 0.9  # of a picture's area that a grid must keep at full resolution


def choose_grid(width: int, height: int, side: int, most: int) -> Grid:
    """The published rule: the fewest tiles that cover enough, and else the best coverage."""
    grids = [
        (rows, columns)
        for rows in range(1, most + 1)
        for columns in range(1, most + 1)
        if rows * columns <= most
    ]
    covered = {grid: _covered(width, height, grid, side) for grid in grids}
    enough = [grid for grid in grids if covered[grid] > COVERED]
    if enough:  # of equals the first: min keeps it
        return min(enough, key=lambda grid: (grid[0] * grid[1], -covered[grid]))
    return min(grids, key=lambda grid: (-covered[grid], grid[0] * grid[1]))


def boxes(width: int, height: int, grid: Grid) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom of each tile, row by row; the last ones take what remains."""
    rows, columns = grid
    high, wide = height // rows, width // columns
    return [
        (
            column * wide,
            row * high,
            width if column == columns - 1 else (column + 1) * wide,
            height if row == rows - 1 else (row + 1) * high,
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _covered(width: int, height: int, grid: Grid, side: int) -> float:
    area = 0.0
    for left, top, right, bottom in boxes(width, height, grid):
        long, short = max(right - left, bottom - top), min(right - left, bottom - top)
        area += long * short if long <= side else side * (short / long * side)
    return area / (width * height)


def letterbox(picture: Image, side: int) -> Tensor:
    """The long edge becomes `side`, the rest of the square is grey -> (3, side, side)."""
    from PIL.Image import Resampling

    width, height = picture.size
    if width >= height:
        size = (side, int(height / width * side))
    else:
        size = (int(width / height * side), side)
    # A sliver of a picture keeps one pixel; the published code fails on it.
    size = (max(1, size[0]), max(1, size[1]))
    small = picture.convert("RGB").resize(size, Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(small, dtype=np.float32) / 255)
    square = torch.zeros(3, side, side)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    normed = ((pixels - 0.5) / 0.5).permute(2, 0, 1)
    square[:, top : top + size[1], left : left + size[0]] = normed
    return square


def tiles(picture: Image, side: int, most: int) -> tuple[Tensor, Grid]:
    """-> (n, 3, side, side) and the grid; of several tiles the whole picture comes first."""
    if min(picture.size) < 1:
        raise InvalidInput(f"a picture of {picture.size[0]} x {picture.size[1]} pixels.")
    grid = choose_grid(*picture.size, side, most)
    crops = [picture.crop(box) for box in boxes(*picture.size, grid)]
    if len(crops) > 1:
        crops.insert(0, picture)
    return torch.stack([letterbox(crop, side) for crop in crops]), grid


def placeholders(grid: Grid) -> list[int]:
    """The ids that stand for a picture of that grid, marks included."""
    start, overview, column, row, end = INDICATORS
    ids = [start, TILE, overview]
    rows, columns = grid
    if rows * columns > 1:
        for number in range(rows):
            ids += [row] if number else []
            for place in range(columns):
                ids += [column, TILE] if place else [TILE]
    return [*ids, end]
