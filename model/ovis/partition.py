"""Ovis 1.6's pictures: cut into tiles where that shows more, each fitted into a square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.prompting import Grid, Size

if TYPE_CHECKING:
    from PIL.Image import Image

TILE = -300
INDICATORS = (-301, -302, -303, -304, -305)  # start, end of the overview, column, row, end
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

    size = _fitted(*picture.size, side)
    small = picture.convert("RGB").resize(size, Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(small, dtype=np.float32) / 255)
    square = torch.zeros(3, side, side)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    normed = ((pixels - 0.5) / 0.5).permute(2, 0, 1)
    square[:, top : top + size[1], left : left + size[0]] = normed
    return square


def _fitted(width: int, height: int, side: int) -> Size:
    if width >= height:
        size = (side, int(height / width * side))
    else:
        size = (int(width / height * side), side)
    # A sliver of a picture keeps one pixel; the published code fails on it.
    return max(1, size[0]), max(1, size[1])


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


def over_picture(
    mass: Tensor, grid: Grid | None, size: Size | None, side: int, cell: int
) -> Tensor:
    """Attention on a picture's place in the sequence, as it lies over the upright picture.

    mass (t,) over the place with its marks, `size` of the picture (None: a square), `cell` the
    pixels of a tile's edge that one of its vectors stands for. -> (rows, columns), the grey of
    letterboxes left out; of several tiles each where it was cut, and the whole picture's mass
    spread over them.
    """
    rows, columns = grid or (1, 1)
    width, height = size or (side, side)
    ids = placeholders((rows, columns))
    vectors = (len(mass) - len(ids)) // ids.count(TILE) + 1
    parts, at = [], 0
    for token in ids:
        if token == TILE:
            parts.append(mass[at : at + vectors])
        at += vectors if token == TILE else 1
    cuts = boxes(width, height, (rows, columns))
    inside = _fitted(cuts[0][2] - cuts[0][0], cuts[0][3] - cuts[0][1], side)
    high, wide = (max(1, round(edge / cell)) for edge in (inside[1], inside[0]))
    if rows * columns == 1:
        return _unboxed(parts[0], (width, height), side, cell, (high, wide))
    whole, *rest = parts
    shape = (rows * high, columns * wide)
    over = _unboxed(whole, (width, height), side, cell, shape)
    over = over * (whole.sum() / over.sum().clamp(min=1e-12))
    for number, (left, top, right, bottom) in enumerate(cuts):
        y, x = divmod(number, columns)
        tile = _unboxed(rest[number], (right - left, bottom - top), side, cell, (high, wide))
        over[y * high : (y + 1) * high, x * wide : (x + 1) * wide] += tile
    return over


def _unboxed(mass: Tensor, size: Size, side: int, cell: int, shape: Grid) -> Tensor:
    """One tile's mass at evenly spread points of what it shows -> `shape`."""
    edge = round(len(mass) ** 0.5)
    inside = _fitted(*size, side)
    picks = []
    for count, length in ((shape[0], inside[1]), (shape[1], inside[0])):
        points = (torch.arange(count) + 0.5) / count * length + (side - length) // 2
        picks.append((points / cell).long().clamp(max=edge - 1))
    return mass.view(edge, edge)[picks[0]][:, picks[1]]
