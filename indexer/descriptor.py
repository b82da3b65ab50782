"""A visual descriptor without a model: where which colours are, how much they vary, which way
edges run. It finds a picture again that was rescaled, recompressed, slightly cropped, tilted or
tinted. It understands nothing: two photographs of one thing are as far apart as their colours.

Four parts, each of unit length before it is weighted, over a picture of 64 x 64 in CIE L*a*b*
(`skimage.color.rgb2lab`), pooled into overlapping Gaussian cells so that a shift of a few pixels
changes little:

    colour     mean L*a*b* in 8 x 8 cells
    spread     standard deviation of L*a*b* in 4 x 4 cells: emblems, texture
    histogram  3 x 4 x 4 soft bins of L*a*b* in 2 x 2 cells, square root taken (Hellinger)
    gradient   8 soft orientations in 4 x 4 cells (as in HOG, Dalal and Triggs 2005), from the
               strongest of the three channels, saturated so that contrast matters little

`python -m benchmarks.vectors --pictures FOLDER` prints how often it finds a picture again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab

from rag_owl.errors import InvalidInput

Floats = NDArray[np.float32]

SIDE = 64  # pixels; the picture's proportions are given up
COLOUR_CELLS, SPREAD_CELLS, HISTOGRAM_CELLS, GRADIENT_CELLS = 8, 4, 2, 4  # per side
LIGHTNESS_BINS, CHROMA_BINS, ORIENTATIONS = 3, 4, 8
COLOUR_WEIGHT, SPREAD_WEIGHT, HISTOGRAM_WEIGHT, GRADIENT_WEIGHT = 1.0, 0.5, 0.5, 0.2
LAB_SCALE = np.array([50, 60, 60], np.float32)  # about where L* - 50, a*, b* end
CELL_WIDTH = 0.6  # standard deviation of a Gaussian cell, in cells
SATURATION = 15.0  # L*a*b* units per two pixels: the gradient that counts half


class DescriptorPictureEmbedder:
    """`rag_owl.ports.PictureEmbedder` of plain statistics. Safe to use from several threads."""

    name = "descriptor@1"  # counts up with every change of the numbers above
    dimension = (
        3 * COLOUR_CELLS**2
        + 3 * SPREAD_CELLS**2
        + LIGHTNESS_BINS * CHROMA_BINS**2 * HISTOGRAM_CELLS**2
        + ORIENTATIONS * GRADIENT_CELLS**2
    )
    reads_text = False
    text_floor = 1.0

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Floats:
        """(n,) upright pictures -> (n, dimension), rows of unit length; about 2 ms each."""
        vectors = np.empty((len(pictures), self.dimension), np.float32)
        for row, picture in zip(vectors, pictures, strict=True):
            row[:] = describe(picture)
        return vectors

    def embed_query(self, text: str) -> Floats:
        raise InvalidInput(
            "the picture descriptor does not read text; search with a picture, or build the "
            "collection with a picture embedder that does"
        )


def describe(picture: Image.Image) -> Floats:
    """-> (560,) of unit length."""
    # Pillow's filters average over what a pixel of the small picture covers.
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    lab = rgb2lab(np.asarray(small)).astype(np.float32)  # (S, S, 3); L* 0..100, a* b* about ±100
    scaled = lab / LAB_SCALE - np.array([1, 0, 0], np.float32)
    mean = _pool(scaled, SPREAD_CELLS)
    variance = _pool(scaled**2, SPREAD_CELLS) - mean**2
    parts = (
        COLOUR_WEIGHT * _unit(_pool(scaled, COLOUR_CELLS)),
        SPREAD_WEIGHT * _unit(np.sqrt(variance.clip(0))),
        HISTOGRAM_WEIGHT * _unit(np.sqrt(_pool(_soft_bins(lab), HISTOGRAM_CELLS))),
        GRADIENT_WEIGHT * _unit(_pool(_orientations(lab), GRADIENT_CELLS)),
    )
    joined = np.concatenate(parts)
    unit: Floats = joined / np.linalg.norm(joined)  # not 0: the histogram counts every pixel
    return unit


def _cells(cells: int) -> Floats:
    """(cells, SIDE): the weight of each pixel column in each Gaussian cell; rows sum to 1."""
    centre = (np.arange(cells) + 0.5) / cells
    pixel = (np.arange(SIDE) + 0.5) / SIDE
    distance = (pixel - centre[:, None]) * cells / CELL_WIDTH
    weights = np.exp(-(distance**2) / 2)
    result: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


_CELLS = {cells: _cells(cells) for cells in (COLOUR_CELLS, SPREAD_CELLS, HISTOGRAM_CELLS)}


def _pool(maps: Floats, cells: int) -> Floats:
    """(S, S, C) -> (cells, cells, C): weighted means."""
    weights = _CELLS[cells]
    rows = np.tensordot(weights, maps, axes=(1, 0))  # (cells, S, C)
    pooled: Floats = np.tensordot(weights, rows, axes=(1, 1)).swapaxes(0, 1)  # (cells, cells, C)
    return pooled


def _unit(part: Floats) -> Floats:
    """Flat, of unit length; what has next to nothing (a plain picture's edges) stays small."""
    flat = part.ravel()
    return flat / np.float32(max(float(np.linalg.norm(flat)), 0.1))


def _soft_bins(lab: Floats) -> Floats:
    """(S, S, 3) -> (S, S, 48): each pixel's share in the bins around its colour; sums to 1."""

    def shares(values: Floats, low: float, high: float, bins: int) -> Floats:
        position = ((values - low) / (high - low)).clip(0, 1) * (bins - 1)
        result: Floats = (1 - np.abs(position[..., None] - np.arange(bins))).clip(0)
        return result

    lightness = shares(lab[..., 0], 10, 90, LIGHTNESS_BINS)
    red_green = shares(lab[..., 1], -60, 60, CHROMA_BINS)
    yellow_blue = shares(lab[..., 2], -60, 60, CHROMA_BINS)
    chroma = red_green[..., :, None] * yellow_blue[..., None, :]  # (S, S, 4, 4)
    joint = lightness[..., :, None, None] * chroma[..., None, :, :]  # (S, S, 3, 4, 4)
    return joint.reshape(SIDE, SIDE, -1).astype(np.float32)


def _orientations(lab: Floats) -> Floats:
    """(S, S, 3) -> (S, S, 8): gradient strength, shared between the two nearest orientations."""
    across, down = np.zeros_like(lab), np.zeros_like(lab)
    across[:, 1:-1] = lab[:, 2:] - lab[:, :-2]
    down[1:-1] = lab[2:] - lab[:-2]
    strongest = (across**2 + down**2).argmax(axis=-1)[..., None]
    across = np.take_along_axis(across, strongest, -1)[..., 0]
    down = np.take_along_axis(down, strongest, -1)[..., 0]
    strength = np.hypot(across, down)
    strength /= strength + SATURATION
    angle = np.arctan2(down, across) % np.pi / np.pi * ORIENTATIONS  # 0..8, 8 is 0 again
    distance = np.abs(angle[..., None] - np.arange(ORIENTATIONS))  # (S, S, 8)
    distance = np.minimum(distance, ORIENTATIONS - distance)
    shares: Floats = (strength[..., None] * (1 - distance).clip(0)).astype(np.float32)
    return shares
