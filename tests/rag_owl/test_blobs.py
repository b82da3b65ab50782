from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from rag_owl.blobs import FolderBlobs
from rag_owl.errors import CorruptData, DataFolderError, NotFound


def test_put_and_get_by_the_hash_of_the_bytes(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    key = blobs.put(b"owl")
    assert key == hashlib.sha256(b"owl").hexdigest()
    assert blobs.put(io.BytesIO(b"owl")) == key
    assert blobs.get(key) == b"owl"
    assert list(blobs.list_keys()) == [key]
    assert not list((tmp_path / "arriving").iterdir())


def test_many_arrive_together_or_not_at_all(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    arrivals = blobs.arrivals()
    keys = [arrivals.put(data) for data in (b"owl", io.BytesIO(b"owl"), b"hare")]
    assert keys[0] == keys[1]
    assert not any(map(blobs.exists, keys))
    arrivals.settle()
    assert [blobs.get(key) for key in keys] == [b"owl", b"owl", b"hare"]
    dropped = arrivals.put(b"fox")
    arrivals.drop()
    arrivals.settle()
    assert not blobs.exists(dropped)
    assert not list((tmp_path / "arriving").iterdir())


def test_a_damaged_blob_is_noticed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    key = blobs.put(b"owl")
    blobs.path(key).write_bytes(b"owk")
    with pytest.raises(CorruptData, match=key):
        blobs.get(key)


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_a_hash_is_a_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(NotFound):
        FolderBlobs(tmp_path).path(key)


def test_deleting_twice_is_no_error(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    key = blobs.put(b"owl")
    blobs.delete(key)
    blobs.delete(key)
    assert not blobs.exists(key)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with pytest.raises(DataFolderError, match=r"cannot write to .*blobs"):
        FolderBlobs(tmp_path / "blobs").put(b"owl")


def test_a_source_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    class Breaking(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            if self.tell_calls:
                raise OSError(5, os.strerror(5))
            self.tell_calls += 1
            return b"x" * 10

        tell_calls = 0

    blobs = FolderBlobs(tmp_path)
    with pytest.raises(DataFolderError):
        blobs.put(Breaking())  # type: ignore[arg-type]
    assert not list((tmp_path / "arriving").iterdir())
    assert not list(blobs.list_keys())
