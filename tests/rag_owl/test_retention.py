"""Deletion: nothing of a document stays, wherever it was; and nothing of others goes with it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import func, select

from rag_owl import RagOwl, db, operations, retention
from rag_owl.errors import BlobsGone, Conflict, DataFolderBusy, NotFound, StorageUnavailable
from rag_owl.jobs import MOST_INTERRUPTIONS
from rag_owl.rows import AnswerRow, Base, CondemnedRow, JobRow
from rag_owl.store import claims, collections, condemned
from rag_owl.store.condemned import Look
from tests.consistency import problems
from tests.databases import new_postgres

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
SECRET = "zanzibarquokka"  # stands in nothing else
TITLE = "Umbrellaquill"


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if request.param == "sqlite":
        yield LIGHT
        return
    with new_postgres(request.getfixturevalue("postgres_server")) as url:
        yield {**LIGHT, "database_url": url}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for at in range(30):
        (folder / f"other{at}.txt").write_text(f"The note number{at} speaks of herons and owls.")
    (folder / f"{TITLE}.txt").write_text(
        f"The password of the safe is {SECRET}. "
        f"It was set in May by the {SECRET} of the house, who likes herons.\n" * 30
    )
    Image.effect_noise((80, 60), 90).convert("RGB").save(folder / f"{TITLE}.png")
    Image.effect_noise((80, 60), 90).convert("RGB").save(folder / "kept.png")
    return folder


def traces(folder: Path, *needles: bytes) -> list[str]:
    """Files below a folder that hold one of the needles, in any of the texts' encodings."""
    found = []
    wanted = [
        form
        for needle in needles
        for form in (needle, needle.lower(), needle.decode("latin-1").encode("utf-16-le"))
    ]
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [f"{path.name}: {form!r:.60}" for form in wanted if form in data]
    return found


def rows_with(owl: RagOwl, needle: str) -> list[str]:
    found = []
    with owl.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            rows = [
                json.dumps([str(value) for value in row])
                for row in connection.execute(select(table))
            ]
            found += [table.name] * sum(needle.lower() in row.lower() for row in rows)
        words = connection.exec_driver_sql("SELECT * FROM item_words").all()
        found += ["item_words"] * any(needle.lower() in str(row).lower() for row in words)
    return found


def test_no_byte_of_a_deleted_document_is_left(
    tmp_path: Path, files: Path, where: dict[str, Any]
) -> None:
    data = tmp_path / "data"
    with RagOwl.open(data, **where) as owl:
        owl.ingest("c", [files])
        text = files / f"{TITLE}.txt"
        text.write_text(text.read_text() + "And a second revision of it.\n")
        owl.ingest("c", [files])
        picture = (files / f"{TITLE}.png").read_bytes()
        answer = owl.ask("c", "What is the password of the safe?")
        assert SECRET in answer.text
        follow = owl.ask("c", "And who set it?", conversation_id=answer.conversation_id)
        other = owl.ask("c", "What does the note number7 speak of?")
        assert "number7" in other.text
        thumbnails = data / "thumbnails" / "64"
        key = next(
            hit.item.picture
            for hit in owl.search("c", TITLE, images=[picture], k=5)
            if hit.item.document_name.startswith(TITLE)
        )
        assert key is not None
        for folder, name in ((thumbnails, f"{key[2:]}.jpg"), (data / "features/m", key)):
            (folder / key[:2]).mkdir(parents=True)
            (folder / key[:2] / name).write_bytes(picture)
        needles = (SECRET.encode(), TITLE.encode(), picture[100:160])
        assert traces(data, *needles)
        gone = [each for each in owl.documents("c") if each.name.startswith(TITLE)]
        before = owl.search("c", "herons owls", k=50)
        for document in gone:
            job = owl.delete_document("c", document.id, wait=True)
            assert job.state == "done", job.error
        kept = [hit.item for hit in before if not hit.item.document_name.startswith(TITLE)]
        assert {hit.item.id for hit in owl.search("c", "herons owls", k=50)} >= {
            item.id for item in kept
        }
        redacted = owl.answer(answer.id)
        assert SECRET not in redacted.text
        assert len(redacted.text) == len(answer.text)
        assert [c.marker for c in redacted.citations] == [c.marker for c in answer.citations]
        assert f"[{answer.citations[0].marker}]" in redacted.text
        assert {c.quote for c in redacted.citations if c.document_id == gone[0].id} <= {
            "(deleted)",
            None,
        }
        assert owl.answer(follow.id).id == follow.id
        assert owl.answer(other.id).text == other.text
        assert owl.answer(other.id).citations == other.citations
        assert rows_with(owl, SECRET) == []
        assert rows_with(owl, TITLE) == []
        assert traces(data, *needles) == []  # while the database is open
        with pytest.raises(NotFound):
            owl.delete_document("c", gone[0].id)
        assert owl.search("c", "", images=[(files / "kept.png").read_bytes()], k=1)[
            0
        ].item.document_name.startswith("kept")
    assert traces(data, *needles) == []
    if "database_url" not in where:
        assert problems(data) == []


