"""Blobs in an object store, with local copies: `FolderBlobs` for several machines.

A blob's object is `blobs/<2>/<62 hexadecimal digits>`, as a folder's files are, so that a folder
can be copied into a store as it is. Bytes are hashed before they are believed, whether they come
over the network or from the local copy.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Set
from pathlib import Path
from typing import IO

from rag_owl.blobs import is_key
from rag_owl.errors import CorruptData, DataFolderError, NotFound
from rag_owl.file_cache import FileCache
from rag_owl.object_store import ObjectStore

SHELF = "blobs"
_FRESH = 600.0  # seconds: an object as young is not written again to make it as new
_TIMES = 3  # a blob is fetched when its bytes are not the right ones
_BLOCK = 1 << 20


class RemoteBlobs:
    """Implements `rag_owl.ports.BlobStore`. Safe for many threads, processes and machines."""

    def __init__(self, store: ObjectStore, cache: FileCache) -> None:
        self._store = store
        self._cache = cache

    def put(self, data: bytes | IO[bytes]) -> str:
        """Store the bytes and return their key, once the store has them.

        Raises `StorageUnavailable`, and `DataFolderError` when the local disk is full.
        """
        key = ""
        with self._cache.arriving() as arriving:
            try:
                key = _spool(data, arriving)
            except OSError as error:
                raise DataFolderError(
                    f"cannot write to {self._cache.folder}: {error.strerror or error}. "
                    "Make space or check permissions, then run the same command again."
                ) from error
            name, size = self._name(key), arriving.stat().st_size
            known = self._store.find(name)
            # An object that is young enough not to be collected as garbage need not be renewed.
            if known is None or known.size != size or self._store.age(known.modified) > _FRESH:
                self._store.put_file(name, arriving)
            self._cache.add(*_place(key), arriving.replace)
        return key

    def arrivals(self) -> _Arrivals:
        """As `rag_owl.ports.BlobStore` has it; here each blob is stored when it is put."""
        return _Arrivals(self)

    def get(self, key: str) -> bytes:
        """Raises `NotFound`, `StorageUnavailable`, or `CorruptData` when they are other bytes."""
        data = self.path(key).read_bytes()
        if hashlib.sha256(data).hexdigest() == key:
            return data
        self._cache.remove(*_place(key))  # the local copy is damaged
        return self.path(key).read_bytes()

    def path(self, key: str) -> Path:
        """A local copy; what it holds was compared with the key when it came."""
        self._name(key)
        return self._cache.obtain(*_place(key), lambda target: self._fetch(key, target))

    def exists(self, key: str) -> bool:
        return self._store.find(self._name(key)) is not None

    def delete(self, key: str) -> None:
        self._store.delete(self._name(key))
        self._cache.remove(*_place(key))

    def forget(self, key: str) -> None:
        """Remove the local copy."""
        self._cache.remove(*_place(key))

    def list_keys(self) -> Iterator[str]:
        for entry in self._store.entries("blobs"):
            if (key := _key_of(entry.name)) is not None:
                yield key

    def verify(self, key: str) -> None:
        """Compare the store's own bytes with the key. Raises as `get` does."""
        with self._cache.arriving() as arriving:
            self._fetch(key, arriving)

    def remove_unused(self, used: Set[bytes], before: float) -> int:
        """Delete what was stored before that time and is not in `used`.

        Ages are told by the store's clock. Local copies of what is used no more go too, whichever
        machine deleted it. Returns how many objects that were.
        """
        removed = 0
        least = time.time() - before
        for entry in self._store.entries("blobs"):
            key = _key_of(entry.name)
            unused = key is None or bytes.fromhex(key) not in used
            if unused and self._store.age(entry.modified) > least:
                self._store.delete(entry.name)
                removed += 1
        self.forget_unused(used)
        return removed

    def forget_unused(self, used: Set[bytes]) -> None:
        """Remove local copies of blobs that are not in `used` (sha256 digests)."""
        for path in self._cache.entries(f"{SHELF}-*"):
            key = path.parent.name[-2:] + path.name
            if not is_key(key) or bytes.fromhex(key) not in used:
                self._cache.remove(path.parent.name, path.name)

    def _fetch(self, key: str, target: Path) -> None:
        name = self._name(key)
        for _ in range(_TIMES):
            try:
                self._store.get_file(name, target)
            except NotFound:
                raise NotFound(f"no blob {key} in {self._store.url}") from None
            with target.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == key:
                    return
        raise CorruptData(
            f"{self._store.url} gives other bytes as blob {key} than were stored; ingest its "
            "document again (`rag-owl doctor --deep` lists what is damaged)"
        )

    def _name(self, key: str) -> str:
        if not is_key(key):  # keys reach us over HTTP; never let one become a path
            raise NotFound(f"{key!r} is not a blob key (64 hexadecimal digits)")
        return f"blobs/{key[:2]}/{key[2:]}"


class _Arrivals:
    def __init__(self, blobs: RemoteBlobs) -> None:
        self.put = blobs.put

    def settle(self) -> None:
        """Nothing is left to do."""

    def drop(self) -> None:
        """Nothing is left to forget."""


def _spool(data: bytes | IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for block in [data] if isinstance(data, bytes) else iter(lambda: data.read(_BLOCK), b""):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _place(key: str) -> tuple[str, str]:
    """Shelf and name of the local copy."""
    return f"{SHELF}-{key[:2]}", key[2:]


def _key_of(name: str) -> str | None:
    match = re.fullmatch(r"blobs/([0-9a-f]{2})/([0-9a-f]{62})", name)
    return match[1] + match[2] if match else None
