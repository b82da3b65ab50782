"""Where in an item's picture the thing is that the user shows.

Read off two things: which patches the heads of the hyper layers attend to while they read that
item, and which patches the eyes see alike (as class activation maps, arXiv 1512.04150: how much
each patch adds to the similarity of the pooled vectors). Which heads and maps count, and how much,
was chosen on validation scenes by `benchmarks.quality.calibrate`.

L hyper layers, H heads, P patches (G * G, row by row from the top left), M maps
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rag_owl.model.nano.eyes import Eyes

Floats: TypeAlias = NDArray[np.float32]

OF_THE_EYES = ("instance", "text", "nearest patch", "mean patch", "pooled patches", "strength")


def names(layers: Sequence[int], heads: int) -> list[str]:
    """Of the maps, in their order: per hyper layer and head, then those of the eyes."""
    return [f"layer {n} head {h}" for n in layers for h in range(heads)] + list(OF_THE_EYES)


def maps(attention: Tensor, eyes: Eyes, item: tuple[Tensor, Tensor], user: Tensor) -> Floats:
    """attention (L, H, P); of the item its features (P, C) and of the user's picture too, the
    user's pooled vector; -> (M, P), each map with mean 0 and deviation 1."""
    features, theirs = item
    c, first = eyes.config, eyes.config.widths[2]
    seen = F.gelu(features)
    columns = slice(first, first + c.feature_width)
    scale = eyes.pooled_norm.weight[columns]
    cosine = F.cosine_similarity(features[:, None], theirs[None], dim=-1)  # (P, P)
    instance, text, _ = eyes.parts(user)
    own = [
        seen @ (eyes.instance_head.weight[:, columns] * scale).T @ instance,
        seen @ (eyes.text_head.weight[:, columns] * scale).T @ text,
        cosine.max(1).values,
        cosine.mean(1),
        F.cosine_similarity(seen, F.gelu(theirs).mean(0)[None], dim=-1),
        features.norm(dim=1),
    ]
    # Attention is compared by its logarithm: a head that looks at little still ranks the patches.
    every = torch.cat([attention.flatten(0, 1).float().add(1e-6).log(), torch.stack(own).float()])
    every = every - every.mean(1, keepdim=True)
    every = every / (every.std(1, correction=0, keepdim=True) + 1e-6)
    found: Floats = every.numpy().astype(np.float32)
    return found


def read_off(stacked: Floats, weights: NDArray[np.float64], offset: float) -> Floats:
    """(M, P) -> (G, G): the probability that each patch lies on the thing."""
    score = np.clip(weights @ stacked + offset, -30, 30)
    side = round(len(score) ** 0.5)
    likely: Floats = (1 / (1 + np.exp(-score))).reshape(side, side).astype(np.float32)
    return likely
