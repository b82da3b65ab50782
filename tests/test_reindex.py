"""Reindexing: what was found before is found after; on both databases."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_owl import RagOwl, db
from rag_owl.errors import Conflict, InvalidInput, ModelError, ModelNotFound, NotFound
from rag_owl.indexer.embed import HashingEmbedder
from rag_owl.model.nano import NanoPictureEmbedder, weights
from rag_owl.rows import GenerationRow, ItemRow
from rag_owl.store import collections, generations, segments
from rag_owl.types import Job
from tests.consistency import problems
from tests.files import noise_jpeg

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor", "model": "sentences"}
ANIMALS = ("owl", "fox", "hare", "newt", "crane", "mole", "seal", "wolf")


class Other:
    """Another embedder: words by their first letters, in 64 dimensions; may be made to wait."""

    name, dimension = "letters@1", 64

    def __init__(self) -> None:
        self.embedded = 0
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()
        self._hashing = HashingEmbedder()

    def embed_texts(self, texts: Any, batch_size: int = 32) -> NDArray[np.float32]:
        self.begun.set()
        assert self.go.wait(500)
        self.embedded += len(texts)
        return self._embed(texts)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._embed([text])[0]
        return vector

    def _embed(self, texts: Any) -> NDArray[np.float32]:
        vectors = self._hashing.embed_texts(texts).reshape(len(texts), 4, 64).sum(axis=1)
        vectors[:, 0] += 1e-3
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture
def owl(tmp_path: Path, database_url: str, other: Other) -> Iterator[RagOwl]:
    with RagOwl.open(tmp_path / "data", database_url=database_url, **LIGHT) as opened:
        opened.models.put("text", other)
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for at, animal in enumerate(ANIMALS):
        (folder / f"{animal}.txt").write_text(f"The {animal} sleeps in the barn number {at}.")
    for at in range(3):
        (folder / f"p{at}.jpg").write_bytes(noise_jpeg(40 + at, 30))
    return folder


def names(owl: RagOwl, query: str, **more: Any) -> list[str]:
    return [hit.item.document_name for hit in owl.search("c", query, k=50, **more)]


def found_by_meaning(owl: RagOwl) -> set[str]:
    return set(names(owl, "sleeps in the barn", channels=("text",)))


def states(owl: RagOwl) -> list[tuple[str, str]]:
    return [(each.generation.text_embedder, each.state) for each in owl.generations("c")]


def vectors_of(owl: RagOwl, generation: int, channel: str) -> list[int]:
    with db.reading(owl.engine) as session:
        infos = [s for s in segments.active(session, generation) if s.channel == channel]
    keys = [key for info in infos for key in owl.segments.open(info.id).ids.tolist()]
    assert len(keys) == len(set(keys))
    return sorted(keys)


def test_another_embedder_of_another_dimension(
    owl: RagOwl, files: Path, other: Other, database_url: str, tmp_path: Path
) -> None:
    owl.ingest("c", [files])
    before = found_by_meaning(owl)
    pictures = names(owl, "", images=[files / "p1.jpg"])
    job = owl.reindex("c", text_embedder="letters@1")
    assert (job.state, job.kind, job.error) == ("done", "reindex", None)
    assert (job.found, job.done, job.left) == (11, 11, 0)
    assert states(owl) == [("letters@1", "live"), ("hashing@1", "kept")]
    assert found_by_meaning(owl) == before == {f"{animal}.txt" for animal in ANIMALS}
    assert names(owl, "", images=[files / "p1.jpg"]) == pictures
    live, kept = owl.generations("c")
    assert (live.vectors, kept.vectors) == (11, 11)
    assert live.generation.text_dimension == 64
    # Pictures have the same embedder: theirs were copied.
    for channel in ("text", "picture"):
        assert vectors_of(owl, live.generation.key, channel) == vectors_of(
            owl, kept.generation.key, channel
        )
    assert owl.ask("c", "Where does the mole sleep?").generation == live.generation.key
    if database_url.startswith("sqlite"):
        assert problems_of(tmp_path) == []


def problems_of(tmp_path: Path) -> list[str]:
    """The database of these tests lies beside the folder."""
    (tmp_path / "data" / "rag_owl.db").symlink_to(tmp_path / "test.db")
    return problems(tmp_path / "data")


def test_the_comparison_says_what_is_the_same(owl: RagOwl, files: Path) -> None:
    owl.ingest("c", [files])
    owl.reindex("c", text_embedder="letters@1")
    of_items = owl.generations("c")[0].comparison
    assert of_items is not None
    assert of_items["basis"] == "items"
    assert of_items["questions"] == 11
    for animal in ANIMALS:
        owl.ask("c", f"Where does the {animal} sleep?")
    owl.reindex("c", index_type="hnsw")
    of_questions = owl.generations("c")[0].comparison
    assert of_questions is not None
    assert (of_questions["basis"], of_questions["questions"]) == ("questions", 8)
    assert of_questions["same_documents"] == of_questions["same_locations"] == 1.0
    assert of_questions["same_first"] == 1.0
    assert of_questions["new_ms"] > 0 < of_questions["live_ms"]


def test_an_index_type_copies_all_vectors(owl: RagOwl, files: Path, other: Other) -> None:
    owl.ingest("c", [files])
    owl.reindex("c", text_embedder="letters@1")
    embedded = other.embedded
    owl.reindex("c", index_type="hnsw")
    live = owl.generations("c")[0]
    assert (live.generation.index_type, live.vectors) == ("hnsw", 11)
    assert other.embedded == embedded
    with db.reading(owl.engine) as session:
        kinds = {s.index_type for s in segments.active(session, live.generation.key)}
    assert kinds == {"hnsw"}


def test_nothing_to_change(owl: RagOwl, files: Path) -> None:
    owl.ingest("c", [files])
    for choice in ({}, {"text_embedder": "hashing"}, {"index_type": "auto"}):
        job = owl.reindex("c", **choice)  # type: ignore[arg-type]
        assert (job.state, job.found) == ("done", 0)
    assert states(owl) == [("hashing@1", "live")]


def test_an_empty_collection_gets_what_was_chosen(owl: RagOwl, files: Path) -> None:
    with db.writing(owl.engine) as session:
        collections.get_or_create(session, "c")
    assert owl.reindex("c", text_embedder="letters@1").state == "done"
    owl.ingest("c", [files])
    assert states(owl) == [("letters@1", "live")]


def test_back_and_forth_with_what_came_and_went_meanwhile(owl: RagOwl, files: Path) -> None:
    owl.ingest("c", [files])
    owl.reindex("c", text_embedder="letters@1")
    (files / "stork.txt").write_text("The stork sleeps in the barn as well.")
    owl.ingest("c", [files])
    gone = next(d for d in owl.documents("c") if d.name == "fox.txt")
    owl.delete_document("c", gone.id)
    (files / "owl.txt").write_text("The owl sleeps in the barn, but in another one now.")
    owl.ingest("c", [files / "owl.txt"])
    expected = {f"{animal}.txt" for animal in (*ANIMALS, "stork")} - {"fox.txt"}
    assert found_by_meaning(owl) == expected
    for state in (
        [("letters@1", "kept"), ("hashing@1", "live")],
        [("letters@1", "live"), ("hashing@1", "kept")],
    ):
        assert owl.reindex("c", action="rollback").state == "done"
        assert states(owl) == state
        assert found_by_meaning(owl) == expected
        hits = owl.search("c", "owl sleeps", k=50, channels=("text",))
        assert [h.item.revision for h in hits if h.item.document_name == "owl.txt"] == [2]


def test_held_then_switched_then_dropped(owl: RagOwl, files: Path) -> None:
    owl.ingest("c", [files])
    assert owl.reindex("c", text_embedder="letters@1", hold=True).state == "done"
    assert states(owl) == [("letters@1", "ready"), ("hashing@1", "live")]
    assert owl.generations("c")[0].comparison is not None
    (files / "stork.txt").write_text("The stork sleeps in the barn as well.")
    owl.ingest("c", [files])
    assert owl.reindex("c", action="switch").state == "done"
    assert states(owl) == [("letters@1", "live"), ("hashing@1", "kept")]
    assert "stork.txt" in found_by_meaning(owl)
    assert owl.reindex("c", action="drop").state == "done"
    assert states(owl) == [("letters@1", "live")]
    assert len(found_by_meaning(owl)) == 9
    with pytest.raises(Conflict, match="no earlier generation"):
        owl.reindex("c", action="rollback")
    with pytest.raises(Conflict, match="nothing to drop"):
        owl.reindex("c", action="drop")
    with pytest.raises(Conflict, match="--hold"):
        owl.reindex("c", action="switch")


def test_what_is_kept_can_be_held_and_switched_to(owl: RagOwl, files: Path, other: Other) -> None:
    owl.ingest("c", [files])
    owl.reindex("c", text_embedder="letters@1")
    embedded = other.embedded
    owl.reindex("c", text_embedder="hashing", hold=True)
    assert states(owl) == [("letters@1", "live"), ("hashing@1", "ready")]
    assert owl.reindex("c", action="switch").state == "done"
    assert states(owl) == [("letters@1", "kept"), ("hashing@1", "live")]
    assert owl.reindex("c", text_embedder="letters@1").state == "done"
    assert states(owl) == [("letters@1", "live"), ("hashing@1", "kept")]
    assert other.embedded == embedded  # its vectors were there


def test_lost_vectors_are_made_again_where_nothing_changes(
    owl: RagOwl, files: Path, other: Other
) -> None:
    owl.ingest("c", [files])
    live = owl.generations("c")[0].generation
    expected = {channel: vectors_of(owl, live.key, channel) for channel in ("text", "picture")}
    with db.reading(owl.engine) as session:
        lost = next(s for s in segments.active(session, live.key) if s.channel == "text")
    owl.segments.remove(lost.id)
    job = owl.reindex("c")
    assert (job.state, job.found, job.done) == ("done", 11, 11)
    assert {channel: vectors_of(owl, live.key, channel) for channel in expected} == expected
    assert len(found_by_meaning(owl)) == 8


def test_ingestion_deletion_and_questions_go_on(owl: RagOwl, files: Path, other: Other) -> None:
    owl.ingest("c", [files])
    other.go.clear()
    job = owl.reindex("c", text_embedder="letters@1", wait=False)
    assert other.begun.wait(300)
    with pytest.raises(Conflict, match="is being reindexed by job"):
        owl.reindex("c", index_type="flat")
    assert owl.reindex("c", text_embedder="letters@1", wait=False).id == job.id
    assert found_by_meaning(owl) == {f"{animal}.txt" for animal in ANIMALS}
    (files / "stork.txt").write_text("The stork sleeps in the barn as well.")
    (files / "owl.txt").write_text("The owl sleeps in the barn, but in another one now.")
    assert owl.ingest("c", [files]).state == "done"
    with db.reading(owl.engine) as session:
        fox = session.query(ItemRow.key).filter(ItemRow.text.contains("fox")).scalar()
    for name in ("fox.txt", "p1.jpg"):
        gone = next(d for d in owl.documents("c") if d.name == name)
        owl.delete_document("c", gone.id)
    expected = {f"{animal}.txt" for animal in (*ANIMALS, "stork")} - {"fox.txt"}
    assert found_by_meaning(owl) == expected
    assert states(owl)[0] == ("letters@1", "building")
    other.go.set()
    assert owl.wait_for_job(job.id).state == "done"
    assert states(owl)[0] == ("letters@1", "live")
    assert found_by_meaning(owl) == expected
    # It was being embedded when it was deleted.
    assert fox not in vectors_of(owl, owl.generations("c")[0].generation.key, "text")
    assert len(names(owl, "", images=[files / "p1.jpg"])) == 2


def test_cancelled_then_resumed_then_changed_ones_mind(
    owl: RagOwl, files: Path, other: Other
) -> None:
    owl.ingest("c", [files])
    other.go.clear()
    job = owl.reindex("c", text_embedder="letters@1", wait=False)
    assert other.begun.wait(300)
    owl.cancel_job(job.id)
    other.go.set()
    assert owl.wait_for_job(job.id).state == "cancelled"
    assert states(owl) == [("letters@1", "building"), ("hashing@1", "live")]
    begun = owl.generations("c")[0].generation.key
    assert owl.reindex("c", text_embedder="letters@1", hold=True).state == "done"
    assert owl.generations("c")[0].generation.key == begun
    # Something else instead: nothing is left of the first.
    assert owl.reindex("c", index_type="flat").state == "done"
    assert states(owl) == [("hashing@1", "live"), ("hashing@1", "kept")]


def test_a_second_reindex_leaves_one_step_back(owl: RagOwl, files: Path) -> None:
    owl.ingest("c", [files])
    owl.reindex("c", text_embedder="letters@1")
    owl.reindex("c", index_type="flat")
    kept = [(each.generation.index_type, each.state) for each in owl.generations("c")]
    assert kept == [("flat", "live"), ("auto", "kept")]
    # What is kept is taken up again instead of being made anew.
    key = owl.generations("c")[1].generation.key
    owl.reindex("c", index_type="auto")
    assert [each.state for each in owl.generations("c")] == ["kept", "live"]
    assert owl.generations("c")[1].generation.key == key


def test_a_lost_picture_is_skipped_and_said(owl: RagOwl, files: Path, tmp_path: Path) -> None:
    owl.ingest("c", [files])
    hit = owl.search("c", "", images=[files / "p1.jpg"], k=1)[0]
    assert hit.item.picture is not None
    blob = owl.blobs.path(hit.item.picture)
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    job: Job = owl.reindex("c", picture_embedder="owl-nano-eyes")
    assert job.state == "done"
    assert [s.name for s in job.skipped] == [hit.item.document_name]
    assert (job.found, job.done, job.skipped_count) == (11, 10, 1)
    assert owl.generations("c")[0].state == "live"


def test_nobody_goes_back_to_what_cannot_be_searched_here(owl: RagOwl, files: Path) -> None:
    """Its embedder went, such as one that a newer version replaced; all its vectors are there."""
    owl.ingest("c", [files])
    assert owl.reindex("c", text_embedder="letters@1").state == "done"
    with db.writing(owl.engine) as session:
        kept = session.query(GenerationRow).filter_by(state="kept").one()
        kept.text_embedder = "hashing@0"
    job = owl.reindex("c", action="rollback")
    assert job.state == "failed"
    assert "hashing@0" in (job.error or "")
    assert states(owl) == [("letters@1", "live"), ("hashing@0", "kept")]
    assert "owl.txt" in found_by_meaning(owl)


def test_what_cannot_be_asked_for(owl: RagOwl, files: Path) -> None:
    owl.ingest("c", [files])
    with pytest.raises(NotFound, match="no collection 'd'"):
        owl.reindex("d", index_type="flat")
    with pytest.raises(InvalidInput, match="'tree' is no index type; use auto, flat, hnsw, ivf"):
        owl.reindex("c", index_type="tree")
    with pytest.raises(InvalidInput, match="index_type goes with building alone"):
        owl.reindex("c", index_type="flat", action="rollback")
    with pytest.raises(ModelNotFound, match="nothing-like-this"):
        owl.reindex("c", text_embedder="./nothing-like-this")
    assert owl.jobs()[0].kind == "ingest"  # none was begun


def lose(owl: RagOwl, **embedders: str) -> None:
    """The live generation was made with these, which are not here."""
    with db.writing(owl.engine) as session:
        row = session.query(GenerationRow).one()
        for name, value in embedders.items():
            setattr(row, name, value)
        collections.touch(session, row.collection_key)


def test_without_its_picture_embedder_a_collection_still_answers_words(
    owl: RagOwl, files: Path
) -> None:
    owl.ingest("c", [files])
    lose(owl, picture_embedder="owl-nano-eyes@00000000-50")
    remedy = (
        r"owl-nano-eyes, as it made .* is not here.*`rag-owl reindex c --picture-embedder NAME`"
    )
    notes: list[str] = []
    hits = owl.search("c", "owl", on_note=notes.append)
    assert hits[0].item.document_name == "owl.txt"
    assert hits[0].channels == ("text", "words")
    assert len(notes) == 1
    assert re.search(rf"^Pictures were not searched: .*{remedy}", notes[0])
    answer = owl.ask("c", "Where does the owl sleep?")
    assert not answer.abstained
    assert answer.notes == tuple(notes)
    assert owl.answer(answer.id).notes == tuple(notes)
    with pytest.raises(ModelNotFound, match=remedy):
        owl.search("c", "owl", images=[files / "p1.jpg"])
    with pytest.raises(ModelNotFound, match=remedy):
        owl.ask("c", "What is this?", images=[files / "p1.jpg"])
    with pytest.raises(ModelNotFound, match=remedy):
        owl.search("c", "owl", channels=("picture",))
    notes.clear()
    by_words = owl.search("c", "owl", [files / "p1.jpg"], None, 5, ("words",), notes.append)
    assert by_words[0].item.document_name == "owl.txt"
    assert notes == []  # what was not asked for is not missing

    job = owl.ingest("c", [files])
    assert job.state == "failed"
    assert "`rag-owl reindex c`" in (job.error or "")
    assert owl.reindex("c").state == "done"  # the same embedders, as they are here now
    live, kept = owl.generations("c")
    assert live.generation.picture_embedder.startswith("owl-nano-eyes@")
    assert live.comparison is not None
    assert "is not here" in live.comparison["note"]
    assert "owl.txt" in names(owl, "owl", on_note=notes.append)
    assert owl.search("c", "", images=[files / "p1.jpg"], on_note=notes.append)
    assert notes == []
    assert kept.state == "kept"


def test_a_damaged_embedder_is_named_without_its_files_and_the_log_has_them(
    owl: RagOwl,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owl.ingest("c", [files])
    lose(owl, picture_embedder="owl-nano-eyes@12345678-50")
    damaged = tmp_path / "secret-place"
    shutil.copytree(weights.FOLDER, damaged)
    (damaged / "eyes.safetensors").write_bytes(b"no tensors")
    load = NanoPictureEmbedder.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(load, "__defaults__", (damaged,))
    told: list[str] = []
    assert owl.search("c", "owl", on_note=told.append)[0].item.document_name == "owl.txt"
    with pytest.raises(ModelNotFound) as refused:
        owl.search("c", "", images=[files / "p1.jpg"])
    for message in (*told, str(refused.value)):
        assert "the files of the model owl-nano-eyes are damaged" in message
        assert "the log" in message
        for hidden in ("secret-place", "sha256", "reindex"):
            assert hidden not in message
    (logged,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert str(damaged / "eyes.safetensors") in logged.getMessage()


def test_without_its_text_embedder_a_collection_still_answers_by_words_and_pictures(
    owl: RagOwl, files: Path
) -> None:
    owl.ingest("c", [files])
    lose(owl, text_embedder="/nowhere/minilm@0123456789ab")
    remedy = r"minilm, as it made .* is not here.*`rag-owl reindex c --text-embedder NAME`"
    notes: list[str] = []
    hits = owl.search("c", "owl sleeps", on_note=notes.append)
    assert hits[0].item.document_name == "owl.txt"
    assert "text" not in hits[0].channels
    assert re.search(rf"^Meanings were not searched: .*{remedy}", notes[0])
    assert "nowhere" not in notes[0]  # folders are the operator's alone
    answer = owl.ask("c", "Where does the owl sleep?")
    assert answer.notes == tuple(notes)
    assert answer.citations[0].document_name == "owl.txt"
    (best, *_) = owl.search("c", "owl", images=[files / "p1.jpg"], on_note=notes.append)
    assert best.item.document_name == "p1.jpg"
    with pytest.raises(ModelNotFound, match=remedy):
        owl.search("c", "owl", channels=("text",))
    lose(owl, picture_embedder="/nowhere/clip@1")
    notes.clear()
    assert owl.search("c", "owl", on_note=notes.append)[0].channels == ("words",)
    assert len(notes) == 2


def test_an_embedder_that_is_gone_is_not_looked_for_at_every_question(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owl.ingest("c", [files])
    lose(owl, text_embedder="far/away@0123456789ab")
    asked: list[str] = []

    def unreachable(model_id: str, *_: object, **__: object) -> None:
        asked.append(model_id)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.model_info", unreachable)
    for _ in range(3):
        assert names(owl, "owl")[0] == "owl.txt"
    assert asked == ["far/away"]


def test_a_batch_that_was_made_for_what_was_live_before_is_made_again(
    tmp_path: Path, database_url: str, other: Other, files: Path
) -> None:
    data = tmp_path / "data"
    settings = {**LIGHT, "text_embedder": "letters@1"}
    with RagOwl.open(data, database_url=database_url, work_jobs=False, **settings) as owl:
        owl.models.put("text", other)
        owl._runner.start()
        owl.ingest("c", [files])
        (files / "stork.txt").write_text("The stork sleeps in the barn as well.")
        other.go.clear()
        other.begun.clear()
        job = owl.ingest("c", [files], wait=False)
        assert other.begun.wait(300)  # its batch is being embedded
        embedded = other.embedded
        assert owl.reindex("c", index_type="flat").state == "done"
        other.go.set()
        assert owl.wait_for_job(job.id).added == 1
        assert other.embedded == embedded + 2  # once for each of the two
        live, kept = owl.generations("c")
        assert (live.state, live.generation.index_type, live.vectors) == ("live", "flat", 12)
        assert (kept.state, kept.vectors) == ("kept", 11)
        assert len(vectors_of(owl, live.generation.key, "text")) == 9
        assert "stork.txt" in found_by_meaning(owl)


def test_ingestion_lets_a_reindex_end_that_nearly_has_all(owl: RagOwl, files: Path) -> None:
    owl.ingest("c", [files])
    until = time.time() + 2
    with db.writing(owl.engine) as session:
        generations.close_until(session, owl.generations("c")[0].generation.key, until)
    (files / "stork.txt").write_text("The stork sleeps in the barn as well.")
    assert owl.ingest("c", [files]).added == 1
    assert time.time() >= until


class Watchful:
    """An answerer that looks at pictures ahead of questions, as far as a reindex asks it."""

    name = "team/watchful"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def answer(self, context: Any, on_text: Any = None) -> Any:
        raise NotImplementedError

    def remember_picture(self, key: str) -> bool:
        if len(self.seen) == 1:
            self.seen.append("")
            raise ModelError("this one cannot be looked at")
        self.seen.append(key)
        return True


def test_an_answerer_looks_at_every_picture(owl: RagOwl, files: Path) -> None:
    owl.ingest("c", [files])
    answerer = Watchful()
    owl.models._loaded[f"answerer {answerer.name}"] = answerer
    job = owl.reindex("c", answerer=answerer.name, index_type="flat")
    assert job.state == "done"
    assert (job.found, job.done, job.skipped_count) == (3 + 11, 2 + 11, 1)
    assert "this one cannot be looked at" in job.skipped[0].reason
    assert len(set(answerer.seen)) == 3
    assert all(owl.blobs.exists(key) for key in answerer.seen if key)
    # One that remembers nothing has nothing to do.
    assert owl.reindex("c", answerer="sentences").found == 0
