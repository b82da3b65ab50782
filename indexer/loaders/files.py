"""Files that other programs may change or remove while they are read."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.values import Held
from rag_owl.media import SNIFF_BYTES, Limits

BLOCK_BYTES = 2**20
_CHANGED = "it changed while it was read: ingest it again when nothing writes to it"


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file as it was when it was first seen; opening it again notices that it is another."""

    path: Path
    size: int
    version: tuple[int, int, int]  # size, time of change in ns, inode

    @classmethod
    def of(cls, path: Path, limits: Limits) -> WatchedFile:
        """Raises `UnreadableMedia` when it is no regular file, empty or too large."""
        with explained():
            status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableMedia("it is not a file: give files or folders")
        if not status.st_size:
            raise UnreadableMedia("the file is empty")
        if status.st_size > limits.max_bytes:
            raise UnreadableMedia(
                f"the file has {status.st_size:,} bytes, more than the limit of "
                f"{limits.max_bytes:,}: split it"
            )
        return cls(path, status.st_size, _version(status))

    @property
    def source(self) -> Path | Held:
        """The bytes, for whoever is to keep them."""
        return self.path

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Raises `UnreadableMedia` when the file is gone or changed, also when it did meanwhile."""
        with explained(), self.path.open("rb") as file:
            self._check(file)
            yield file
            self._check(file)

    def _check(self, file: BinaryIO) -> None:
        if _version(os.fstat(file.fileno())) != self.version:
            raise UnreadableMedia(_CHANGED)

    def head(self) -> bytes:
        with self.open() as file:
            return file.read(SNIFF_BYTES)

    def blocks(self) -> Iterator[bytes]:
        with self.open() as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    def read(self, max_bytes: int, what: str) -> bytes:
        """The whole file. Raises `UnreadableMedia` when it is larger than `max_bytes`."""
        if self.size > max_bytes:
            raise UnreadableMedia(
                f"{what} has {self.size:,} bytes, more than the limit of {max_bytes:,}: split it"
            )
        with self.open() as file:
            return file.read()

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class HeldFile(WatchedFile):
    """Bytes in memory; `path` is only where they come from."""

    data: bytes = field(default=b"", repr=False)

    @classmethod
    def holding(cls, data: bytes, path: Path) -> HeldFile:
        """Raises `UnreadableMedia` when there are none."""
        if not data:
            raise UnreadableMedia("the file is empty")
        return cls(path, len(data), (0, 0, 0), data)

    @property
    def source(self) -> Path | Held:
        return Held(self.data)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.data)


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def explained() -> Iterator[None]:
    """Turns an `OSError` into `UnreadableMedia` with a reason and a remedy."""
    try:
        yield
    except OSError as error:
        raise UnreadableMedia(reason(error)) from error
    except ValueError as error:  # a NUL in a path
        if "embedded null" not in str(error):
            raise
        raise UnreadableMedia("its path holds a NUL character: give a valid path") from error


def reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "there is no such file or folder, or it disappeared while it was read"
    if isinstance(error, PermissionError):
        return "it may not be read by this user: change its permissions"
    if isinstance(error, IsADirectoryError):
        return "it is a folder where a file was expected"
    return f"it cannot be read ({error.strerror or error}): check the disk and the path"
