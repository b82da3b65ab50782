"""How alike the user's pictures and the items' are, from their pooled vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rag_owl.model.nano.eyes import Eyes
from rag_owl.model.nano.reader import SIMILARITIES

UNLIKE = [0.0] * SIMILARITIES
APPEARANCE = [1.0, *[0.0, 0.0, 1.0, 0.0] * 2]  # of these what remains of things never seen before
# The more one trusts in kinds, the worse are things told apart that the eyes do not know.
_NEVER = 0.01  # a probability of being of one kind that is no better than none


def similarities(user: Tensor, items: Sequence[Tensor | None], eyes: Eyes) -> list[list[float]]:
    """What the reader is told of each item's picture.

    user (n, D) and items (D,) are pooled vectors. Per item: whether both have a picture; cosines of
    the instance, text and appearance parts and, on a logarithmic scale from 0, the probability that
    both show the same kind of thing, each the best over the user's pictures; and how far these four
    lie from the best *other* item. Zeros without pictures.
    """
    out = [list(UNLIKE) for _ in items]
    there = [i for i, item in enumerate(items) if item is not None]
    if not there or not len(user):
        return out
    stacked = torch.stack([item for item in items if item is not None])
    alike = [a @ b.T for a, b in zip(eyes.parts(user), eyes.parts(stacked), strict=True)]
    of_kind = [eyes.kinds(eyes.parts(v)[0]).softmax(-1) for v in (user, stacked)]
    same = (1 + of_kind[0] @ of_kind[1].T / _NEVER).log() / 2  # from 0 to 2.3
    own = torch.stack([*alike, same]).amax(1)  # (4, m)
    for at, i in enumerate(there):
        rest = torch.cat([own[:, :at], own[:, at + 1 :]], 1)
        over = own[:, at] - rest.amax(1) if rest.shape[1] else own[:, at]
        out[i] = [1.0, *(2 * own[:, at]).tolist(), *(4 * over).tolist()]
    return out
