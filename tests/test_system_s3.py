"""The whole system with its files in an object store: two machines, one database, one store."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rag_owl import db, object_store, uploads
from rag_owl.client import RagOwl
from rag_owl.errors import CorruptData, DataFolderError, StorageUnavailable
from rag_owl.object_store import ObjectStore
from rag_owl.store import collections, jobs, segments
from tests.s3 import BUCKET, S3, s3, s3_server  # noqa: F401

URL = f"s3://{BUCKET}/owls"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "FIRST_PAUSE", 0.002)


@pytest.fixture(scope="module")
def embedders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Loaded once: they know nothing of where files are."""
    with RagOwl.open(tmp_path_factory.mktemp("embedders"), work_jobs=False) as owl:
        owl.models.embedders_for(None)
        return dict(owl.models._loaded)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "owls.txt").write_text("Barn owls hunt at night over open meadows.")
    (folder / "trees.txt").write_text("Oaks grow slowly and live for centuries.")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    return folder


@pytest.fixture
def machine(
    s3: S3,  # noqa: F811
    tmp_path: Path,
    embedders: dict[str, Any],
    database_url: str,
) -> Callable[..., RagOwl]:
    """Opens the shared database and store with a data folder of its own."""

    def opened(name: str, **more: object) -> RagOwl:
        more.setdefault("work_jobs", name == "one")
        owl = RagOwl.open(tmp_path / name, database_url=database_url, storage_url=URL, **more)
        owl.models._loaded.update(embedders)
        return owl

    return opened


def test_one_machine_ingests_and_another_answers(
    machine: Callable[..., RagOwl], files: Path, tmp_path: Path
) -> None:
    with machine("one") as one, machine("two") as two:
        assert one.ingest("things", [files]).added == 3
        assert not (tmp_path / "one" / "blobs").exists()
        found = two.search("things", "which bird hunts in the dark", k=1)
        assert found[0].item.document_name == "owls.txt"
        picture = next(files.glob("*.png")).read_bytes()
        seen = two.search("things", "", images=[picture], k=1)[0]
        assert seen.item.picture
        assert two.blobs.get(seen.item.picture)
        # A process that has the collection open sees what is new at its next question.
        (files / "wolves.txt").write_text("Wolves live in packs and howl.")
        one.ingest("things", [files])
        assert two.search("things", "animals that howl", k=1)[0].item.document_name == "wolves.txt"
        answer = two.ask("things", "When do barn owls hunt?")
        assert answer.citations
        assert one.answer(answer.id) == answer
        one.delete_document("things", found[0].item.document_id)
        names = [hit.item.document_name for hit in two.search("things", "owls at night", k=9)]
        assert "owls.txt" not in names


def test_a_store_that_fails_gives_clear_errors_and_is_well_afterwards(
    machine: Callable[..., RagOwl],
    files: Path,
    s3: S3,  # noqa: F811
) -> None:
    with machine("one") as one:
        one.ingest("things", [files / "owls.txt"])
    for wrong in ("503", "half", "cut", "flip"):
        with machine("two") as two:
            shutil.rmtree(two.folder / "cache", ignore_errors=True)
            with (
                s3.failing(lambda method, _, wrong=wrong: wrong if method == "GET" else None),
                pytest.raises((StorageUnavailable, CorruptData), match=rf"s3://{BUCKET}"),
            ):
                two.search("things", "owls")
            assert two.search("things", "owls", k=1)[0].item.document_name == "owls.txt"


def test_an_ingest_that_could_not_write_is_done_again(
    machine: Callable[..., RagOwl],
    files: Path,
    s3: S3,  # noqa: F811
) -> None:
    with machine("one") as one:
        with s3.failing(lambda method, path: "503" if "segments" in path else None):
            job = one.ingest("things", [files], wait=False)
            deadline = time.monotonic() + 300
            while not any("segments" in path for _, path in s3.requests):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert one.search("things", "owls") == []
        done = one.wait_for_job(job.id)
        if done.state == "failed":
            assert "s3://" in (done.error or "")
            done = one.ingest("things", [files])
        assert done.added == 3
        assert one.search("things", "owls", k=1)[0].item.document_name == "owls.txt"


