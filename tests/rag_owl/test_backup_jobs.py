"""Backups as jobs, beside the other jobs."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rag_owl import RagOwl, db, holds, retention
from rag_owl.errors import DataFolderBusy
from rag_owl.restore import check_backup
from rag_owl.store import jobs
from tests.consistency import problems

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}


def test_a_backup_does_not_wait_for_a_deletion_that_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, files = tmp_path / "backups", tmp_path / "files"
    place.mkdir()
    files.mkdir()
    for name in ("owls", "herons", "wrens"):
        (files / f"{name}.txt").write_text(f"The {name} sleep in the old barn.")
    with RagOwl.open(tmp_path / "data", backup_folder=place, **LIGHT) as owl:
        owl.ingest("c", [files])
        first, second = list(owl.documents("c"))[:2]
        assert owl.delete_document("c", first.id, wait=True).state == "done"
        with monkeypatch.context() as patched:
            patched.setattr(retention, "_BYTES_A_SECOND", 1)  # it rests for five minutes
            resting = owl.delete_document("c", second.id)
            while owl.blobs.exists(second.sha256):
                time.sleep(0.02)
            with db.writing(owl.engine) as session:
                job_id, _ = jobs.create(session, None, "backup", {})
            owl.work_soon()
            assert owl.wait_for_job(job_id).state == "done"
            assert owl.job(resting.id).state == "running"
    (file,) = place.iterdir()
    assert check_backup(file)["lacking"] == []
    RagOwl.restore(file, tmp_path / "again", **LIGHT)
    monkeypatch.setattr(retention, "_LONGEST_REST", 0.0)
    for data in (tmp_path / "data", tmp_path / "again"):  # both go on with the deletion
        with RagOwl.open(data, **LIGHT) as owl:
            assert owl.wait_for_job(resting.id).state == "done"
            left = {document.id for document in owl.documents("c")}
            assert left
            assert not left & {first.id, second.id}
        assert problems(data) == []


def test_a_deletion_has_patience_with_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_LOCKED", 0.05)
    monkeypatch.setattr(retention, "_PATIENCE", 0.1)
    with RagOwl.open(tmp_path / "data", work_jobs=False, **LIGHT) as owl:
        reader = sqlite3.connect(tmp_path / "data" / "rag_owl.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        with ThreadPoolExecutor(1) as beside:
            with holds.keeping_files(owl.engine):  # as a backup has it while it reads
                cleaned = beside.submit(retention.scrub, owl.engine)
                time.sleep(1)
                assert not cleaned.done()
                reader.execute("ROLLBACK")
            assert cleaned.result(60)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        with db.writing(owl.engine) as session:
            jobs.create(session, None, "expire", {})
        with pytest.raises(DataFolderBusy, match="reads an old state"):  # no backup is made
            retention.scrub(owl.engine)
        reader.close()