def test_a_deleted_collection_is_gone_with_all_it_held(
    tmp_path: Path, files: Path, where: dict[str, Any]
) -> None:
    data = tmp_path / "data"
    with RagOwl.open(data, **where) as owl:
        owl.ingest("kept", [files / "kept.png", files / "other1.txt"])
        owl.ingest("c", [files])
        answer = owl.ask("c", "What is the password of the safe?", images=[files / "kept.png"])
        job = owl.delete_collection("c")
        # At once, whatever the job has done:
        assert [info.name for info in owl.collections()] == ["kept"]
        for look in (
            lambda: owl.search("c", "owls"),
            lambda: owl.answer(answer.id),
            lambda: owl.delete_collection("c"),
            lambda: list(owl.documents("c")),
        ):
            with pytest.raises(NotFound):
                look()
        done = owl.wait_for_job(job.id)
        assert (done.state, done.error) == ("done", None)
        assert rows_with(owl, SECRET) == rows_with(owl, TITLE) == []
        assert traces(data, SECRET.encode(), TITLE.encode()) == []
        assert owl.search("kept", "herons")[0].item.document_name == "other1.txt"
        assert owl.search("kept", "", images=[files / "kept.png"])[0].item.picture
        owl.ingest("c", [files / "other2.txt"])  # the name is free
        assert len(list(owl.documents("c"))) == 1
    if "database_url" not in where:
        assert problems(data) == []
        assert len(list((data / "blobs").glob("??/*"))) == 3


def test_a_blob_that_another_document_needs_stays(tmp_path: Path, where: dict[str, Any]) -> None:
    note = tmp_path / "note.txt"
    note.write_text("The same words in two collections.")
    with RagOwl.open(tmp_path / "data", **where) as owl:
        owl.ingest("a", [note])
        owl.ingest("b", [note])
        (document,) = owl.documents("a")
        assert owl.delete_document("a", document.id, wait=True).state == "done"
        (kept,) = owl.documents("b")
        assert owl.blobs.get(kept.sha256) == note.read_bytes()
        with db.reading(owl.engine) as session:
            assert session.scalar(select(func.count()).select_from(CondemnedRow)) == 0
        owl.delete_document("b", kept.id, wait=True)
        assert not owl.blobs.exists(kept.sha256)
        owl.ingest("b", [note])  # and comes again
        assert owl.blobs.get(kept.sha256) == note.read_bytes()