def test_a_damaged_segment_is_found_and_made_again(
    machine: Callable[..., RagOwl], files: Path
) -> None:
    store = ObjectStore(URL)
    with machine("one") as one:
        one.ingest("things", [files / "owls.txt"])
        name = next(iter(one.segments.names()))
        part = f"segments/{name}/index.faiss"
        data = bytearray(store.get_bytes(part))
        data[-5] ^= 1
        store.put_bytes(part, bytes(data))
        with pytest.raises(CorruptData, match="other bytes"):
            one.segments.verify(name)
        with machine("two") as two, pytest.raises(CorruptData, match="other bytes"):
            two.search("things", "owls")
        assert one.repair() == 1
        with machine("two") as two:
            assert two.search("things", "owls", k=1)[0].item.document_name == "owls.txt"


def test_a_segment_without_its_manifest_is_none(
    machine: Callable[..., RagOwl], files: Path
) -> None:
    """As a writer leaves it that died in the midst: parts first, the manifest last."""
    store = ObjectStore(URL)
    with machine("one") as one:
        one.ingest("things", [files / "owls.txt"])
        order = [entry.name for entry in store.entries("segments")]
        assert len(order) == 3
        store.put_bytes(f"segments/{'f' * 32}/ids.npy", b"half")
        with pytest.raises(CorruptData, match=r"manifest\.json is missing"):
            one.segments.open("f" * 32)
        one.remove_orphans()
        assert "f" * 32 in one.segments.names()  # another machine may be writing it right now
        assert list(one.segments.names(least_age=3_600)) == []


def test_files_of_another_database_are_refused(
    machine: Callable[..., RagOwl], files: Path, tmp_path: Path, database_url: str
) -> None:
    with machine("one") as one:
        one.ingest("things", [files / "owls.txt"])
    with pytest.raises(DataFolderError, match="another database"):
        RagOwl.open(tmp_path / "stranger", storage_url=URL)
    with pytest.raises(DataFolderError, match="elsewhere"):
        RagOwl.open(
            tmp_path / "one",
            database_url=database_url,
            storage_url=f"s3://{BUCKET}/empty",
        )
    with pytest.raises(DataFolderError, match="RAG_OWL_STORAGE_URL"):
        RagOwl.open(tmp_path / "new", database_url=database_url)


def test_a_folder_is_moved_into_a_store_by_copying_it(
    s3: S3,  # noqa: F811
    files: Path,
    tmp_path: Path,
) -> None:
    with RagOwl.open(tmp_path / "owl") as owl:
        owl.ingest("things", [files])
    store = ObjectStore(URL)
    for path in sorted((tmp_path / "owl").rglob("*")):
        name = path.relative_to(tmp_path / "owl").as_posix()
        if path.is_file() and name.startswith(("blobs", "segments", "database-id")):
            store.put_file(name, path)
    for name in ("blobs", "segments"):
        shutil.rmtree(tmp_path / "owl" / name)
    with RagOwl.open(tmp_path / "owl", storage_url=URL) as owl:
        hit = owl.search(
            "things", "", images=[io.BytesIO((files / "noise.png").read_bytes()).getvalue()]
        )[0]
        assert owl.blobs.get(hit.item.picture or "")


def test_the_copies_stay_within_their_bound(machine: Callable[..., RagOwl], files: Path) -> None:
    with machine("one", cache_bytes=20_000) as one:
        one.ingest("things", [files])
        for path in (one.folder / "cache").glob("*/*"):
            os.utime(path, (time.time() - 3_600,) * 2)
        keys = [one.blobs.put(os.urandom(2_000)) for _ in range(5)]
        for path in (one.folder / "cache").glob("*/*"):
            os.utime(path, (time.time() - 3_600,) * 2)
        keys += [one.blobs.put(os.urandom(2_000)) for _ in range(5)]
        total = sum(
            path.stat().st_size for path in (one.folder / "cache").rglob("*") if path.is_file()
        )
        assert total <= 20_000
        assert all(one.blobs.get(key) for key in keys)
        assert one.search("things", "owls", k=1)[0].item.document_name == "owls.txt"


