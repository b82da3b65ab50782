"""Decoders and processes that end within an ingest: what stays is whole, and found once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rag_owl import RagOwl, db, uploads
from rag_owl.errors import Conflict
from rag_owl.indexer import pipeline
from rag_owl.store import claims, collections, job_inputs, jobs
from tests.consistency import problems
from tests.decoders import OF_OTHERS, all_decoders, hurry, when_busy
from tests.files import endless_pdf, noise_jpeg, pdf_of
from tests.resting import rest_after

pytestmark = pytest.mark.usefixtures("on_each_database")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def found(owl: RagOwl, query: str) -> list[str]:
    hits = owl.search("c", query, k=50)
    return [hit.item.document_name for hit in hits if query in (hit.item.text or "")]


@pytest.mark.usefixtures("own_decoders")
def test_a_file_that_hangs_its_decoder_is_skipped_and_nothing_of_it_is_found(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FIRST_BATCH", 2)
    monkeypatch.setattr(pipeline, "LARGEST_BATCH", 2)
    (files / "a.txt").write_text("A text before it.")
    (files / "b.pdf").write_bytes(endless_pdf(before=[f"page {at} of it" for at in range(7)]))
    (files / "c.txt").write_text("A text after it.")
    (files / "d.jpg").write_bytes(noise_jpeg(60, 40))
    with RagOwl.open(
        tmp_path / "data", text_embedder="hashing", picture_embedder="descriptor"
    ) as owl:
        OF_OTHERS.update(process.pid for process in all_decoders())
        with when_busy(hurry):
            job = owl.ingest("c", [files])
        assert (job.state, job.added, job.found, job.handled) == ("done", 3, 4, 4)
        (skipped,) = job.skipped
        assert skipped.name == "b.pdf"
        assert "took longer than 60 seconds (decode_seconds)" in skipped.reason
        assert found(owl, "text") == ["a.txt", "c.txt"] or found(owl, "text") == ["c.txt", "a.txt"]
        assert found(owl, "page") == []
    assert problems(tmp_path / "data") == []
    assert list((tmp_path / "data" / "decoding").iterdir()) == []


def test_pieces_that_were_skipped_before_an_interruption_are_counted_once(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = rest_after(monkeypatch, items=1, batch=8)
    data = pdf_of(*(f"page {at} of it" for at in range(60)))
    start = data.index(b"\n4 0 obj")  # the first page
    end = data.index(b"endobj", start)
    data = data[:start] + b"\n4 0 obj null".ljust(end - start) + data[end:]
    (files / "a.pdf").write_bytes(data)
    with RagOwl.open(
        tmp_path / "data", text_embedder="hashing", picture_embedder="descriptor"
    ) as owl:
        job_id = owl.ingest("c", [files], wait=False).id
        while not owl.job(job_id).items:
            time.sleep(0.01)
    go_on.set()
    with RagOwl.open(
        tmp_path / "data", text_embedder="hashing", picture_embedder="descriptor"
    ) as owl:
        assert not owl.job(job_id).finished  # or this test says nothing
        job = owl.wait_for_job(job_id)
        assert (job.state, job.added, job.items) == ("done", 1, 59)
        assert [skipped.name for skipped in job.skipped] == ["a.pdf page 1"]
        assert job.found == job.handled == 2
    assert problems(tmp_path / "data") == []


def test_what_is_deleted_while_its_job_is_interrupted_stays_deleted(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = rest_after(monkeypatch, items=1, batch=1)
    light = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
    (files / "a.txt").write_text("A long text. " * 1_200)
    (files / "b.txt").write_text("The text after it.")
    with RagOwl.open(tmp_path / "data", **light) as owl:
        job_id = owl.ingest("c", [files], wait=False).id
        while not owl.job(job_id).items:
            time.sleep(0.01)
    go_on.set()
    with RagOwl.open(tmp_path / "data", work_jobs=False, **light) as owl:
        assert not owl.job(job_id).finished
        (begun,) = owl.documents("c")
        owl.delete_document("c", begun.id)
    with RagOwl.open(tmp_path / "data", **light) as owl:
        job = owl.wait_for_job(job_id)
        assert (job.state, job.added, job.found, job.handled) == ("done", 1, 2, 2)
        assert "deleted while" in job.skipped[0].reason
        assert [document.name for document in owl.documents("c")] == ["b.txt"]
    assert problems(tmp_path / "data") == []


def test_two_documents_of_one_file_are_counted_once(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is called a picture, and the text beside it: a pair that is none."""
    go_on = rest_after(monkeypatch, items=2, batch=1)
    (files / "a.png").write_text("No picture.")
    (files / "a.txt").write_text("A long text. " * 1_200)
    with RagOwl.open(
        tmp_path / "data", text_embedder="hashing", picture_embedder="descriptor"
    ) as owl:
        job_id = owl.ingest("c", [files], wait=False).id
        while owl.job(job_id).items < 2:
            time.sleep(0.01)
    go_on.set()
    with RagOwl.open(
        tmp_path / "data", text_embedder="hashing", picture_embedder="descriptor"
    ) as owl:
        assert not owl.job(job_id).finished
        job = owl.wait_for_job(job_id)
        assert (job.added, job.unchanged, job.found, job.handled) == (2, 0, 2, 2)
        again = owl.ingest("c", [files])
        assert (again.added, again.updated, again.unchanged) == (0, 0, 2)
    assert problems(tmp_path / "data") == []


