"""What may be held, and for how long."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import Engine, update

from rag_owl import RagOwl, db
from rag_owl.errors import InvalidSettings, NotFound
from rag_owl.retention import EXPIRED
from rag_owl.rows import AnswerRow
from tests.service import problem, running, upload

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}


@pytest.mark.usefixtures("on_each_database")
def test_documents_beyond_the_quota_are_skipped_and_say_why(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for at in range(6):
        (files / f"{at}.txt").write_text(f"The note number{at}.")
    quotas = {"c": {"documents": 4}, "*": {"items": 2}}
    with RagOwl.open(tmp_path / "data", **LIGHT, quotas=quotas) as owl:
        job = owl.ingest("c", [files])
        assert (job.state, job.added, job.found) == ("done", 4, 6)
        assert [s.reason for s in job.skipped] == 2 * [
            "the collection 'c' is full: its quota is 4 documents (RAG_OWL_QUOTAS); delete some, "
            "or ask the operator for more"
        ]
        first = next(owl.documents("c"))
        (files / first.name).write_text("Other words in the same file.")
        job = owl.ingest("c", [files])  # another revision is no further document
        assert (job.updated, job.unchanged, job.skipped_count) == (1, 3, 2)
        owl.delete_document("c", first.id)
        assert owl.ingest("c", [files]).added == 1
        assert (
            owl.ingest("d", [files])
            .skipped[0]
            .reason.startswith("the collection 'd' is full: its quota is 2 items")
        )


@pytest.mark.usefixtures("on_each_database")
def test_a_full_collection_refuses_uploads_before_they_are_stored(tmp_path: Path) -> None:
    with running(tmp_path, **LIGHT, quotas={"*": {"documents": 1}}) as client:
        upload(client, "c", {"a.txt": b"The first note."})
        sent = client.post(
            "/v1/collections/c/documents", files=[("files", ("b.txt", b"The second note."))]
        )
        found = problem(sent, 409)
        assert "its quota is 1 documents (RAG_OWL_QUOTAS)" in found["detail"]
        assert not list((tmp_path / "uploads").glob("*"))


def test_a_quota_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="quotas"):
        RagOwl.open(tmp_path, quotas={"c": {"document": 1}})


def _age(engine: Engine, answer: str, days: float) -> None:
    with db.writing(engine) as session:
        session.execute(
            update(AnswerRow)
            .where(AnswerRow.id == answer)
            .values(created_at=time.time() - days * 86_400)
        )


@pytest.mark.usefixtures("on_each_database")
def test_old_answers_and_pictures_expire(tmp_path: Path) -> None:
    note, picture = tmp_path / "note.txt", tmp_path / "mine.png"
    note.write_text("The barn owl weighs 430 grams.")
    Image.effect_noise((60, 40), 90).convert("RGB").save(picture)
    with RagOwl.open(
        tmp_path / "data",
        **LIGHT,
        keep_answers_days=30,
        keep_pictures_days=7,
    ) as owl:
        owl.ingest("c", [note])
        old, middle, new = (
            owl.ask("c", f"How much does the barn owl {word}weigh?", images=images)
            for word, images in (("", []), ("really ", [picture]), ("now ", [picture]))
        )
        (key,) = middle.pictures
        _age(owl.engine, old.id, 31)
        _age(owl.engine, middle.id, 8)
        assert owl.expire().state == "done"
        with pytest.raises(NotFound):
            owl.answer(old.id)
        kept = owl.answer(middle.id)
        assert (kept.text, kept.pictures) == (middle.text, ())
        assert EXPIRED in kept.notes
        assert owl.answer(new.id) == new
        assert owl.blobs.exists(key)  # the new one shows it too
        _age(owl.engine, new.id, 8)
        job = owl.expire()
        assert (job.state, job.found, job.done) == ("done", 2, 2)  # a question and a file
        assert not owl.blobs.exists(key)
        assert owl.replay(new.id).text


def test_what_expires_is_looked_at_by_the_clock(tmp_path: Path) -> None:
    with RagOwl.open(tmp_path, work_jobs=False, keep_answers_days=1, **LIGHT) as owl:
        assert [each.kind for each in owl.settings.periodic] == ["expire"]
        assert json.loads(owl.settings.model_dump_json())["schedules"] == []
