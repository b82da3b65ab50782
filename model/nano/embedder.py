"""The eyes as the default picture embedder: pictures and texts in one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rag_owl.model.nano import minilm, weights
from rag_owl.model.nano.eyes import Eyes, normalise, to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image


class NanoPictureEmbedder:
    """Implements `rag_owl.ports.PictureEmbedder`.

    A vector is [√s · instance, √t · text, √a · appearance], s + t + a = 1: two pictures compare by
    all parts, a text by its own alone, so a text's cosine is at most √t. The shares are set after
    training, on validation pictures, and are part of the name: vectors of others cannot be mixed
    with these.
    """

    reads_text = True

    def __init__(self, eyes: Eyes, revision: str, calibration: dict[str, float]) -> None:
        self._eyes = eyes
        self._scales = scales(eyes, calibration)
        self.text_floor = calibration["text_floor"] * shares(calibration)[1] ** 0.5
        self.name = f"owl-nano-eyes@{revision}"
        self.dimension = eyes.config.embedding_width

    @classmethod
    def load(cls, folder: Path = weights.FOLDER) -> NanoPictureEmbedder:
        """From the bundled files. Raises `InvalidCheckpoint` when one is missing or damaged."""
        eyes, card = weights.load_eyes(folder), weights.manifest(folder)
        instance, text, _ = shares(card["calibration"])
        revision = f"{card['files']['eyes.safetensors'][:8]}-{instance * 100:.0f}-{text * 100:.0f}"
        return cls(eyes, revision, card["calibration"])

    def embed_pictures(self, pictures: Sequence[Image]) -> NDArray[np.float32]:
        """(n,) upright RGB -> (n, dimension), rows of unit length."""
        if not pictures:
            return np.zeros((0, self.dimension), np.float32)
        _, pooled = see(self._eyes, pictures)
        vectors: NDArray[np.float32] = (pooled * self._scales).numpy()
        return vectors

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """-> (dimension,) of unit length, zeros but in the text part."""
        out = torch.zeros(self.dimension)
        self._eyes.parts(out)[1][:] = torch.from_numpy(minilm.sentence_vectors([text])[0])
        vector: NDArray[np.float32] = out.numpy()
        return vector


def see(eyes: Eyes, pictures: Sequence[Image], batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Pictures -> features (n, G*G, C) and pooled vectors (n, D), their parts of unit length."""
    side = eyes.config.side
    features, pooled = [], []
    with torch.inference_mode():
        for i in range(0, len(pictures), batch_size):
            stacked = np.stack([to_pixels(p, side) for p in pictures[i : i + batch_size]])
            pixels = normalise(torch.from_numpy(stacked))
            patches, *parts = eyes(pixels.contiguous(memory_format=torch.channels_last))
            features.append(patches)
            pooled.append(torch.cat(parts, 1))
    return torch.cat(features), torch.cat(pooled)


def mean(eyes: Eyes, pooled: Tensor) -> Tensor:
    """Vectors (n, D) of views of one thing -> (D,), its parts of unit length."""
    return torch.cat([F.normalize(part.mean(0), dim=-1) for part in eyes.parts(pooled)])


def shares(calibration: Mapping[str, float]) -> tuple[float, float, float]:
    """Of instance, text and appearance in the cosine of two pictures; together 1."""
    instance, text = calibration["instance_share"], calibration["text_share"]
    return instance, text, max(0.0, 1 - instance - text)


def scales(eyes: Eyes, calibration: Mapping[str, float]) -> Tensor:
    """(D,), which a pooled vector is multiplied with: parts of unit length become one."""
    c = eyes.config
    widths = torch.tensor([c.instance_width, c.text_width, c.appearance_width])
    return torch.tensor(shares(calibration)).sqrt().repeat_interleave(widths)
