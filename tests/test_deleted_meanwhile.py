"""What was deleted stays deleted: in follow-ups, uploads, backups, and beside jobs at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from rag_owl import RagOwl, db, retention, uploads
from rag_owl.errors import Conflict
from rag_owl.indexer import pipeline
from rag_owl.indexer.batch import GenerationSwitched
from rag_owl.rows import JobInputRow
from rag_owl.store import claims, collections, generations, job_inputs, jobs, revisions
from rag_owl.store.job_inputs import JobInput
from rag_owl.store.revisions import NewDocument
from rag_owl.types import Context, Document, Draft
from tests.databases import new_postgres
from tests.rag_owl.test_retention import rows_with
from tests.resting import rest_after
from tests.test_changes import long_text, write
from tests.test_left_behind import all_done, half

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
SECRET = "The password of the safe is zanzibarquokka."


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def owl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RagOwl]:
    monkeypatch.setattr(retention, "_LONGEST_REST", 0.0)
    with RagOwl.open(tmp_path / "data", model="sentences", **LIGHT) as opened:
        yield opened


def named(owl: RagOwl, name: str) -> Document:
    return next(document for document in owl.documents("c") if document.name == name)


# --- follow-ups -----------------------------------------------------------------------------------


class Repeats:
    """An answerer that says again what it said before, as a chat model may."""

    name = "repeats"

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._meanwhile = meanwhile

    def answer(self, context: Context, on_text: object = None) -> Draft:
        self._meanwhile()
        return Draft("As I said: " + context.question.history[0].text.replace("[1]", ""))


def conversation(owl: RagOwl, files: Path) -> tuple[str, list[str]]:
    """A conversation in which the secret was told, and the items that hold it."""
    write(files, secret=SECRET, other="The herons speak of ponds and of rivers.")
    owl.ingest("c", [files])
    told = owl.ask("c", "What is the password of the safe?")
    assert "zanzibar" in told.text
    items = [hit.item.id for hit in owl.search("c", "password") if "zanzi" in str(hit.item.text)]
    assert told.conversation_id is not None
    return told.conversation_id, items


def test_what_a_follow_up_repeated_goes_with_its_document(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk, items = conversation(owl, files)
    monkeypatch.setattr(owl.models, "answerer", lambda model=None: Repeats())
    again = owl.ask("c", "Tell me that again", conversation_id=talk, exclude_items=items)
    assert "zanzibar" in again.text
    owl.delete_document("c", named(owl, "secret.txt").id, wait=True)
    assert rows_with(owl, "zanzibar") == []
    monkeypatch.undo()
    assert owl.ask("c", "And who speaks of ponds?", conversation_id=talk)  # it goes on


def test_what_is_deleted_while_a_follow_up_repeats_it_is_not_stored(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk, items = conversation(owl, files)
    secret = named(owl, "secret.txt").id
    repeats = Repeats(lambda: owl.delete_document("c", secret, wait=True))
    monkeypatch.setattr(owl.models, "answerer", lambda model=None: repeats)
    with pytest.raises(Conflict, match="deleted meanwhile"):
        owl.ask("c", "Tell me that again", conversation_id=talk, exclude_items=items)
    assert rows_with(owl, "zanzibar") == []


def test_what_was_cited_of_a_half_read_file_goes_though_it_was_renamed(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half(owl, files, monkeypatch, a=SECRET + "\n\n" + long_text("owl", 200))
    assert "zanzibar" in owl.ask("c", "What is the password of the safe?").text
    (files / "a.txt").rename(files / "b.txt")
    owl.ingest("c", [files])
    assert [document.name for document in owl.documents("c")] == ["b.txt"]
    owl.delete_document("c", named(owl, "b.txt").id, wait=True)
    assert rows_with(owl, "zanzibar") == []


# --- uploads --------------------------------------------------------------------------------------


def upload_of(owl: RagOwl, **texts: str) -> tuple[Path, str]:
    """The upload's folder and the job that reads it."""
    with uploads.Upload(owl.folder) as upload:
        for name, content in texts.items():
            upload.begin(name if "." in name else f"{name}.txt")
            upload.write(content.encode())
            upload.end()
        upload.keep()
    with db.writing(owl.engine) as session:
        key = collections.get_or_create(session, "c").key
        job_id, _ = jobs.create(session, key, "ingest", uploads.parameters(upload, {}))
    owl.work_soon()
    return upload.folder, job_id


def begun(owl: RagOwl, job_id: str) -> None:
    while not owl.job(job_id).items:
        time.sleep(0.01)