def test_a_blob_stored_while_it_is_collected_survives(
    tmp_path: Path, where: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was put before the collector came, and its rows are committed after."""
    note = tmp_path / "note.txt"
    note.write_text("The same words once more.")
    with RagOwl.open(tmp_path / "data", work_jobs=False, **where) as owl:
        key = owl.blobs.put(note.read_bytes())
        with db.writing(owl.engine) as session:
            condemned.condemn(session, [key])
        with db.writing(owl.engine) as session:
            condemned.doom(session, [key], Look.now(session))
        with db.writing(owl.engine) as session:
            assert condemned.collect(session, [key], owl.blobs.delete) == 1
        with pytest.raises(BlobsGone), db.writing(owl.engine) as session:
            condemned.keep(session, [key])
        with db.writing(owl.engine) as session:
            condemned.forgive(session, [key])
        # and the other way round: who keeps it first has it
        owl.blobs.put(note.read_bytes())
        with db.writing(owl.engine) as session:
            condemned.condemn(session, [key])
        with db.writing(owl.engine) as session:
            condemned.keep(session, [key])
        with db.writing(owl.engine) as session:
            condemned.doom(session, [key], Look.now(session))
        with db.writing(owl.engine) as session:
            assert condemned.collect(session, [key], owl.blobs.delete) == 0
        assert owl.blobs.exists(key)


def test_a_collector_that_fails_between_its_files_deceives_nobody(
    tmp_path: Path, where: dict[str, Any]
) -> None:
    """What it removed before it failed is not taken for stored by who put it before."""
    with RagOwl.open(tmp_path / "data", work_jobs=False, **where) as owl:
        stored = {owl.blobs.put(data): data for data in (b"one", b"two")}
        keys = sorted(stored)
        with db.writing(owl.engine) as session:
            condemned.condemn(session, keys)
            condemned.doom(session, keys, Look.now(session))

        def fail_at_the_second(key: str) -> None:
            if key == keys[1]:
                raise StorageUnavailable("503")
            owl.blobs.delete(key)

        with pytest.raises(StorageUnavailable), db.writing(owl.engine) as session:
            condemned.collect(session, keys, fail_at_the_second)
        assert [owl.blobs.exists(key) for key in keys] == [False, True]
        for key in keys:
            with pytest.raises(BlobsGone), db.writing(owl.engine) as session:
                condemned.keep(session, [key])
        with db.writing(owl.engine) as session:  # one comes again, the other one is still to go
            condemned.forget_old(session)
            assert list(condemned.pending(session, 9)) == keys
            condemned.forgive(session, [keys[0]])
        assert owl.blobs.put(stored[keys[0]]) == keys[0]
        with db.writing(owl.engine) as session:
            assert condemned.collect(session, keys, owl.blobs.delete) == 1
        assert [owl.blobs.exists(key) for key in keys] == [True, False]


def test_ingesting_and_deleting_the_same_bytes_loses_none(
    tmp_path: Path, where: dict[str, Any]
) -> None:
    """Two threads, two collections, one content: what is there at the end has its file."""
    notes = []
    for at in range(4):
        notes.append(tmp_path / f"note{at}.txt")
        notes[-1].write_text(f"Shared words, number{at}.")
    until = time.monotonic() + 4
    with RagOwl.open(tmp_path / "data", **where) as owl:

        def again(name: str) -> None:
            while time.monotonic() < until:
                assert owl.ingest(name, notes).state == "done"
                for document in list(owl.documents(name)):
                    owl.delete_document(name, document.id, wait=document.name == "note3.txt")

        threads = [threading.Thread(target=again, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name in ("a", "b"):
            owl.ingest(name, notes)
        for job in owl.jobs():
            owl.wait_for_job(job.id)
        for name in ("a", "b"):
            found = list(owl.documents(name))
            assert len(found) == len(notes)
            for document in found:
                assert owl.blobs.get(document.sha256)


_KILLED = """
import os, sys
from rag_owl import RagOwl, retention
steps = int(sys.argv[2])
def die(*_, **__):
    global steps
    steps -= 1
    if steps <= 0:
        os.kill(os.getpid(), 9)
for name in ("_remove_files", "_remove", "scrub"):
    original = getattr(retention, name)
    def wrapped(*a, _original=original, **k):
        die()
        result = _original(*a, **k)
        die()
        return result
    setattr(retention, name, wrapped)
with RagOwl.open(sys.argv[1], text_embedder="hashing", picture_embedder="descriptor") as owl:
    if sys.argv[3] == "collection":
        owl.delete_collection("c", wait=True)
    else:
        gone = next(d for d in owl.documents("c") if d.name.startswith(sys.argv[3]))
        owl.delete_document("c", gone.id, wait=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", [TITLE, "collection"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_deletion_that_was_killed_is_finished_by_the_next_process(
    tmp_path: Path, files: Path, what: str, steps: int
) -> None:
    data = tmp_path / "data"
    (files / f"{TITLE}.png").unlink()
    with RagOwl.open(data, **LIGHT) as owl:
        owl.ingest("c", [files])
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(data), str(steps), what],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert killed.returncode == -9
    with RagOwl.open(data, **LIGHT) as owl:
        for job in owl.jobs():
            assert owl.wait_for_job(job.id).state == "done"
        assert rows_with(owl, SECRET) == []
    assert traces(data, SECRET.encode(), TITLE.encode()) == []
    assert problems(data) == []


