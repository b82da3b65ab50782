"""The user's own video: kept with the question, searched with, shown as what the model can see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rag_owl import RagOwl
from rag_owl.errors import InvalidQuestion
from rag_owl.own_video import STILLS, stills
from tests.films import write_film


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "mine.mp4", 4)


@pytest.fixture(scope="module")
def owl(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[RagOwl]:
    folder = tmp_path_factory.mktemp("own-video")
    (folder / "owls.txt").write_text("The boreal owl weighs about 120 grams.")
    with RagOwl.open(folder / "data", text_embedder="hashing") as owl:
        owl.ingest("birds", [folder / "owls.txt"])
        yield owl


def stored(owl: RagOwl) -> list[str]:
    return sorted(path.name for path in (owl.folder / "blobs").rglob("*") if path.is_file())


@pytest.mark.parametrize("as_bytes", [False, True])
def test_it_is_kept_with_the_answer(owl: RagOwl, film: Path, as_bytes: bool) -> None:
    given = film.read_bytes() if as_bytes else film
    answer = owl.ask("birds", "How much does the boreal owl weigh?", video=given)
    assert answer.video is not None
    assert owl.blobs.get(answer.video) == film.read_bytes()
    assert answer.pictures == ()  # what was cut out of it are no pictures of the user's
    assert answer.notes == (
        f"sentences watches no videos: it was shown {STILLS} pictures of yours.",
    )
    again = owl.answer(answer.id)
    assert (again.video, again.notes, again.pictures) == (answer.video, answer.notes, ())


def test_the_pictures_of_a_video_are_the_same_each_time(owl: RagOwl, film: Path) -> None:
    with film.open("rb") as file:
        key = owl.blobs.put(file)
    first = stills(owl.blobs, key)
    assert len(first) == STILLS == len(set(first))
    assert stills(owl.blobs, key) == first


def test_what_is_no_video_is_refused_and_nothing_of_it_kept(
    owl: RagOwl, film: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[:2_000])
    text = tmp_path / "text.mp4"
    text.write_text("A film? No: a text.")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = stored(owl)
    wrong: list[Any] = [cut, text, pipe, tmp_path, tmp_path / "none.mp4", b"", b"\0" * 99]
    wrong += [cut.read_bytes(), "a\0b", 7]
    for video in wrong:
        with pytest.raises(InvalidQuestion, match=r"^(a video|cannot read the video)"):
            owl.ask("birds", "How heavy?", video=video)
    assert stored(owl) == before
    # Bytes that are something else already stay what they are.
    known = owl.blobs.put(b"some text")
    with pytest.raises(InvalidQuestion):
        owl.ask("birds", "How heavy?", video=b"some text")
    assert owl.blobs.exists(known)


def test_a_video_that_is_gone_is_said(owl: RagOwl) -> None:
    with pytest.raises(InvalidQuestion, match="the question's video"):
        stills(owl.blobs, "0" * 64)
