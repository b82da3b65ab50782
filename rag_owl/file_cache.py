"""Local copies of what lies in an object store, within a bound: what was used longest ago goes.

Below the cache's folder stand shelves, on each of them entries: a file or a folder, which appear
whole or not at all. Several processes may share one cache. What was used within the last minute
stays whatever the bound says: somebody may be about to open it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rag_owl.blobs import sync_folder
from rag_owl.errors import DataFolderError

_IN_USE = 60.0  # seconds
_ABANDONED = 24 * 3_600.0  # seconds after which what never became an entry is removed
_COUNTED_EVERY = 16  # entries are counted whenever so small a part of the bound was added …
_LEFT = 3 / 4  # … and so much of it is left then, so that a few processes stay within it together


class FileCache:
    """Safe for many threads and processes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._arriving = folder / ".arriving"
        self._added = max_bytes  # since the last count; at first nobody knows
        self._lock = threading.Lock()
        self._making: dict[tuple[str, str], tuple[threading.Lock, int]] = {}

    def get(self, shelf: str, name: str) -> Path | None:
        """The entry, marked as just used; None where there is none."""
        path = self.folder / shelf / name
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def obtain(self, shelf: str, name: str, make: Callable[[Path], object]) -> Path:
        """The entry, made where there is none: `make` writes a file or a folder at a path.

        Of several threads that want it at once, one makes it. Raises `DataFolderError` for a full
        disk, and what `make` raises.
        """
        with self._alone(shelf, name):
            found = self.get(shelf, name)
            return found if found is not None else self.add(shelf, name, make)

    def add(self, shelf: str, name: str, make: Callable[[Path], object]) -> Path:
        """As `obtain`, in the place of what may be there."""
        target = self.folder / shelf / name
        try:
            with self.arriving() as arriving:
                make(arriving)
                size = _settle(arriving)
                target.parent.mkdir(parents=True, exist_ok=True)
                if arriving.is_dir():  # a folder is not replaced by another: both are the same
                    with suppress(FileExistsError, OSError):
                        arriving.rename(target)
                else:
                    os.replace(arriving, target)
                sync_folder(target.parent)
            if not target.exists():
                raise OSError(f"{target} vanished at once")
            os.utime(target)
        except OSError as error:
            raise DataFolderError(
                f"cannot write to {self.folder}: {error.strerror or error}. Make space or check "
                "permissions; RAG_OWL_CACHE_BYTES says how much is kept there."
            ) from error
        self._count(size)
        return target

    @contextmanager
    def arriving(self) -> Iterator[Path]:
        """A path for something that is not complete; nothing of it stays there."""
        self._arriving.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(dir=self._arriving))
        try:
            yield holder / "entry"
        finally:
            shutil.rmtree(holder, ignore_errors=True)

    def remove(self, shelf: str, name: str) -> None:
        _remove(self.folder / shelf / name)

    def entries(self, shelf: str = "*") -> Iterator[Path]:
        for path in self.folder.glob(f"{shelf}/*"):
            if path.parent != self._arriving:
                yield path

    @property
    def nbytes(self) -> int:
        return sum(size for _, size, _ in self._sizes())

    def _sizes(self) -> Iterator[tuple[Path, int, float]]:
        """(entry, bytes, last used)."""
        for path in self.entries():
            with suppress(OSError):  # another process was faster
                yield path, _size(path), path.stat().st_mtime

    def _count(self, size: int) -> None:
        with self._lock:
            self._added += size
            if self._added <= self.max_bytes // _COUNTED_EVERY:
                return
            self._added = 0
            now = time.time()
            for holder in self._arriving.glob("*"):
                with suppress(OSError):
                    if holder.stat().st_mtime < now - _ABANDONED:
                        _remove(holder)
            found = sorted(self._sizes(), key=lambda entry: entry[2])
            total = sum(size for _, size, _ in found)
            for path, size, used in found:
                if total <= self.max_bytes * _LEFT:
                    break
                # A clock that was set back makes all look as if they were used just now.
                if now - _IN_USE < used <= now + 1:
                    continue
                _remove(path)
                total -= size

    @contextmanager
    def _alone(self, shelf: str, name: str) -> Iterator[None]:
        key = (shelf, name)
        with self._lock:
            lock, users = self._making.get(key, (threading.Lock(), 0))
            self._making[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._making[key]
                if users == 1:
                    del self._making[key]
                else:
                    self._making[key] = (lock, users - 1)


def _settle(path: Path) -> int:
    """All of it on the disk -> how many bytes."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in [*files, path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return sum(file.stat().st_size for file in files)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size


def _remove(path: Path) -> None:
    if path.is_dir():
        # First out of sight: nobody may open half of it.
        away = path.with_name(f".removed-{path.name}-{os.getpid()}-{threading.get_ident()}")
        with suppress(OSError):
            path.rename(away)
            path = away
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