_INGEST = """
import sys
from rag_owl import RagOwl
embedders = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
with RagOwl.open(sys.argv[1], **embedders, decode_seconds=3600) as owl:
    owl.ingest("c", sys.argv[2:])
"""


def kill_while_it_reads(data: Path, files: Path) -> bool:
    """An ingest in a process of its own; whether it had to be killed, at a file without an end."""
    child = subprocess.Popen([sys.executable, "-c", _INGEST, str(data), str(files)])
    while child.poll() is None:
        time.sleep(0.05)
        for decoder in psutil.Process(child.pid).children() if child.poll() is None else ():
            try:
                if decoder.cpu_times().user > 0.8:  # all the rest takes it less
                    child.kill()
            except psutil.Error:
                continue
    return child.wait() != 0


@pytest.mark.slow
@pytest.mark.parametrize("on_each_database", ["sqlite"], indirect=True)  # how one is killed there
def test_a_file_that_ends_its_process_each_time_is_skipped_in_the_end(
    tmp_path: Path, files: Path
) -> None:
    data = tmp_path / "data"
    for at in range(4):
        (files / f"a{at}.txt").write_text(f"The text number {at}.")
    (files / "b.pdf").write_bytes(endless_pdf())
    (files / "c.txt").write_text("The last text.")
    kills = 0
    while kills < 10 and kill_while_it_reads(data, files):
        kills += 1
    assert 3 <= kills <= 5
    with RagOwl.open(data, text_embedder="hashing", picture_embedder="descriptor") as owl:
        (job,) = owl.jobs()
        assert (job.state, job.added, job.found, job.handled) == ("done", 5, 6, 6)
        assert [skipped.name for skipped in job.skipped] == ["b.pdf"]
        assert "the process ended" in job.skipped[0].reason
        assert len(found(owl, "text")) == 5
    assert problems(data) == []


