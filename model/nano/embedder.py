"""The eyes as the default picture embedder: pictures and texts in one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag_owl.model.nano import minilm, weights
from rag_owl.model.nano.eyes import Eyes, normalise, to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image


class NanoPictureEmbedder:
    """Implements `rag_owl.ports.PictureEmbedder`.

    A vector is [√s · instance, √(1-s) · text]: two pictures compare by both halves, a text by the
    second alone, so a text's cosine is at most √(1-s). `s` is set after training, on validation
    pictures, and is part of the name: vectors of another `s` cannot be mixed with these.
    """

    reads_text = True

    def __init__(self, eyes: Eyes, revision: str, calibration: dict[str, float]) -> None:
        self._eyes = eyes
        self._share = share = calibration["instance_share"]
        self.text_floor = calibration["text_floor"] * (1 - share) ** 0.5
        self.name = f"owl-nano-eyes@{revision}"
        self.dimension = eyes.config.embedding_width

    @classmethod
    def load(cls, folder: Path = weights.FOLDER) -> NanoPictureEmbedder:
        """From the bundled files. Raises `InvalidCheckpoint` when one is missing or damaged."""
        card = weights.manifest(folder)
        share = card["calibration"]["instance_share"]
        revision = f"{card['files']['eyes.safetensors'][:8]}-{round(share * 100)}"
        return cls(weights.load_eyes(folder), revision, card["calibration"])

    def embed_pictures(self, pictures: Sequence[Image]) -> NDArray[np.float32]:
        """(n,) upright RGB -> (n, dimension), rows of unit length."""
        if not pictures:
            return np.zeros((0, self.dimension), np.float32)
        _, pooled = see(self._eyes, pictures)
        vectors: NDArray[np.float32] = weigh(pooled, self._share, self._eyes).numpy()
        return vectors

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """-> (dimension,) of unit length, zeros in the instance half."""
        out = np.zeros(self.dimension, np.float32)
        out[self._eyes.config.instance_width :] = minilm.sentence_vectors([text])[0]
        return out


def see(eyes: Eyes, pictures: Sequence[Image], batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Pictures -> features (n, G*G, C) and pooled vectors (n, D), halves of unit length."""
    side = eyes.config.side
    features, pooled = [], []
    with torch.inference_mode():
        for i in range(0, len(pictures), batch_size):
            stacked = np.stack([to_pixels(p, side) for p in pictures[i : i + batch_size]])
            pixels = normalise(torch.from_numpy(stacked))
            patches, *halves = eyes(pixels.contiguous(memory_format=torch.channels_last))
            features.append(patches)
            pooled.append(torch.cat(halves, 1))
    return torch.cat(features), torch.cat(pooled)


def weigh(pooled: Tensor, share: float, eyes: Eyes) -> Tensor:
    """Pooled halves (n, D) -> one unit vector each, the instance half with `share` of the dot."""
    widths = [eyes.config.instance_width, eyes.config.text_width]
    scale = torch.cat(
        [torch.full((w,), s) for w, s in zip(widths, (share, 1 - share), strict=True)]
    )
    return pooled * scale.sqrt()
