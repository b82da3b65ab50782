"""Bytes that nothing refers to any more, however a deletion and an ingest meet: none stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import text

from rag_owl import RagOwl, db, holds, retention
from rag_owl.indexer import pipeline
from rag_owl.indexer.batch import GenerationSwitched
from rag_owl.indexer.loaders import Loaded
from rag_owl.indexer.split import ItemDraft
from rag_owl.store import blob_uses, condemned
from rag_owl.types import Job
from tests.files import pdf_of
from tests.resting import rest_after
from tests.test_changes import long_text, write


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def owl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RagOwl]:
    monkeypatch.setattr(retention, "_LONGEST_REST", 0.0)
    light = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
    with RagOwl.open(tmp_path / "data", **light) as opened:
        yield opened


def all_done(owl: RagOwl) -> list[Job]:
    """The jobs, when the last one has ended."""
    while True:
        jobs = owl.jobs()
        if all(job.finished for job in jobs):
            return jobs
        time.sleep(0.02)


def left_behind(owl: RagOwl) -> set[str]:
    assert {job.state for job in all_done(owl)} <= {"done", "cancelled"}
    with db.reading(owl.engine) as session:
        used = {key.hex() for key in blob_uses.used(session)}
    return set(owl.blobs.list_keys()) - used


def begin(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, str, str]:
    """A PDF of which a few pages are stored: what lets it go on, its job, its document."""
    go_on = rest_after(monkeypatch, 1, 4)
    (files / "a.pdf").write_bytes(pdf_of(*(f"page {at} of the secret" for at in range(20))))
    job_id = owl.ingest("c", [files], wait=False).id
    while not (begun := list(owl.documents("c"))):
        time.sleep(0.01)
    return go_on, job_id, begun[0].id


def test_deleted_while_a_backup_keeps_the_collector_waiting(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, job_id, document = begin(owl, files, monkeypatch)
    with holds.keeping_files(owl.engine):
        owl.delete_document("c", document)
        go_on.set()
        assert owl.wait_for_job(job_id).skipped
    assert left_behind(owl) == set()


def test_deleted_and_collected_before_the_next_batch(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, job_id, document = begin(owl, files, monkeypatch)
    owl.delete_document("c", document, wait=True)
    go_on.set()
    assert owl.wait_for_job(job_id).skipped
    assert left_behind(owl) == set()


def test_deleted_while_another_generation_became_the_live_one(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, job_id, document = begin(owl, files, monkeypatch)
    commit, told = pipeline.commit, list[bool]()

    def switch(*arguments: Any) -> bool:
        if not told:
            told.append(True)
            owl.delete_document("c", document, wait=True)
            raise GenerationSwitched
        return commit(*arguments)

    monkeypatch.setattr(pipeline, "commit", switch)
    go_on.set()
    assert owl.wait_for_job(job_id).skipped
    assert left_behind(owl) == set()


def test_deleted_while_its_lost_file_is_put_again(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files, a="the secret text", b="another")
    owl.ingest("c", [files])
    secret = next(each for each in owl.documents("c") if each.name == "a.txt")
    heal, told = pipeline.Ingest._heal, list[bool]()

    def be_overtaken(ingest: pipeline.Ingest, loaded: Loaded) -> None:
        if loaded.name == "a.txt" and not told:
            told.append(True)
            owl.delete_document("c", secret.id)
            with db.writing(owl.engine) as session:
                condemned.doom(session, [secret.sha256], condemned.Look.now(session))
            with db.writing(owl.engine) as session:
                condemned.collect(session, [secret.sha256], owl.blobs.delete)
        heal(ingest, loaded)

    monkeypatch.setattr(pipeline.Ingest, "_heal", be_overtaken)
    owl.ingest("c", [files])
    assert told
    assert left_behind(owl) == set()


def test_deleted_and_begun_again_but_cancelled_before_its_first_item(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files, a="the secret text")
    owl.ingest("c", [files])
    (document,) = owl.documents("c")
    split = pipeline.split

    def cancel_and_split(loaded: Loaded) -> Iterator[ItemDraft]:
        (job,) = (each for each in owl.jobs() if each.kind == "ingest" and not each.finished)
        owl.cancel_job(job.id)
        monkeypatch.setattr(pipeline.Ingest, "_is_full", lambda ingest: True)
        yield from split(loaded)

    with holds.keeping_files(owl.engine):
        owl.delete_document("c", document.id)
        monkeypatch.setattr(pipeline, "split", cancel_and_split)
        assert owl.ingest("c", [files]).state == "cancelled"
    assert left_behind(owl) == set()


def test_cancelled_and_then_deleted(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, job_id, document = begin(owl, files, monkeypatch)
    owl.cancel_job(job_id)
    go_on.set()
    assert owl.wait_for_job(job_id).state == "cancelled"
    owl.delete_document("c", document, wait=True)
    assert left_behind(owl) == set()


def test_a_collector_that_ends_between_its_two_steps(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, job_id, document = begin(owl, files, monkeypatch)

    def fail(*_: object) -> int:
        raise RuntimeError("ended")

    with monkeypatch.context() as patched:
        patched.setattr(condemned, "collect", fail)
        deletion = owl.delete_document("c", document, wait=True)
        assert deletion.state == "failed"
    go_on.set()
    assert owl.wait_for_job(job_id).skipped
    owl.retry_job(deletion.id)
    assert left_behind(owl) == set()


def half(owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> str:
    """A job that was cancelled with a part of the text stored."""
    with monkeypatch.context() as patched:
        go_on = rest_after(patched, 1, 64)
        write(files, **texts)
        job_id = owl.ingest("c", [files], wait=False).id
        while not owl.job(job_id).items:
            time.sleep(0.01)
        owl.cancel_job(job_id)
        go_on.set()
        assert owl.wait_for_job(job_id).state == "cancelled"
    return job_id


def test_a_revision_that_was_begun_and_left(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files, a="a short text")
    owl.ingest("c", [files])
    half(owl, files, monkeypatch, a=long_text("owl", 200))
    write(files, a="a third text")
    owl.ingest("c", [files])
    (document,) = owl.documents("c")
    owl.delete_document("c", document.id, wait=True)
    assert left_behind(owl) == set()


def test_what_another_revision_took_the_place_of_was_not_deleted(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = half(owl, files, monkeypatch, a=long_text("owl", 200))
    write(files, a="another text")
    owl.ingest("c", [files])
    write(files, a=long_text("owl", 200))
    owl.retry_job(first)
    job = owl.wait_for_job(first)
    assert (job.state, job.skipped) == ("done", [])


def test_what_came_from_elsewhere_meanwhile_was_not_deleted(
    owl: RagOwl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first = half(owl, one, monkeypatch, a=long_text("owl", 200))
    half(owl, two, monkeypatch, b=long_text("owl", 200))
    owl.retry_job(first)
    job = owl.wait_for_job(first)
    assert (job.state, job.skipped) == ("done", [])


def test_evidence_of_an_answer_that_was_cleared_after_the_collector_had_looked(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        Image.effect_noise((80, 60), 90).convert("RGB").save(files / f"{name}.png")
        write(files, **{name: f"The heron {name} is grey and stands in the {name} pond."})
    monkeypatch.setattr(retention, "_BLOBS_AT_ONCE", 1)
    owl.ingest("c", [files])
    picture = (files / "b.png").read_bytes()
    answer = owl.ask("c", "Where does the heron b stand?", images=[picture])
    named = {document.name: document.id for document in owl.documents("c")}
    assert any(c.picture for c in answer.citations if c.document_id == named["b.png"])
    with db.writing(owl.engine) as session:  # so that the citation alone holds the picture
        session.execute(
            text("UPDATE answers SET request = json_set(request, '$.pictures', json('[]'))")
        )
    now, told = condemned.Look.now, []

    def look_and_be_overtaken(session: object) -> condemned.Look:
        made = now(session)  # type: ignore[arg-type]
        if not told:
            told.append(True)
            other = threading.Thread(target=owl.delete_document, args=("c", named["b.png"]))
            other.start()
            other.join()
        return made

    monkeypatch.setattr(condemned.Look, "now", look_and_be_overtaken)
    owl.delete_document("c", named["a.png"], wait=True)
    assert told
    assert left_behind(owl) == set()


def test_two_long_equal_files_are_two_that_were_found(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "LARGEST_BATCH", 64)
    write(files, a=long_text("owl", 100), b=long_text("owl", 100))
    job = owl.ingest("c", [files])
    assert (job.added, job.unchanged, job.found, job.handled) == (1, 1, 2, 2)
