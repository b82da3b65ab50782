"""Arriving files: safe names, hashes, nothing left of what breaks off."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from rag_owl import RagOwl, db, uploads
from rag_owl.errors import Conflict, DataFolderError, InvalidInput
from rag_owl.rows import JobRow
from rag_owl.store import collections, jobs
from rag_owl.uploads import Upload, safe_name


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        ("japan.png", "japan.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/etc/shadow", "shadow"),
        ("a/b/c.txt", "c.txt"),
        (".hidden", "hidden"),
        ("...", "unnamed"),
        ("", "unnamed"),
        ("nul\0in.txt", "nulin.txt"),
        ("two\nlines\r.txt", "twolines.txt"),
        ("evil\u202etxt.exe", "eviltxt.exe"),
        ("  spaces .txt ", "spaces .txt"),
        ("Zoe\u0308.txt", "Zo\u00eb.txt"),
        ("日本.png", "日本.png"),
        ("<script>alert(1)</script>.txt", "script>.txt"),
    ],
)
def test_names_are_made_safe(given_name: str, safe: str) -> None:
    assert safe_name(given_name) == safe


@given(st.text(max_size=400))
def test_any_name_is_one_that_a_folder_can_hold(given_name: str) -> None:
    name = safe_name(given_name)
    assert name == os.path.basename(name)
    assert 0 < len(os.fsencode(name)) <= 255
    assert name not in (".", "..")
    assert not name.startswith(".")
    assert name.isprintable() or not any(ord(char) < 32 for char in name)
    assert safe_name(name) == name


def test_a_long_name_keeps_its_suffix() -> None:
    name = safe_name("ü" * 500 + ".jpeg")
    assert name.endswith("ü.jpeg")
    assert len(name.encode()) <= 200


def test_files_are_hashed_as_they_come(tmp_path: Path) -> None:
    with Upload(tmp_path) as upload:
        for name, blocks in (("a.txt", [b"one ", b"two"]), ("empty", [])):
            upload.begin(name)
            for block in blocks:
                upload.write(block)
            upload.end()
        upload.keep()
    first, second = upload.received
    assert first.sha256 == hashlib.sha256(b"one two").hexdigest()
    assert (first.size, second.size) == (7, 0)
    assert (upload.folder / "a.txt").read_bytes() == b"one two"


def test_nothing_stays_of_what_breaks_off(tmp_path: Path) -> None:
    def broken_off() -> None:
        with Upload(tmp_path) as upload:
            upload.begin("a.txt")
            upload.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    with Upload(tmp_path) as unkept:
        unkept.begin("a.txt")
        unkept.end()
    assert not list((tmp_path / "uploads").iterdir())


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    with Upload(tmp_path) as upload:
        upload.begin("a/x.txt")
        upload.end()
        with pytest.raises(InvalidInput, match=r"'x\.txt'") as caught:
            upload.begin("b/x.txt")
    assert caught.value.field == "files"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("in the way")
    with pytest.raises(DataFolderError, match="cannot write to"):
        Upload(tmp_path)


@pytest.mark.usefixtures("on_each_database")
def test_what_no_job_reads_any_more_is_swept(tmp_path: Path) -> None:
    with RagOwl.open(tmp_path / "data", work_jobs=False) as owl:
        kept = [arrived(owl.folder) for _ in range(6)]
        states = ("queued", "failed", "done", None, "failed", "cancelled")
        ended = (None, 0.0, 0.0, None, 100_000.0, 100_000.0)  # seconds ago
        with db.writing(owl.engine) as session:
            key = collections.get_or_create(session, "a").key
            for upload, state, ago in zip(kept, states, ended, strict=True):
                if state is not None:
                    job, _ = jobs.create(session, key, "ingest", uploads.parameters(upload, {}))
                    row = session.get_one(JobRow, job)
                    row.state = state
                    row.finished_at = None if ago is None else time.time() - ago
        assert uploads.sweep(owl.engine, owl.folder) == 0  # it may be arriving just now
        for upload in kept:
            os.utime(upload.folder, (time.time() - 90_000,) * 2)
        assert uploads.sweep(owl.engine, owl.folder) == 0  # a large file still grows
        for upload in kept:
            os.utime(upload.folder / "a.txt", (time.time() - 90_000,) * 2)
        assert uploads.sweep(owl.engine, owl.folder) == 4
        there = [upload.folder.exists() for upload in kept]
        assert there == [True, True, False, False, False, False]
        # Until then it may be tried again; later it says what to do.
        with db.writing(owl.engine) as session:
            rows = {row.parameters["upload"]: row for row in session.scalars(select(JobRow))}
            assert jobs.retry(session, rows[kept[1].id].id)
            with pytest.raises(Conflict, match="upload them again"):
                jobs.retry(session, rows[kept[5].id].id)


def arrived(folder: Path) -> Upload:
    with Upload(folder) as upload:
        upload.begin("a.txt")
        upload.write(b"owls")
        upload.end()
        upload.keep()
    return upload


@pytest.mark.usefixtures("on_each_database")
def test_a_job_reads_an_upload_and_it_goes(tmp_path: Path) -> None:
    with RagOwl.open(tmp_path / "data") as owl:
        for revision, words in enumerate((b"owls hunt by night", b"owls sleep by day"), 1):
            with Upload(owl.folder) as upload:
                upload.begin("owls.txt")
                upload.write(words)
                upload.end()
                upload.keep()
            with db.writing(owl.engine) as session:
                key = collections.get_or_create(session, "a").key
                job, _ = jobs.create(
                    session, key, "ingest", uploads.parameters(upload, {"year": revision})
                )
            assert owl.wait_for_job(job).state == "done"
            (document,) = owl.documents("a")
            assert (document.revision, document.metadata["year"]) == (revision, revision)
            assert document.name == "owls.txt"
            assert not upload.folder.exists()


def test_an_upload_id_never_becomes_a_path(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "data" / "uploads").mkdir(parents=True)
    uploads.remove(tmp_path / "data", {"upload": "../../precious"})
    uploads.remove(tmp_path / "data", {})
    assert precious.exists()
