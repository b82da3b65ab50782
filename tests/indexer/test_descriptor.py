"""The picture descriptor finds drawn flags again after what happens to pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from rag_owl.errors import InvalidInput
from rag_owl.indexer.descriptor import DescriptorPictureEmbedder, describe

COLOURS = ["#ce1126", "#ffffff", "#0052b4", "#009543", "#ffd700", "#000000", "#74acdf"]


def flags() -> list[Image.Image]:
    """Stripes both ways, discs and crosses in two or three of the usual colours."""
    drawn = []
    for a, first in enumerate(COLOURS):
        for second in COLOURS[a + 1 :]:
            for pattern in ("across", "down", "disc", "cross", "canton"):
                picture = Image.new("RGB", (300, 200), first)
                draw = ImageDraw.Draw(picture)
                if pattern == "across":
                    draw.rectangle((0, 100, 300, 200), fill=second)
                elif pattern == "down":
                    draw.rectangle((100, 0, 199, 200), fill=second)
                elif pattern == "disc":
                    draw.ellipse((90, 40, 210, 160), fill=second)
                elif pattern == "cross":
                    draw.rectangle((90, 0, 130, 200), fill=second)
                    draw.rectangle((0, 80, 300, 120), fill=second)
                else:
                    draw.rectangle((0, 0, 130, 90), fill=second)
                drawn.append(picture)
    return drawn


def jpeg(picture: Image.Image, quality: int = 30) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


CHANGES = {
    "smaller": lambda p: p.resize((60, 40)),
    "larger, other proportions": lambda p: p.resize((500, 280)),
    "recompressed": jpeg,
    "cropped": lambda p: p.crop((20, 5, 290, 185)),
    "tilted": lambda p: p.rotate(8, Image.Resampling.BICUBIC, fillcolor="#808080"),
    "tilted back": lambda p: p.rotate(-8, Image.Resampling.BICUBIC, fillcolor="#d0d0d0"),
    "blurred": lambda p: p.filter(ImageFilter.GaussianBlur(3)),
    "tinted": lambda p: Image.fromarray(
        (np.asarray(p) * np.array([0.9, 1.0, 0.95]) + 8).clip(0, 255).astype(np.uint8)
    ),
    "all at once": lambda p: jpeg(
        p.crop((9, 9, 280, 190)).rotate(5, fillcolor="#404040").resize((120, 90)), 40
    ),
}


@pytest.fixture(scope="module")
def index() -> np.ndarray:
    return DescriptorPictureEmbedder().embed_pictures(flags())


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found_again(index, change):
    queries = DescriptorPictureEmbedder().embed_pictures([CHANGES[change](p) for p in flags()])
    found = (queries @ index.T).argmax(axis=1)
    assert np.mean(found == np.arange(len(index))) >= 0.97


def test_vectors_are_of_unit_length_whatever_the_picture():
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    pictures = [
        Image.new("RGB", (1, 1), "black"),
        Image.new("RGB", (3, 500), "white"),
        Image.new("RGB", (9, 9), "#777777"),
        Image.new("L", (20, 20), 90),
        Image.new("RGBA", (20, 20), (255, 0, 0, 255)),
        Image.fromarray(noise),
    ]
    embedder = DescriptorPictureEmbedder()
    vectors = embedder.embed_pictures(pictures)
    assert vectors.shape == (6, embedder.dimension) == (6, 560)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert embedder.embed_pictures([]).shape == (0, 560)
    np.testing.assert_array_equal(vectors[5], describe(pictures[5]))


def test_mirrored_stripes_differ():
    one = Image.new("RGB", (300, 200), "#ce1126")
    one.paste("#ffffff", (0, 100, 300, 200))
    assert describe(one) @ describe(one.transpose(Image.Transpose.FLIP_TOP_BOTTOM)) < 0.5


def test_it_says_that_it_reads_no_text():
    embedder = DescriptorPictureEmbedder()
    assert embedder.reads_text is False
    with pytest.raises(InvalidInput, match="does not read text"):
        embedder.embed_query("a red flag")
