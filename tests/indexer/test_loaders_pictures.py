"""Pictures, alone and with the text beside them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rag_owl.indexer.loaders import Input, Loaded, content_sha256, document_text, read
from rag_owl.indexer.split import split
from rag_owl.media import Limits
from rag_owl.types import ImageLocation, Skipped, TextLocation


def write_picture(path: Path, size: tuple[int, int] = (60, 40), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(3).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def pair(folder: Path, text: str | bytes, name: str = "japan.txt") -> list[Loaded | Skipped]:
    companion = folder / name
    companion.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read(Input("flags/japan.png", folder / "japan.png", companion, f"flags/{name}")))


def test_a_picture_alone_is_one_item(tmp_path: Path) -> None:
    data = write_picture(tmp_path / "a_b.jpg", (2_000, 1_000), "JPEG")
    (loaded,) = read(Input("a_b.jpg", tmp_path / "a_b.jpg"))
    assert isinstance(loaded, Loaded)
    assert (loaded.title, loaded.media_type) == ("a b", "image/jpeg")
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    (item,) = split(loaded)
    assert (item.kind, item.text, item.location) == ("picture", None, ImageLocation())
    assert item.picture is not None
    assert item.picture.data == data
    assert item.picture.image.size == (1024, 512)


def test_the_name_of_a_picture_says_nothing_of_its_kind(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.txt", kind="WEBP")
    (loaded,) = read(Input("a.txt", tmp_path / "a.txt"))
    assert isinstance(loaded, Loaded)
    assert loaded.media_type == "image/webp"


def test_a_picture_and_its_text_are_one_document(tmp_path: Path) -> None:
    data = write_picture(tmp_path / "japan.png")
    text = "The capital of Japan is Tokyo. " * 60
    (loaded,) = pair(tmp_path, text)
    assert isinstance(loaded, Loaded)
    assert (loaded.name, loaded.title) == ("flags/japan.png", "japan")
    assert loaded.source == tmp_path / "japan.txt"
    text_hash, picture_hash = hashlib.sha256(text.encode()), hashlib.sha256(data)
    assert loaded.sha256 == content_sha256(text_hash.hexdigest(), picture_hash.hexdigest())
    items = list(split(loaded))
    assert len(items) > 1
    assert {item.kind for item in items} == {"passage"}
    assert all(item.picture is not None and item.picture.data == data for item in items)
    whole = document_text(loaded.sections())
    for item in items:
        assert isinstance(item.location, TextLocation)
        assert item.text == whole[item.location.start : item.location.end]


def test_the_identity_of_a_pair_is_of_its_text_whatever_the_encoding(tmp_path: Path) -> None:
    write_picture(tmp_path / "japan.png")
    hashes = set()
    for data in ("Tōkyō\n".encode(), "Tōkyō\r\n".encode("utf-16")):
        (loaded,) = pair(tmp_path, data)
        assert isinstance(loaded, Loaded)
        hashes.add(loaded.sha256)
    (other,) = pair(tmp_path, "Kyōto\n")
    assert isinstance(other, Loaded)
    assert len(hashes) == 1
    assert other.sha256 not in hashes


def test_a_markdown_text_keeps_its_title_and_metadata(tmp_path: Path) -> None:
    write_picture(tmp_path / "japan.png")
    (loaded,) = pair(
        tmp_path, "---\ncontinent: Asia\n---\n# Japan, the islands\n\nText.", "japan.md"
    )
    assert isinstance(loaded, Loaded)
    assert (loaded.title, loaded.metadata) == ("Japan, the islands", {"continent": "Asia"})


def test_a_broken_picture_leaves_its_text(tmp_path: Path) -> None:
    data = write_picture(tmp_path / "japan.png")
    (tmp_path / "japan.png").write_bytes(data[: len(data) // 2])
    broken, text = pair(tmp_path, "The text.")
    assert isinstance(broken, Skipped)
    assert isinstance(text, Loaded)
    assert broken.name == "flags/japan.png"
    assert "cut off" in broken.reason
    assert text.name == "flags/japan.txt"
    assert [item.text for item in split(text)] == ["The text."]


@pytest.mark.parametrize("text", [b"", b"  \n ", bytes(range(256))])
def test_a_broken_text_leaves_its_picture(tmp_path: Path, text: bytes) -> None:
    write_picture(tmp_path / "japan.png")
    picture, broken = pair(tmp_path, text)
    assert isinstance(picture, Loaded)
    assert isinstance(broken, Skipped)
    assert broken.name == "flags/japan.txt"
    assert [item.kind for item in split(picture)] == ["picture"]


def test_what_only_seems_to_be_a_pair_is_two_documents(tmp_path: Path) -> None:
    write_picture(tmp_path / "japan.png")
    (tmp_path / "japan.png").write_text("a text with a picture's name")
    found = pair(tmp_path, "The text.")
    assert [(type(e), e.name) for e in found] == [
        (Loaded, "flags/japan.png"),
        (Loaded, "flags/japan.txt"),
    ]


def test_unreadable_pictures_are_skipped(tmp_path: Path) -> None:
    data = write_picture(tmp_path / "a.png")
    for content, why, limits in (
        (b"", "empty", Limits()),
        (data[:40], "damaged", Limits()),
        (data, "limit", Limits(max_pixels=100)),
        (b"\0\0\0\x20ftypheic" + data, "HEIC", Limits()),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG", Limits()),
    ):
        (tmp_path / "a.png").write_bytes(content)
        (entry,) = read(Input("a.png", tmp_path / "a.png"), limits=limits)
        assert isinstance(entry, Skipped)
        assert why in entry.reason