def test_json_of_a_manifest_cut_in_half_is_fetched_again(
    machine: Callable[..., RagOwl],
    files: Path,
    s3: S3,  # noqa: F811
) -> None:
    with machine("one") as one:
        one.ingest("things", [files / "owls.txt"])
    left = [2]

    def fault(method: str, path: str) -> str | None:
        if method != "GET" or not path.endswith("manifest.json") or not left[0]:
            return None
        left[0] -= 1
        return "half"

    with machine("two") as two, s3.failing(fault):
        assert two.search("things", "owls", k=1)
    assert left == [0]
    assert json.loads(
        (next((two.folder / "cache" / "segments").iterdir()) / "manifest.json").read_text()
    )


def test_new_segments_are_fetched_before_a_question_needs_them(
    machine: Callable[..., RagOwl],
    files: Path,
    s3: S3,  # noqa: F811
) -> None:
    with machine("one") as one, machine("two") as two:
        one.ingest("things", [files / "owls.txt"])
        two.search("things", "owls")  # it knows of the collection now
        one.ingest("things", [files / "trees.txt"])
        with db.reading(one.engine) as session:
            key = one.generations("things")[0].generation.key
            wanted = {info.id for info in segments.active(session, key)}
        copies = two.folder / "cache" / "segments"
        deadline = time.monotonic() + 60
        while not wanted <= {path.name for path in copies.iterdir()}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        s3.requests.clear()
        found = two.search("things", "old trees", channels=["text"])
        assert found[0].item.document_name == "trees.txt"
        assert not [path for _, path in s3.requests if "segments" in path]


def test_an_upload_is_read_by_a_worker_that_did_not_receive_it(
    machine: Callable[..., RagOwl], tmp_path: Path
) -> None:
    with machine("one", work_jobs=False) as receiver:
        with uploads.Upload(receiver.folder, receiver.storage.objects) as upload:
            upload.begin("owls.txt")
            upload.write(b"Barn owls hunt at night.")
            upload.end()
            upload.keep()
            parameters = uploads.parameters(upload, {})
        with db.writing(receiver.engine) as session:
            key = collections.get_or_create(session, "things").key
            job_id, _ = jobs.create(session, key, "ingest", parameters, None)
    shutil.rmtree(tmp_path / "one")  # the data folder of another machine, at the same path
    with machine("one") as worker:
        job = worker.wait_for_job(job_id)
        assert (job.state, job.added) == ("done", 1), job.error
        assert not (worker.folder / "uploads" / upload.id).exists()
        assert not list(ObjectStore(URL).entries("uploads"))
        assert worker.search("things", "owls", k=1)[0].item.document_name == "owls.txt"


def test_an_upload_that_came_damaged_is_not_read(
    s3: S3,  # noqa: F811
    tmp_path: Path,
) -> None:
    objects = ObjectStore(URL)
    with uploads.Upload(tmp_path / "data", objects) as upload:
        upload.begin("owls.txt")
        upload.write(b"Barn owls hunt at night.")
        upload.end()
        upload.keep()
        parameters = uploads.parameters(upload, {})
    shutil.rmtree(tmp_path / "data")
    objects.put_bytes(f"uploads/{upload.id}/owls.txt", b"Barn owls hunt at noon.")
    with pytest.raises(CorruptData, match="other bytes"):
        uploads.fetch(tmp_path / "data", parameters, objects)
    assert not list((tmp_path / "data" / "uploads").iterdir())
    with pytest.raises(DataFolderError, match="same path"):
        uploads.fetch(tmp_path / "elsewhere", parameters, objects)
