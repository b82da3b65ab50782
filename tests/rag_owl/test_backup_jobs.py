"""Backups as jobs, beside the other jobs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rag_owl import RagOwl, db, retention
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
