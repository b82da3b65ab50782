"""How alike the user's pictures and the items' are, from their pooled vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag_owl.model.nano.reader import SIMILARITIES

INSTANCE = 128  # the first part of a pooled vector; the rest lies in the text space
UNLIKE = [0.0] * SIMILARITIES


def similarities(
    user: NDArray[np.float32], items: list[NDArray[np.float32] | None]
) -> list[list[float]]:
    """What the reader is told of each item's picture.

    user (n, D) and items (D,) are pooled vectors, halves of unit length side by side. Per item:
    whether both have a picture, cosine of the instance and of the text halves (the best over the
    user's pictures), and how far each lies from the best *other* item. Zeros without pictures.
    """
    out: list[list[float]] = []
    both = [
        None if item is None or not len(user)
        else (
            float((user[:, :INSTANCE] @ item[:INSTANCE]).max()),
            float((user[:, INSTANCE:] @ item[INSTANCE:]).max()),
        )
        for item in items
    ]  # fmt: skip
    for i, own in enumerate(both):
        if own is None:
            out.append(list(UNLIKE))
            continue
        rest = [b for j, b in enumerate(both) if j != i and b is not None]
        over = [own[k] - max(b[k] for b in rest) if rest else own[k] for k in (0, 1)]
        out.append([1.0, 2 * own[0], 2 * own[1], 4 * over[0], 4 * over[1]])
    return out
