"""Damaged and missing segment files: said clearly, and made again from the database."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from rag_owl import RagOwl
from rag_owl.errors import CorruptData, DataFolderError
from rag_owl.settings import Settings
from rag_owl.types import Retrieved
from tests.consistency import problems

pytestmark = pytest.mark.usefixtures("on_each_database")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    rows = "".join(json.dumps({"text": f"row {at} about thing{at}"}) + "\n" for at in range(40))
    (folder / "rows.jsonl").write_text(rows)
    (folder / "titled.jsonl").write_text(json.dumps({"text": "on owls", "title": "Owls"}) + "\n")
    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        Image.new("RGB", (60, 40), colour).save(folder / f"{name}.png")
    (folder / "red.txt").write_text("A red card.")
    return folder


def found(owl: RagOwl, picture: Path) -> list[list[Retrieved]]:
    return [owl.search("c", query, k=50) for query in ("thing7", "owls", "card")] + [
        owl.search("c", "", images=[picture], k=50)
    ]


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut", "manifest"])
def test_a_damaged_segment_is_made_again_as_it_was(
    tmp_path: Path, files: Path, damage: str
) -> None:
    data = tmp_path / "data"
    with RagOwl.open(data, text_embedder="hashing") as owl:
        owl.ingest("c", [files])
        before = found(owl, files / "red.png")
    for segment in (data / "segments").iterdir():
        index = segment / "index.faiss"
        if damage == "missing":
            shutil.rmtree(segment)
        elif damage == "flipped":
            content = bytearray(index.read_bytes())
            content[len(content) // 2] ^= 255
            index.write_bytes(content)
        elif damage == "cut":
            index.write_bytes(index.read_bytes()[:-10])
        else:
            (segment / "manifest.json").write_text("{")
    with RagOwl.open(data, text_embedder="hashing") as owl:
        if damage != "flipped":  # which only a comparison of checksums can see
            with pytest.raises(CorruptData, match="doctor --deep"):
                owl.search("c", "thing7")
        assert owl.repair() == 2
        after = found(owl, files / "red.png")
        assert owl.repair() == 0
    assert [[hit.item for hit in hits] for hits in after] == [
        [hit.item for hit in hits] for hits in before
    ]
    for old, new in zip(chain(*before), chain(*after), strict=True):
        assert new.similarities == pytest.approx(old.similarities, abs=1e-5)
    assert problems(data) == []


def test_a_job_that_verifies_names_what_is_damaged(tmp_path: Path, files: Path) -> None:
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as owl:
        owl.ingest("c", [files / "rows.jsonl"])
        (segment,) = (tmp_path / "data" / "segments").iterdir()
        sound = owl.wait_for_job(owl.begin_upkeep("verify", "c").id)
        assert (sound.state, sound.done, sound.failed, sound.skipped) == ("done", 1, 0, [])
        index = segment / "index.faiss"
        index.write_bytes(index.read_bytes()[:-10])
        job = owl.wait_for_job(owl.begin_upkeep("verify", "c").id)
        assert (job.state, job.done, job.failed) == ("done", 0, 1)
        assert [skipped.name for skipped in job.skipped] == [f"segment {segment.name}"]


def test_damage_does_not_keep_new_documents_out(tmp_path: Path, files: Path) -> None:
    data = tmp_path / "data"
    with RagOwl.open(data, text_embedder="hashing") as owl:
        owl.ingest("c", [files / "rows.jsonl"])
        for segment in (data / "segments").iterdir():
            shutil.rmtree(segment)
        job = owl.ingest("c", [files / "titled.jsonl"])
        assert (job.state, job.added) == ("done", 1)
        assert owl.repair() == 1
        assert owl.search("c", "owls")[0].item.title == "Owls"
    assert problems(data) == []


def test_the_files_of_another_database_are_refused(tmp_path: Path, files: Path) -> None:
    data = tmp_path / "data"
    with RagOwl.open(data, text_embedder="hashing") as owl:
        owl.ingest("c", [files])
    other = f"sqlite:///{tmp_path / 'other.db'}"
    with pytest.raises(DataFolderError, match="the files of another database"):
        RagOwl.open(data, database_url=other)
    mine = Settings(data=data).database
    with pytest.raises(DataFolderError, match="has its files in another folder"):
        RagOwl.open(tmp_path / "elsewhere", database_url=mine)
    with RagOwl.open(data, text_embedder="hashing") as owl:
        assert owl.search("c", "thing7")