def test_an_upload_that_ended_its_readers_is_kept_and_read_again_when_asked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    light = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
    with RagOwl.open(data, work_jobs=False, **light) as owl:
        with uploads.Upload(data) as upload:
            for name in ("a.txt", "b.txt", "c.txt"):
                upload.begin(name)
                upload.write(f"The text of {name}.".encode())
                upload.end()
            upload.keep()
        with db.writing(owl.engine) as session:
            key = collections.get_or_create(session, "c").key
            job_id, _ = jobs.create(session, key, "ingest", uploads.parameters(upload, {}))
        with db.writing(owl.engine) as session:  # as whoever read it leaves it when killed
            claim = claims.claim(session, job_id, "one that is gone")
            assert claim is not None
            read = [
                job_inputs.JobInput(i, e.name, str(upload.folder / e.name), None, origin=e.name)
                for i, e in enumerate(upload.received)
            ]
            claims.advance(session, claim, found=len(read))
            job_inputs.add(session, claim, read)
            claims.mark_scanned(session, claim)
            for _ in range(jobs.MOST_ATTEMPTS):
                job_inputs.begin_attempt(session, claim, 0)
    with RagOwl.open(data, stalled_seconds=2, **light) as owl:
        job = owl.wait_for_job(job_id)
        assert (job.state, job.added, job.skipped_count, job.found) == ("failed", 2, 1, 3)
        assert job.error is not None
        assert "a.txt" in job.error
        assert "retry" in job.error
        assert [skipped.name for skipped in job.skipped] == ["a.txt"]
        other = tmp_path / "other.txt"
        other.write_text("Another document.")
        owl.ingest("c", [other])
        (gone,) = (each for each in owl.documents("c") if each.name == "other.txt")
        owl.delete_document("c", gone.id, wait=True)  # forgets what finished jobs have read
        owl.remove_orphans()
        job = owl.wait_for_job(owl.retry_job(job_id).id)
        assert (job.state, job.added, job.skipped_count, job.found) == ("done", 3, 0, 3)
        assert sorted(found(owl, "text")) == ["a.txt", "b.txt", "c.txt"]
        assert not upload.folder.exists()
    assert problems(data) == []


@pytest.mark.usefixtures("own_decoders")
def test_files_that_nothing_refers_to_are_removed(tmp_path: Path, files: Path) -> None:
    (files / "a.jpg").write_bytes(noise_jpeg(60, 40))
    (files / "b.txt").write_text("The moon is a stone.")
    data = tmp_path / "data"
    with RagOwl.open(
        data, text_embedder="hashing", picture_embedder="descriptor", model="sentences"
    ) as owl:
        owl.ingest("c", [files])
        answer = owl.ask("c", "What is the moon?", images=[noise_jpeg(90, 40)])
        assert answer.pictures
        needed = set(owl.blobs.list_keys())
        orphan = owl.blobs.put(b"nothing refers to this")
        (data / "blobs" / "arriving" / "tmpx").write_bytes(b"half of it")
        (data / "segments" / "0123456789abcdef0123456789abcdef").mkdir()
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        (data / "decoding" / f"rag-owl-decoder-{dead.pid}-x").mkdir()
        assert owl.remove_orphans() == 2  # of blobs only the old
        assert owl.blobs.exists(orphan)
        for path in data.rglob("*"):
            os.utime(path, (time.time() - 7_200,) * 2)
        assert owl.remove_orphans() == 2
        assert set(owl.blobs.list_keys()) == needed
        assert owl.remove_orphans() == 0
        assert owl.search("c", "moon", images=[noise_jpeg(90, 40)])
    assert problems(data) == []


def test_an_upload_of_which_something_was_deleted_is_not_read_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with RagOwl.open(data, text_embedder="hashing", picture_embedder="descriptor") as owl:
        with uploads.Upload(data) as upload:
            upload.begin("a.txt")
            upload.write(b"The text of a.")
            upload.end()
            upload.keep()
        with db.writing(owl.engine) as session:
            key = collections.get_or_create(session, "c").key
            asked = {**uploads.parameters(upload, {}), "withdrawn": True}
            job_id, _ = jobs.create(session, key, "ingest", asked)
            jobs.request_cancel(session, job_id)
        owl.wait_for_job(job_id)
        with pytest.raises(Conflict, match="upload again"):
            owl.retry_job(job_id)