@pytest.mark.usefixtures("on_each_database")
def test_a_deletion_that_waits_for_others_when_killed_is_not_given_up(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work must not be interrupted again and again; its waiting for the database may be."""
    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        owl.ingest("c", [files])
    with RagOwl.open(tmp_path / "data", work_jobs=False, **LIGHT) as owl:
        job = owl.delete_document("c", next(iter(owl.documents("c"))).id)
        cleaner = operations.cleaner(owl)
        monkeypatch.setattr(retention, "scrub", lambda *_: False)
        for _ in range(MOST_INTERRUPTIONS + 1):
            with db.writing(owl.engine) as session:
                claim = claims.claim(session, job.id, "killed")
            assert claim is not None
            assert claim.interruptions <= 1
            assert not retention.work(cleaner, claim, lambda: False)


@pytest.mark.usefixtures("on_each_database")
def test_many_deletions_are_few_jobs(tmp_path: Path, files: Path) -> None:
    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        owl.ingest("c", [files])
    with RagOwl.open(tmp_path / "data", work_jobs=False, **LIGHT) as owl:
        ids = {owl.delete_document("c", each.id).id for each in list(owl.documents("c"))}
        assert len(ids) == 1
        with db.reading(owl.engine) as session:
            assert len(session.scalars(select(JobRow).where(JobRow.kind == "delete")).all()) == 1


def test_deleting_one_after_the_other_writes_the_database_anew_now_and_then(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_BYTES_A_SECOND", 1)
    monkeypatch.setattr(retention, "_LONGEST_REST", 1.0)
    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        owl.ingest("c", [files])
        first, second = (
            owl.delete_document("c", document.id, wait=True)
            for document in list(owl.documents("c"))[:2]
        )
    assert first.id != second.id
    assert (second.finished_at or 0) - (first.finished_at or 0) > 0.9


def test_who_holds_the_database_is_waited_for_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RagOwl.open(tmp_path / "data", work_jobs=False, **LIGHT) as owl:
        other = sqlite3.connect(tmp_path / "data" / "rag_owl.db", isolation_level=None)
        monkeypatch.setattr(retention, "_LOCKED", 0.05)
        other.execute("BEGIN IMMEDIATE")
        with monkeypatch.context() as patched:
            patched.setattr(retention, "_PATIENCE", 0.1)
            with pytest.raises(DataFolderBusy, match="another process"):
                retention.scrub(owl.engine)
        other.execute("ROLLBACK")
        assert retention.scrub(owl.engine)
        other.close()


@pytest.mark.usefixtures("on_each_database")
def test_an_answer_whose_source_went_meanwhile_is_not_stored(tmp_path: Path, files: Path) -> None:
    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        owl.ingest("c", [files])
        gone = next(each for each in owl.documents("c") if each.name.startswith(TITLE))

        def delete(_: Any) -> None:
            owl.delete_document("c", gone.id, wait=True)

        with pytest.raises(Conflict, match="deleted meanwhile; ask again"):
            owl.ask("c", "What is the password of the safe?", on_sources=delete)
        with db.reading(owl.engine) as session:
            assert session.scalar(select(func.count()).select_from(AnswerRow)) == 0
        assert rows_with(owl, SECRET) == []


@pytest.mark.usefixtures("on_each_database")
def test_deleting_waits_for_a_backup(tmp_path: Path, files: Path) -> None:
    from rag_owl import holds

    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        owl.ingest("c", [files / "other1.txt"])
        (document,) = owl.documents("c")
        with holds.keeping_files(owl.engine):
            job = owl.delete_document("c", document.id)
            time.sleep(1.5)
            assert owl.job(job.id).state in ("queued", "running")
            assert owl.blobs.exists(document.sha256)
        assert owl.wait_for_job(job.id).state == "done"
        assert not owl.blobs.exists(document.sha256)


def test_a_damaged_file_is_healed_when_its_bytes_come_again(tmp_path: Path) -> None:
    with RagOwl.open(tmp_path / "data", work_jobs=False, **LIGHT) as owl:
        key = owl.blobs.put(b"some bytes")
        for damage in (b"some bytez", b"some"):
            owl.blobs.path(key).write_bytes(damage)
            assert owl.blobs.put(b"some bytes") == key
            assert owl.blobs.get(key) == b"some bytes"


@pytest.mark.usefixtures("on_each_database")
def test_collections_of_others_cannot_be_deleted(tmp_path: Path, files: Path) -> None:
    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        owl.ingest("theirs", [files / "other1.txt"])
        owl.ingest("mine", [files / "other1.txt"])
        view = owl.limited_to(["mine"])
        with pytest.raises(NotFound):
            view.delete_collection("theirs")
        with db.reading(owl.engine) as session:
            key = collections.get(session, "mine").key
            buried = f"~{key:032x}"
        with pytest.raises(NotFound):
            view.delete_collection(buried)
        assert view.delete_collection("mine", wait=True).state == "done"
        assert [info.name for info in owl.collections()] == ["theirs"]
        assert retention.scrub(owl.engine)
