"""The heatmap's picture: what stood out is painted, an even look is not."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from rag_owl.api.heatmaps import paint


def alpha_of(attention: np.ndarray) -> np.ndarray:
    picture = Image.open(io.BytesIO(paint(attention.astype(np.float32), (64, 32))))
    assert (picture.mode, picture.size) == ("RGBA", (64, 32))
    return np.asarray(picture.getchannel("A"))


def test_what_drew_attention_is_painted_where_it_is() -> None:
    attention = np.ones((8, 8))
    attention[1, 6] = 9
    alpha = alpha_of(attention)
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    assert (row // 4, column // 8) == (1, 6)
    assert alpha.max() > 150
    assert alpha[20:, :32].max() == 0


def test_an_even_or_empty_look_paints_nothing() -> None:
    assert alpha_of(np.full((8, 8), 0.3)).max() == 0
    assert alpha_of(np.zeros((8, 8))).max() == 0
