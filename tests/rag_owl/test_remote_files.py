"""Blobs, cached copies and their object store, over a real S3 interface that fails now and then."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from pathlib import Path

import pytest

from rag_owl import object_store
from rag_owl.errors import (
    CorruptData,
    DataFolderError,
    InvalidSettings,
    NotFound,
    StorageUnavailable,
)
from rag_owl.file_cache import FileCache
from rag_owl.object_store import ObjectStore
from rag_owl.remote_blobs import RemoteBlobs
from tests.s3 import BUCKET, S3, s3, s3_server  # noqa: F401

DATA = b"the owl sees " * 400
KEY = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "FIRST_PAUSE", 0.002)


@pytest.fixture
def store(s3: S3) -> ObjectStore:  # noqa: F811
    return ObjectStore(f"s3://{BUCKET}/some/where")


def blobs_at(store: ObjectStore, folder: Path, most: int = 10**8) -> RemoteBlobs:
    return RemoteBlobs(store, FileCache(folder, most))


def test_what_one_machine_stores_another_reads(store: ObjectStore, tmp_path: Path) -> None:
    one, two = blobs_at(store, tmp_path / "one"), blobs_at(store, tmp_path / "two")
    assert one.put(DATA) == one.put(io.BytesIO(DATA)) == KEY
    assert two.exists(KEY)
    assert two.get(KEY) == DATA
    assert two.path(KEY).read_bytes() == DATA
    assert list(two.list_keys()) == [KEY]
    two.delete(KEY)
    two.delete(KEY)
    assert not one.exists(KEY)
    with pytest.raises(NotFound, match=KEY):
        two.get(KEY)
    assert not list((tmp_path / "two" / ".arriving").iterdir())


def test_what_lies_here_is_not_fetched_again(store: ObjectStore, s3: S3, tmp_path: Path) -> None:  # noqa: F811
    blobs = blobs_at(store, tmp_path)
    blobs.put(DATA)
    s3.requests.clear()
    assert blobs.get(KEY) == blobs.path(KEY).read_bytes() == DATA
    assert not s3.requests


@pytest.mark.parametrize("wrong", ["503", "half", "cut", "flip"])
def test_a_fault_that_passes_is_not_noticed(
    wrong: str,
    store: ObjectStore,
    s3: S3,  # noqa: F811
    tmp_path: Path,
) -> None:
    left = {"GET": 2, "PUT": 2, "HEAD": 2}

    def fault(method: str, path: str) -> str | None:
        if left.get(method, 0) == 0 or (wrong != "503" and method != "GET"):
            return None
        left[method] -= 1
        return wrong

    with s3.failing(fault):
        assert blobs_at(store, tmp_path / "one").put(DATA) == KEY
        assert blobs_at(store, tmp_path / "two").get(KEY) == DATA
    assert left["GET"] == 0


@pytest.mark.parametrize("wrong", ["503", "half", "cut", "flip"])
def test_a_fault_that_stays_is_said_and_nothing_wrong_is_kept(
    wrong: str,
    store: ObjectStore,
    s3: S3,  # noqa: F811
    tmp_path: Path,
) -> None:
    blobs_at(store, tmp_path / "one").put(DATA)
    two = blobs_at(store, tmp_path / "two")
    s3.requests.clear()
    with (
        s3.failing(lambda method, _: wrong if method == "GET" else None),
        pytest.raises((StorageUnavailable, CorruptData), match=rf"s3://{BUCKET}.*{KEY[2:]}"),
    ):
        two.get(KEY)
    assert len(s3.requests) <= object_store.ATTEMPTS
    assert not [path for path in (tmp_path / "two").rglob("*") if path.is_file()]
    assert two.get(KEY) == DATA


def test_a_write_that_fails_is_not_acknowledged(store: ObjectStore, s3: S3, tmp_path: Path) -> None:  # noqa: F811
    blobs = blobs_at(store, tmp_path)
    with (
        s3.failing(lambda method, _: "503" if method == "PUT" else None),
        pytest.raises(StorageUnavailable, match=r"cannot write .*Later"),
    ):
        blobs.put(DATA)
    assert not blobs.exists(KEY)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_local_copy_is_fetched_again(store: ObjectStore, tmp_path: Path) -> None:
    blobs = blobs_at(store, tmp_path)
    blobs.put(DATA)
    blobs.path(KEY).write_bytes(DATA[:-1] + b"?")
    assert blobs.get(KEY) == DATA
    assert blobs.path(KEY).read_bytes() == DATA


def test_verify_reads_the_store_and_not_the_copy(store: ObjectStore, tmp_path: Path) -> None:
    blobs = blobs_at(store, tmp_path)
    blobs.put(DATA)
    blobs.verify(KEY)
    store.put_bytes(f"blobs/{KEY[:2]}/{KEY[2:]}", DATA[:-1] + b"?")
    with pytest.raises(CorruptData, match=KEY):
        blobs.verify(KEY)
    assert blobs.put(DATA) == KEY


def test_half_of_an_object_is_written_again(tmp_path: Path) -> None:
    """Where a store has no whole-or-nothing: a folder of a file server, by its URL."""
    store = ObjectStore(f"file://{tmp_path}/shared")
    name = f"blobs/{KEY[:2]}/{KEY[2:]}"
    store.put_bytes(name, DATA[:100])
    blobs = blobs_at(store, tmp_path / "cache")
    assert blobs.put(DATA) == KEY
    assert store.get_bytes(name) == DATA


def test_only_old_blobs_are_collected_by_the_stores_own_clock(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = blobs_at(store, tmp_path)
    used, unused = blobs.put(DATA), blobs.put(b"nobody wants it")
    assert blobs.remove_unused({bytes.fromhex(used)}, time.time() - 3_600) == 0
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 4_000)
    assert blobs.put(DATA) == used  # renewed: it was too old to be left as it is
    assert blobs.remove_unused({bytes.fromhex(used)}, time.time() - 3_600) == 1
    assert list(blobs.list_keys()) == [used]
    assert not blobs.exists(unused)


def test_copies_of_what_another_machine_deleted_go(store: ObjectStore, tmp_path: Path) -> None:
    one, two = blobs_at(store, tmp_path / "one"), blobs_at(store, tmp_path / "two")
    one.put(DATA)
    two.get(KEY)
    one.delete(KEY)
    two.remove_unused(set(), time.time())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_a_hash_is_a_key(store: ObjectStore, tmp_path: Path, key: str) -> None:
    for use in (blobs_at(store, tmp_path).path, blobs_at(store, tmp_path).exists):
        with pytest.raises(NotFound, match="not a blob key"):
            use(key)


def test_addresses_that_are_none(tmp_path: Path, s3: S3) -> None:  # noqa: F811
    with pytest.raises(InvalidSettings, match="nonsense"):
        ObjectStore("nonsense://x")
    with pytest.raises(DataFolderError, match="no such place"):
        ObjectStore("s3://nowhere").put_bytes("a", b"x")
    assert "secret" not in ObjectStore("s3://me:secret@bucket/x").url


def test_no_credentials_are_said_at_once(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(DataFolderError, match="credentials") as caught:
        ObjectStore(f"s3://{BUCKET}").put_bytes("a", b"x")
    assert not isinstance(caught.value, StorageUnavailable)


# --- the cache ------------------------------------------------------------------------------------


def fill(cache: FileCache, name: str, size: int, age: float = 3_600.0) -> Path:
    path = cache.add("shelf", name, lambda target: target.write_bytes(b"x" * size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 10_000)
    paths = [fill(cache, f"{i}", 1_000, age=10_000 - i) for i in range(7)]
    assert cache.get("shelf", "0") == paths[0]  # used just now
    for i in range(7, 40):
        fill(cache, f"{i}", 1_000, age=10_000 - i)
        assert cache.nbytes <= 10_000
    assert paths[0].is_file()
    assert not paths[1].exists()
    assert cache.get("shelf", "39") is not None


def test_several_processes_stay_within_the_bound_together(tmp_path: Path) -> None:
    caches = [FileCache(tmp_path, 32_000) for _ in range(4)]
    for i in range(100):
        fill(caches[i % 4], f"{i}", 500)
        assert FileCache(tmp_path, 1).nbytes <= 32_000


def test_what_is_about_to_be_opened_stays(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1_000)
    path = cache.add("shelf", "larger", lambda target: target.write_bytes(b"x" * 5_000))
    fill(cache, "other", 900)
    assert path.is_file()


def test_one_of_many_threads_makes_an_entry(tmp_path: Path) -> None:
    cache, made, got = FileCache(tmp_path, 10**6), [], []

    def make(target: Path) -> None:
        made.append(1)
        time.sleep(0.05)
        target.write_bytes(b"owl")

    threads = [
        threading.Thread(target=lambda: got.append(cache.obtain("s", "n", make).read_bytes()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert got == [b"owl"] * 8


def test_half_an_entry_is_never_seen(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 10**6)

    def make(target: Path) -> None:
        target.write_bytes(b"half")
        raise StorageUnavailable("gone")

    with pytest.raises(StorageUnavailable):
        cache.obtain("s", "n", make)
    assert cache.get("s", "n") is None
    assert not list((tmp_path / ".arriving").iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataFolderError, match=r"cannot write to .*cache"):
        fill(FileCache(tmp_path / "cache", 10), "n", 1)
