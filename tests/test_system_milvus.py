"""Collections whose vectors are in Milvus (Milvus Lite, through the same client)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rag_owl import db
from rag_owl.client import RagOwl
from rag_owl.errors import InvalidInput, InvalidSettings, StorageUnavailable
from rag_owl.indexer import milvus as milvus_module
from rag_owl.indexer.milvus import Milvus, MilvusStore, name_of
from rag_owl.indexer.segment import search_segments
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.indexer.vector_store import VectorStore
from rag_owl.store import segments
from tests import databases

pytest.importorskip("milvus_lite")

NAME = name_of(1, "text")


def unit(count: int, dimension: int = 16, seed: int = 0) -> np.ndarray[Any, Any]:
    made = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("milvus") / "milvus.db")


@pytest.fixture
def milvus(server: str, tmp_path: Path) -> Iterator[Milvus]:
    made = Milvus(server, None, lambda: f"i{abs(hash(str(tmp_path)))}")
    yield made
    made.close()


# --- the index ------------------------------------------------------------------------------------


@pytest.mark.parametrize("index_type", ["flat", "auto"])
def test_it_finds_what_segments_find(milvus: Milvus, tmp_path: Path, index_type: str) -> None:
    vectors, queries = unit(500), unit(3, seed=1)
    keys = np.random.default_rng(2).permutation(5_000)[:500].astype(np.int64)
    store = VectorStore(SegmentStore(tmp_path), milvus)
    facts = {"embedder": "e"}
    for part in (slice(0, 200), slice(200, 500)):
        store.write(NAME, keys[part], vectors[part], index_type=index_type, manifest=facts)
        store.write(f"{'a' * 31}{part.start // 200}", keys[part], vectors[part], index_type="flat",
                    manifest=facts)  # fmt: skip
    theirs = [store.open(f"{'a' * 31}{i}") for i in (0, 1)]
    ours = store.open(NAME)
    assert (ours.ids == np.sort(keys)).all()
    assert len(ours) == 500
    for allowed, excluded in (
        (None, None),
        (np.sort(keys[:40]), None),
        (None, np.sort(keys[100:450])),
        (np.sort(keys[:200]), np.sort(keys[50:190])),
        (np.arange(3), None),
        (np.empty(0, np.int64), None),
    ):
        for query in queries:
            wanted = search_segments(theirs, query, 10, allowed, excluded)
            found = search_segments([ours], query, 10, allowed, excluded)
            assert found[0].tolist() == wanted[0].tolist()
            np.testing.assert_allclose(found[1], wanted[1], atol=1e-5)
    scores = ours.scores(queries[0], [int(keys[3]), 999_999, int(keys[4])])
    np.testing.assert_allclose(scores[[0, 2]], vectors[3:5] @ queries[0], atol=1e-5)
    assert np.isnan(scores[1])
    read = list(ours.vectors(np.sort(keys[:7])))
    assert sum(len(each) for each, _ in read) == 7


def test_filters_of_any_size_are_exact(milvus: Milvus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_module, "_KEYS_AT_ONCE", 7)
    store = MilvusStore(milvus)
    vectors, query = unit(100), unit(1, seed=1)[0]
    store.write(NAME, np.arange(100), vectors, index_type="flat", manifest={})
    index = store.open(NAME)
    order = np.argsort(-(vectors @ query))
    dead = np.sort(np.random.default_rng(3).permutation(100)[:60])
    allowed = np.arange(0, 100, 2)
    permitted = [key for key in order.tolist() if key not in set(dead.tolist())]
    found, _ = index.search(query, 30, excluded=dead)
    assert found[0].tolist() == permitted[:30]
    found, _ = index.search(query, 30, allowed=allowed, excluded=dead)
    assert found[0].tolist() == [key for key in permitted if key % 2 == 0][:30]


def test_rows_are_replaced_deleted_and_dropped(milvus: Milvus) -> None:
    store = MilvusStore(milvus)
    vectors = unit(10)
    store.write(NAME, np.arange(10), vectors, index_type="flat", manifest={})
    store.write(NAME, np.array([3]), vectors[4:5], index_type="flat", manifest={})
    index = store.open(NAME)
    assert sorted(index.search(vectors[4], 2)[0][0].tolist()) == [3, 4]
    store.delete(NAME, [4])
    assert index.search(vectors[4], 1)[0].tolist() == [[3]]
    assert len(index) == 9
    store.remove(NAME)
    with pytest.raises(StorageUnavailable, match="Milvus at"):
        index.search(vectors[4], 1)


def test_what_cannot_be_written_or_asked_is_said(milvus: Milvus) -> None:
    store = MilvusStore(milvus)
    with pytest.raises(InvalidInput, match="unit length"):
        store.write(NAME, np.arange(2), unit(2) * 2, index_type="flat", manifest={})
    store.write(NAME, np.arange(2), unit(2), index_type="flat", manifest={})
    with pytest.raises(InvalidInput, match="dimension"):
        store.open(NAME).search(unit(1, 8), 1)
    with pytest.raises(InvalidInput, match="NaN"):
        store.open(NAME).search(np.full((1, 16), np.nan, np.float32), 1)
    with pytest.raises(InvalidSettings, match="RAG_OWL_MILVUS_URL"):
        MilvusStore(Milvus(None, None, lambda: "x")).open(NAME)


# --- the system -----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, text in {
        "owls": "Barn owls hunt at night over open meadows.",
        "trees": "Oaks grow slowly and live for centuries.",
        "wolves": "Wolves live in packs and howl.",
    }.items():
        (folder / f"{name}.txt").write_text(text)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    return folder


@pytest.fixture(scope="module")
def embedders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with RagOwl.open(tmp_path_factory.mktemp("embedders"), work_jobs=False) as owl:
        owl.models.embedders_for(None)
        return dict(owl.models._loaded)


@pytest.fixture
def opened(server: str, tmp_path: Path, embedders: dict[str, Any]) -> Callable[..., RagOwl]:
    def open(**more: Any) -> RagOwl:
        owl = RagOwl.open(tmp_path / "owl", milvus_url=server, **more)
        owl.models._loaded.update(embedders)
        return owl

    return open


def names(owl: RagOwl, query: str, **more: Any) -> list[str]:
    return [hit.item.document_name for hit in owl.search("things", query, **more)]


@pytest.mark.usefixtures("on_each_database")
def test_a_collection_in_milvus_from_ingest_to_delete(
    opened: Callable[..., RagOwl], files: Path
) -> None:
    with opened(vector_engine="milvus") as owl:
        assert owl.ingest("things", [files]).added == 4
        assert not list((owl.folder / "segments").iterdir())
        assert names(owl, "which bird hunts in the dark", k=1, channels=["text"]) == ["owls.txt"]
        assert names(owl, "", images=[files / "noise.png"], k=1) == ["noise.png"]
        tree = {"field": "name", "op": "==", "value": "trees.txt"}
        filtered = owl.search("things", "birds at night", filters=tree, channels=["text"])
        assert {hit.item.document_name for hit in filtered} <= {"trees.txt"}
        assert owl.ask("things", "When do barn owls hunt?").citations
        owl_id = owl.search("things", "owls", k=1)[0].item.document_id
        owl.delete_document("things", owl_id)
        assert "owls.txt" not in names(owl, "which bird hunts in the dark", k=9)
        with db.writing(owl.engine) as session:  # as of what was deleted before it got there
            key = owl.generations("things")[0].generation.key
            segments.bury_unsearched(session, key, "text", [999])
        (files / "bees.txt").write_text("Bees dance to say where flowers are.")
        owl.ingest("things", [files / "bees.txt"])  # at its end, what is dead is deleted for good
        assert names(owl, "insects that dance", k=1, channels=["text"]) == ["bees.txt"]
        with db.reading(owl.engine) as session:
            key = owl.generations("things")[0].generation.key
            assert not segments.tombstones(session, key, "text", for_good=True)
        assert owl.generations("things")[0].vectors == 4


@pytest.mark.usefixtures("on_each_database")
def test_vectors_of_a_batch_that_was_never_committed_are_not_found(
    opened: Callable[..., RagOwl], files: Path
) -> None:
    with opened(vector_engine="milvus") as owl:
        owl.ingest("things", [files / "owls.txt", files / "trees.txt"])
        generation = owl.generations("things")[0].generation
        store = owl.segments
        index = store.open(name_of(generation.key, "text"))
        query = owl.models.embedders_of(generation).text.embed_query("hunting in the dark")
        stray = np.arange(100, 140)
        store.write(name_of(generation.key, "text"), stray, np.stack([query] * 40),
                    index_type="auto", manifest={})  # fmt: skip
        assert set(index.search(query, 5)[0][0].tolist()) <= set(stray.tolist())
        found = owl.search("things", "hunting in the dark", k=2, channels=["text"])
        assert [hit.item.document_name for hit in found] == ["owls.txt", "trees.txt"]


@pytest.mark.usefixtures("on_each_database")
def test_moving_between_faiss_and_milvus_is_a_reindex(
    opened: Callable[..., RagOwl], files: Path
) -> None:
    questions = ["which bird hunts in the dark", "old trees", "animals that howl"]
    with opened() as owl:
        owl.ingest("things", [files])
        before = [names(owl, question, k=4) for question in questions]
        for engine in ("milvus", "faiss"):
            job = owl.reindex("things", vector_engine=engine)
            assert job.state == "done", job.error
            live = next(g for g in owl.generations("things") if g.state == "live")
            assert live.generation.vector_engine == engine
            assert [names(owl, question, k=4) for question in questions] == before
        owl.reindex("things", action="drop")


@pytest.mark.usefixtures("on_each_database")
def test_a_collection_that_milvus_lost_is_made_again(
    opened: Callable[..., RagOwl], files: Path
) -> None:
    with opened(vector_engine="milvus") as owl:
        owl.ingest("things", [files])
        key = owl.generations("things")[0].generation.key
        owl.segments.remove(name_of(key, "text"))
        with pytest.raises(Exception, match="Milvus"):
            owl.search("things", "which bird hunts in the dark", channels=["text"])
        assert owl.repair() >= 1
        assert names(owl, "which bird hunts in the dark", k=1, channels=["text"]) == ["owls.txt"]


@pytest.mark.usefixtures("on_each_database")
def test_a_restore_makes_the_vectors_again_that_a_backup_leaves_to_milvus(
    opened: Callable[..., RagOwl],
    files: Path,
    server: str,
    tmp_path: Path,
    embedders: dict[str, Any],
) -> None:
    with opened(vector_engine="milvus") as owl:
        owl.ingest("things", [files])
        report = owl.backup(tmp_path / "owl.backup")
    assert (report.lacking, len(report.elsewhere), report.segments) == ((), 2, 0)
    again = databases.to_restore_into(tmp_path / "again")
    restored = RagOwl.restore(tmp_path / "owl.backup", again, milvus_url=server)
    assert restored.reindexed == ("things",)
    with RagOwl.open(again, milvus_url=server) as owl:
        owl.models._loaded.update(embedders)
        (job,) = [job for job in owl.jobs() if job.kind == "reindex"]
        assert owl.wait_for_job(job.id).state == "done"
        assert names(owl, "which bird hunts in the dark", k=1, channels=["text"]) == ["owls.txt"]
        assert names(owl, "", images=[files / "noise.png"], k=1) == ["noise.png"]
        assert owl.generations("things")[0].vectors == 4
