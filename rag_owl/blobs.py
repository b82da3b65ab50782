"""Content-addressed files: a blob's key is the sha256 of its bytes, so a blob never changes."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rag_owl.errors import CorruptData, DataFolderError, NotFound

_KEY = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20
_SYNCED_AT_ONCE = 16  # a journal commits the waits of several files together


class FolderBlobs:
    """Blobs in a folder, spread over 256 subfolders. Safe for many processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arriving = folder / "arriving"

    def put(self, data: bytes | IO[bytes]) -> str:
        """Store the bytes and return their key, once they are on the disk.

        What is there already and damaged is written anew. Raises `DataFolderError` when they
        cannot be written (full, read-only).
        """
        one = self.arrivals()
        try:
            key = one.put(data)
            one.settle()
        finally:
            one.drop()
        return key

    def arrivals(self) -> _Arrivals:
        """As `rag_owl.ports.BlobStore` has it: waits for the disk once for many blobs."""
        return _Arrivals(self)

    def spool(self, data: bytes | IO[bytes]) -> tuple[Path, str]:
        """A file that holds the bytes, and their key; neither is durable. Raises `OSError`."""
        self._arriving.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._arriving)
        try:
            with os.fdopen(handle, "wb") as file:
                digest = hashlib.sha256()
                blocks = [data] if isinstance(data, bytes) else iter(lambda: data.read(_BLOCK), b"")
                for block in blocks:
                    digest.update(block)
                    file.write(block)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name), digest.hexdigest()

    def place(self, spooled: Path, key: str) -> Path:
        """The file becomes the blob; the folder it is in now. Raises `OSError`."""
        target = self._target(key)
        target.parent.mkdir(exist_ok=True)
        os.replace(spooled, target)
        return target.parent

    def holds(self, key: str, data: bytes) -> bool:
        """Whether the bytes lie there undamaged; then they are as new: no orphan yet."""
        target = self._target(key)
        try:
            if target.stat().st_size != len(data) or target.read_bytes() != data:
                return False
            os.utime(target)
        except OSError:  # there is none, or it went just now
            return False
        return True

    def get(self, key: str) -> bytes:
        """Raises `NotFound`, or `CorruptData` when the bytes are no longer what they were."""
        data = self.path(key).read_bytes()
        if hashlib.sha256(data).hexdigest() != key:
            raise CorruptData(
                f"blob {key} is damaged on disk; ingest its document again "
                "(`rag-owl doctor --deep` lists what is damaged)"
            )
        return data

    def path(self, key: str) -> Path:
        target = self._target(key)
        if not target.is_file():
            raise NotFound(f"no blob {key} in {self.folder}")
        return target

    def exists(self, key: str) -> bool:
        return self._target(key).is_file()

    def delete(self, key: str) -> None:
        self._target(key).unlink(missing_ok=True)

    def list_keys(self) -> Iterator[str]:
        for folder in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for file in sorted(folder.iterdir()):
                yield folder.name + file.name

    def remove_unused(self, used: Set[bytes], before: float) -> int:
        """Delete what was stored before that time and is not in `used`, and what never arrived.

        used: sha256 digests. Returns how many files that were.
        """
        removed = 0
        for folder in self.folder.glob("*"):
            hexadecimal = len(folder.name) == 2 and folder != self._arriving
            for file in folder.iterdir() if folder.is_dir() else ():
                key = folder.name + file.name
                if hexadecimal and (not _KEY.fullmatch(key) or bytes.fromhex(key) in used):
                    continue
                with suppress(OSError):  # another may be at it
                    if file.stat().st_mtime < before:
                        file.unlink()
                        removed += 1
        return removed

    def _target(self, key: str) -> Path:
        if not _KEY.fullmatch(key):  # keys reach us over HTTP; never let one become a path
            raise NotFound(f"{key!r} is not a blob key (64 hexadecimal digits)")
        return self.folder / key[:2] / key[2:]


class _Arrivals:
    """Blobs that are taken one by one and put to disk together: many files' waits overlap."""

    def __init__(self, blobs: FolderBlobs) -> None:
        self._blobs = blobs
        self._spooled: dict[str, Path] = {}  # by key

    def put(self, data: bytes | IO[bytes]) -> str:
        if isinstance(data, bytes):
            key = hashlib.sha256(data).hexdigest()
            if key in self._spooled or self._blobs.holds(key, data):
                return key
        with self._explained():
            path, key = self._blobs.spool(data)
            if key in self._spooled:
                path.unlink()
            else:
                self._spooled[key] = path
        return key

    def settle(self) -> None:
        if not self._spooled:
            return
        with self._explained(), ThreadPoolExecutor(_SYNCED_AT_ONCE) as pool:
            for _ in pool.map(_sync, self._spooled.values()):
                pass
            folders = {self._blobs.place(path, key) for key, path in self._spooled.items()}
            for _ in pool.map(_sync, (*folders, self._blobs.folder)):  # some are new
                pass
            self._spooled.clear()

    def drop(self) -> None:
        for path in self._spooled.values():
            path.unlink(missing_ok=True)
        self._spooled.clear()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataFolderError(
                f"cannot write to {self._blobs.folder}: {error.strerror or error}. "
                "Make space or check permissions, then run the same command again."
            ) from error


def is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
