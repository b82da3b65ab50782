"""`rag-owl doctor --deep` over damaged, missing and orphaned files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from rag_owl import RagOwl
from rag_owl.api.doctor import examine
from tests.consistency import problems
from tests.files import pdf_of

pytestmark = pytest.mark.usefixtures("on_each_database")

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "owls.pdf").write_bytes(pdf_of("The barn owl weighs 430 grams.", "It flies."))
    (tmp_path / "note.txt").write_text("A note about owls.")
    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        assert owl.ingest("c", [tmp_path / "owls.pdf", tmp_path / "note.txt"]).added == 2
    return tmp_path / "data"


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_what_can_be_made_again_is(data: Path, damage: str) -> None:
    with RagOwl.open(data, **LIGHT) as owl:
        pages = {hit.item.picture for hit in owl.search("c", "barn owl flies", k=9)} - {None}
        assert len(pages) == 2
        for key in pages:
            path = owl.blobs.path(str(key))
            content = path.read_bytes()
            path.unlink()
            if damage == "flipped":
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        for index in (data / "segments").glob("*/index.faiss"):
            index.write_bytes(b"nothing")  # its pictures are needed for this one
        orphan = data / "blobs" / "ab" / ("c" * 62)
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"damaged, and nobody's")
        old = owl.blobs.put(b"whole, and nobody's")
        os.utime(owl.blobs.path(old), (time.time() - 7_200,) * 2)
        findings = {finding.what: finding for finding in examine(owl, deep=True)}
        assert all(finding.well for finding in findings.values()), findings
        assert not orphan.exists()
        assert not owl.blobs.exists(old)
        for key in pages:
            assert owl.blobs.get(str(key))
        assert owl.search("c", "barn owl")
        assert owl.repair_files() == (set(), {})
    assert problems(data) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_ingesting_again_heals_what_was_lost(data: Path, damaged: bool) -> None:
    with RagOwl.open(data, **LIGHT) as owl:
        for key in list(owl.blobs.list_keys()):
            if damaged:
                owl.blobs.path(key).write_bytes(b"something else")
            else:
                owl.blobs.path(key).unlink()
        lost = [finding.detail for finding in examine(owl, deep=True) if not finding.well]
        assert all(("delete and ingest again" in detail) is damaged for detail in lost)
        for document in owl.documents("c") if damaged else ():
            owl.delete_document("c", document.id, wait=True)
        job = owl.ingest("c", [data.parent / "owls.pdf", data.parent / "note.txt"])
        assert (job.state, job.added + job.unchanged) == ("done", 2)
        assert all(finding.well for finding in examine(owl, deep=True))


def test_what_cannot_be_read_just_now_is_left_where_it_is(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RagOwl.open(data, **LIGHT) as owl:
        stored, opened = sorted(owl.blobs.list_keys()), Path.open

        def fail(path: Path, *arguments: Any) -> Any:
            if "blobs" in path.parts and arguments == ("rb",):
                raise OSError(24, "Too many open files")
            return opened(path, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", fail)
            assert owl.repair_files()[1]
        assert sorted(owl.blobs.list_keys()) == stored


def test_what_cannot_says_what_to_do(data: Path) -> None:
    with RagOwl.open(data, **LIGHT) as owl:
        for document in owl.documents("c"):
            owl.blobs.path(document.sha256).unlink()
        lost = [finding for finding in examine(owl, deep=True) if not finding.well]
        assert sorted(finding.detail for finding in lost) == [
            "is missing; ingest again: note.txt in c",
            "is missing; ingest again: owls.pdf in c",
        ]