def test_an_upload_of_which_something_was_deleted_goes_when_its_job_is_cancelled(
    owl: RagOwl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = rest_after(monkeypatch, 1, 64)
    folder, job_id = upload_of(owl, a="the secret text", b=long_text("owl", 200))
    begun(owl, job_id)
    owl.delete_document("c", named(owl, "a.txt").id, wait=True)
    assert folder.exists()  # it is still read from
    owl.cancel_job(job_id)
    go_on.set()
    assert owl.wait_for_job(job_id).state == "cancelled"
    with pytest.raises(Conflict, match="upload again"):
        owl.retry_job(job_id)
    assert owl.backup(tmp_path / "backup").lacking == ()
    all_done(owl)
    assert not folder.exists()


def test_an_upload_of_another_file_whose_name_begins_alike_stays(
    owl: RagOwl, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, older = upload_of(owl, **{"notes.txt (2).txt": "an older text"})
    owl.wait_for_job(older)
    go_on = rest_after(monkeypatch, 1, 64)
    folder, job_id = upload_of(owl, notes=long_text("owl", 200))
    begun(owl, job_id)
    owl.cancel_job(job_id)
    go_on.set()
    owl.wait_for_job(job_id)
    owl.delete_document("c", named(owl, "notes.txt (2).txt").id, wait=True)
    assert folder.exists()
    owl.retry_job(job_id)
    assert owl.wait_for_job(job_id).state == "done"


def test_the_second_document_of_a_pair_that_is_none_stays_deleted(
    owl: RagOwl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FIRST_BATCH", 4)
    monkeypatch.setattr(pipeline, "LARGEST_BATCH", 4)
    commit, told = pipeline.commit, list[bool]()

    def switch(*arguments: Any) -> bool:
        begun = [each for each in owl.documents("c") if each.name == "a.txt"]
        if begun and not told:
            told.append(True)
            owl.delete_document("c", begun[0].id)
            raise GenerationSwitched
        return commit(*arguments)

    monkeypatch.setattr(pipeline, "commit", switch)
    _, job_id = upload_of(owl, **{"a.png": "no picture at all", "a.txt": long_text("owl", 50)})
    assert owl.wait_for_job(job_id).state == "done"
    assert told
    assert [document.name for document in owl.documents("c")] == ["a.png"]


def test_a_file_whose_name_another_s_begins_with_is_not_taken_for_it(owl: RagOwl) -> None:
    with db.writing(owl.engine) as session:
        key = collections.get_or_create(session, "c").key
        job_id, _ = jobs.create(session, key, "ingest", {"paths": []})
        paths = ("/x/notes", "/x/notes.txt", "/x/no")
        for at, path in enumerate(paths):
            session.add(
                JobInputRow(job_id=job_id, position=at, name="n", path=path, companion_name="")
            )
        session.add(
            JobInputRow(
                job_id=job_id, position=9, name="s.png", path="/u/s.png", origin="upload:s.png",
                companion_name="s.txt",
            )
        )  # fmt: skip
        session.flush()
        for origin in ("/x/notes.txt", "/x/notes.txt#3", "/x/notes.txt/in.md"):
            found = session.scalars(select(JobInputRow.path).where(job_inputs.holds(origin)))
            assert found.all() == ["/x/notes.txt"]
        for origin, paths_of in (("upload:s.txt", ["/u/s.png"]), ("upload:glass.txt", [])):
            found = session.scalars(select(JobInputRow.path).where(job_inputs.holds(origin)))
            assert found.all() == paths_of
        session.rollback()


# --- backups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["a.txt", "b.txt"])
def test_what_was_deleted_before_a_backup_does_not_come_back_with_it(
    owl: RagOwl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    go_on = rest_after(monkeypatch, 1, 64)
    _, job_id = upload_of(owl, a="the secret text", b=long_text("owl", 200), c="the last text")
    begun(owl, job_id)
    owl.delete_document("c", named(owl, which).id, wait=True)
    owl.backup(tmp_path / "backup")
    go_on.set()
    owl.wait_for_job(job_id)
    kept = sorted({"a.txt", "b.txt", "c.txt"} - {which})
    assert sorted(document.name for document in owl.documents("c")) == kept
    RagOwl.restore(tmp_path / "backup", tmp_path / "again")
    with RagOwl.open(tmp_path / "again", **LIGHT) as restored:
        assert restored.wait_for_job(job_id).state == "done"
        assert sorted(document.name for document in restored.documents("c")) == kept


def test_a_collection_that_is_being_deleted_is_not_reported_as_restored(
    owl: RagOwl, files: Path, tmp_path: Path
) -> None:
    write(files, a="a text")
    owl.ingest("c", [files])
    owl.close()
    with RagOwl.open(owl.folder, work_jobs=False, **LIGHT) as waiting:
        waiting.delete_collection("c")
        waiting.backup(tmp_path / "backup")
    assert RagOwl.restore(tmp_path / "backup", tmp_path / "again").collections == ()


# --- beside others --------------------------------------------------------------------------------


def test_what_nobody_sees_any_more_fills_no_quota(tmp_path: Path, files: Path) -> None:
    with RagOwl.open(tmp_path / "data", quotas={"c": {"documents": 2}}, **LIGHT) as owl:
        write(files, a="text one", b="text two")
        owl.ingest("c", [files])
        (files / "b.txt").rename(files / "a.txt")
        owl.ingest("c", [files])
        assert len(list(owl.documents("c"))) == 1
        write(files, c="text three")
        assert owl.ingest("c", [files]).skipped == []


@pytest.mark.parametrize("whole", [True, False])
def test_deleting_waits_for_a_batch_without_a_deadlock(
    tmp_path: Path, request: pytest.FixtureRequest, whole: bool
) -> None:
    with (
        new_postgres(request.getfixturevalue("postgres_server")) as url,
        RagOwl.open(tmp_path / "data", work_jobs=False, database_url=url, **LIGHT) as owl,
    ):
        _, job_id = upload_of(owl, a="a text")
        with db.writing(owl.engine) as session:
            claim = claims.claim(session, job_id, "me")
            assert claim is not None
            read = JobInput(0, "a.txt", "/x/a.txt", None, origin="upload:a.txt")
            job_inputs.add(session, claim, [read])
            new = NewDocument("upload:a.txt", "a.txt", "", "0" * 64, "text/plain", {})
            begun = revisions.open_revision(session, claim.collection_key, new)
        held, failed = threading.Event(), list[BaseException]()

        def commit_a_batch() -> None:
            try:
                with db.writing(owl.engine) as session:
                    claims.advance(session, claim)
                    held.set()
                    time.sleep(1)
                    generations.lock(session, claim.collection_key)
            except BaseException as error:
                failed.append(error)

        batch = threading.Thread(target=commit_a_batch)
        batch.start()
        held.wait()
        if whole:
            owl.delete_collection("c")
        else:
            owl.delete_document("c", begun.document_id)
        batch.join()
        assert failed == []
