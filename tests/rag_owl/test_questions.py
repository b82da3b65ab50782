"""What a question may be: everything else is refused with one clear line, before any work."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rag_owl import RagOwl
from rag_owl.errors import InvalidFilter, InvalidInput, InvalidQuestion, NotFound, RagOwlError
from rag_owl.settings import MOST_ITEMS

DEEP: dict[str, Any] = {"field": "year", "op": "exists", "value": True}
for _ in range(5_000):
    DEEP = {"not": DEEP}


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[RagOwl]:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "owls.txt").write_text("The boreal owl weighs about 120 grams.")
    (folder / "void").mkdir()
    with RagOwl.open(folder / "data", text_embedder="hashing") as owl:
        owl.ingest("birds", [folder / "owls.txt"])
        owl.ingest("empty", [folder / "void"])
        yield owl


@pytest.fixture
def owl(opened: RagOwl) -> Iterator[RagOwl]:
    """Whatever is refused leaves no picture and no answer behind."""
    before = stored(opened)
    yield opened
    assert stored(opened) == before


def stored(owl: RagOwl) -> list[str]:
    return sorted(path.name for path in (owl.folder / "blobs").rglob("*") if path.is_file())


def picture() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(written, "PNG")
    return written.getvalue()


@pytest.mark.parametrize(
    "k",
    [0, -1, MOST_ITEMS + 1, 2**63, 10**5000, 2.5, "5", True, [1]],
    ids=lambda k: type(k).__name__,
)
def test_k_is_a_whole_number_in_bounds(owl: RagOwl, k: Any) -> None:
    for ask in (owl.ask, owl.search):
        with pytest.raises(InvalidQuestion, match=f"1 to {MOST_ITEMS}"):
            ask("birds", "owl", images=[picture()], k=k)


def test_the_largest_k_works(owl: RagOwl) -> None:
    assert len(owl.search("birds", "owl", k=MOST_ITEMS)) == 1


@pytest.mark.parametrize(
    ("collection", "text", "error", "message"),
    [
        ("birds", None, InvalidQuestion, "a question is a text, not a NoneType"),
        ("birds", b"owl", InvalidQuestion, "a question is a text, not a bytes"),
        ("birds", "owl\0", InvalidQuestion, "holds a NUL"),
        ("birds", "owl \ud800", InvalidQuestion, "lone surrogate"),
        (None, "owl", InvalidQuestion, "a collection's name is a text"),
        ("birds\0", "owl", NotFound, r"no collection 'birds\\x00'"),
        ("birds\udcff", "owl", NotFound, r"no collection 'birds\\udcff'"),
    ],
)
def test_texts_that_no_database_takes(
    owl: RagOwl, collection: Any, text: Any, error: type[RagOwlError], message: str
) -> None:
    for ask in (owl.ask, owl.search):
        with pytest.raises(error, match=message):
            ask(collection, text, images=[picture()])


@pytest.mark.parametrize("collection", ["birds", "empty"])
@pytest.mark.parametrize("filters", [[], "", 0, DEEP, {1: 2}, {"and": {}}, {"field": "a"}])
def test_a_bad_filter_is_refused_everywhere(owl: RagOwl, collection: str, filters: Any) -> None:
    for ask in (owl.ask, owl.search):
        with pytest.raises(InvalidFilter, match="filters"):
            ask(collection, "owl", images=[picture()], filters=filters)


def test_an_empty_object_filters_nothing(owl: RagOwl) -> None:
    assert len(owl.search("birds", "owl", filters={})) == 1
    assert owl.search("birds", "owl", filters={"field": "x", "op": "in", "value": [2**70]}) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["a\0"], "NUL"),
        ([None], "a picture is a path or its bytes, not a NoneType"),
        ([3], "not a int"),
        (None, "images is a list"),
        ("flag.png", "images is a list"),
        (bytearray(b"x"), "images is a list"),
        (["/dev/zero"], "cannot read the picture /dev/zero: it is not a file"),
        (["FIFO"], "it is not a file"),
        (["FOLDER"], "it is not a file"),
        (["HUGE"], "more than the limit"),
    ],
)
def test_a_picture_is_a_file_of_bounded_size_or_bytes(
    owl: RagOwl, tmp_path: Path, images: Any, message: str
) -> None:
    if images == ["FIFO"]:
        os.mkfifo(tmp_path / "pipe")
        images = [tmp_path / "pipe"]
    elif images == ["FOLDER"]:
        images = [tmp_path]
    elif images == ["HUGE"]:
        images = [tmp_path / "huge.png"]
        with images[0].open("wb") as file:
            file.write(picture())
            file.truncate(2**30)  # sparse
    with pytest.raises(InvalidQuestion, match=message):
        owl.search("birds", "", images=images)


def test_pictures_as_any_bytes_and_any_path(opened: RagOwl, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"odd \xff.png")
    path.write_bytes(picture())
    images: list[Any] = [picture(), bytearray(picture()), path, str(path)]
    answer = opened.ask("birds", "How much does the boreal owl weigh?", images=iter(images))  # type: ignore[arg-type]
    assert len(answer.pictures) == 4
    assert len(set(answer.pictures)) == 1


@pytest.mark.parametrize("paths", [None, [], 5, "a.txt", [None], [b"a"], ["a\0"], ["\ud800"]])
def test_paths_to_ingest(owl: RagOwl, paths: Any) -> None:
    before = len(owl.jobs())
    with pytest.raises(InvalidInput, match="give"):
        owl.ingest("new", paths)
    with pytest.raises(InvalidInput, match="name"):
        owl.ingest(None, ["a.txt"])  # type: ignore[arg-type]
    assert len(owl.jobs()) == before
    assert "new" not in [info.name for info in owl.collections()]
