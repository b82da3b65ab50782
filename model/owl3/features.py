"""Visual features on the disk, under (model, preprocessing, sha256 of the picture).

One safetensors file per picture, loaded memory-mapped, within a budget: when it is full, the
pictures that were used longest ago make room. Several processes may use one folder; a file
appears whole or not at all, and one that is damaged counts as not there. Several machines may share
an object store behind their folders: what one has looked at, the others need not.

How many bytes there are stands in a ledger, which every writer adds to before it writes. It may
say too much (a writer was killed, a file was replaced or deleted), never too little; the files are
listed only when it says that the budget is spent, and then a share of it is freed at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from rag_owl.errors import CorruptData, DataFolderError, InvalidInput
from rag_owl.model.owl3.feature_objects import FeatureObjects
from rag_owl.model.owl3.memory import MemoryIdentity, Storage, VisualMemory

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
AT_ONCE = 16  # pictures held as pixels
FREED_AT_ONCE = 16  # one part in so many of the budget, beside what is to come in
HEADER = 1_024  # bytes of a file beside its numbers, at most
ABANDONED = 3_600  # seconds after which an unfinished file belongs to a writer that is gone
PATIENCE = 60.0  # seconds to wait for another writer


class FeatureStore:
    """Features of single pictures. `max_bytes` bounds the files of all models together."""

    def __init__(
        self,
        folder: str | Path,
        max_bytes: int,
        storage: Storage = "bfloat16",
        shared: FeatureObjects | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._shared = shared
        self.max_bytes = max_bytes
        self.storage: Storage = storage
        self._ledger = self.folder / "ledger"
        self._lock = FileLock(self.folder / "ledger.lock", timeout=PATIENCE)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataFolderError(f"{folder}: no folder for visual features ({error}).") from None

    @property
    def nbytes(self) -> int:
        return sum(size for _, size, _ in self._files())

    def __len__(self) -> int:
        return sum(1 for _ in self._files())

    def get(self, identity: MemoryIdentity, sha256: str) -> VisualMemory | None:
        """One picture's features, memory-mapped, or None. Marks them as just used."""
        path = self._path(identity, sha256)
        memory = _loaded(path, identity)
        if memory is None and self._fetch(path):
            memory = _loaded(path, identity)
        if memory is not None:
            with contextlib.suppress(OSError):  # a read-only folder can be read
                os.utime(path)
        return memory

    def _fetch(self, path: Path) -> bool:
        """Whether the other machines' store had it, and there is room for it here."""
        data = self._shared.get(self._object(path)) if self._shared is not None else None
        if data is None or len(data) > self.max_bytes:
            return False
        arriving = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            with self._lock:
                self._make_room(len(data))
                path.parent.mkdir(parents=True, exist_ok=True)
                arriving.write_bytes(data)
                arriving.replace(path)
        except (OSError, Timeout) as error:  # looking at the picture again costs only time
            log.warning("%s: fetched features cannot be kept (%s)", path, error)
            with contextlib.suppress(OSError):
                arriving.unlink(missing_ok=True)
            return False
        return True

    def put(self, identity: MemoryIdentity, sha256: str, memory: VisualMemory) -> bool:
        """Store one picture's features; False where the budget has no room even for it alone.

        Raises InvalidInput: more than one picture, or features of another identity.
        Raises DataFolderError: the disk refuses.
        """
        if len(memory) != 1 or memory.identity != identity:
            raise InvalidInput("put takes the features of one picture, made by that identity.")
        path = self._path(identity, sha256)
        stored = memory.to_storage(self.storage)
        size = stored.nbytes + HEADER
        if size > self.max_bytes:
            return False
        try:
            with self._lock:
                self._make_room(size)
                path.parent.mkdir(parents=True, exist_ok=True)
                stored.save(path, self.storage)
                data = path.read_bytes() if self._shared is not None else b""
        except (OSError, Timeout, SafetensorError) as error:  # the last: the disk is full
            raise DataFolderError(
                f"{path}: what the model remembers cannot be written ({error}). Make space, or "
                "set a smaller RAG_OWL_FEATURES_BYTES."
            ) from None
        if self._shared is not None:
            self._shared.put(self._object(path), data)
        return True

    def put_all(self, memory: VisualMemory, sha256s: Sequence[str]) -> VisualMemory:
        """Store each of a memory's pictures -> the memory as it would come back from the store.

        A disk that refuses them costs time at the next question, not this one.
        """
        stored = memory.to_storage(self.storage)
        for at, sha256 in enumerate(sha256s):
            try:
                self.put(memory.identity, sha256, stored[at : at + 1])
            except DataFolderError as error:
                log.warning("%s", error)
                break
        return stored

    def delete(self, sha256: str) -> int:
        """Forget a picture, in all its sizes, or a film's frames, under every model -> files
        removed."""
        name = _checked(sha256) + "."
        found = [path for path, _, _ in self._files() if path.name.startswith(name)]
        for path in found:
            path.unlink(missing_ok=True)
        if self._shared is not None:
            return max(len(found), self._shared.delete(sha256[:2], name))
        return len(found)

    def _path(self, identity: MemoryIdentity, sha256: str) -> Path:
        made_by = hashlib.sha256(f"{identity.model}\n{identity.preprocessing}".encode()).hexdigest()
        name = _checked(sha256)
        return self.folder / made_by[:16] / name[:2] / f"{name}{SUFFIX}"

    def _object(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """(path, bytes, last used)."""
        for path in self.folder.glob(f"*/*/*{SUFFIX}"):
            if path.name.startswith("."):
                continue  # still being written
            try:
                stat = path.stat()
            except OSError:  # another process was faster
                continue
            yield path, stat.st_size, stat.st_mtime

    def _make_room(self, size: int) -> None:
        """Enter `size` bytes into the ledger, after others have gone where it must be."""
        try:
            total = int(self._ledger.read_text())
        except (OSError, ValueError):  # the first writer, or one that was killed while it wrote
            total = -1
        if not 0 <= total <= self.max_bytes - size:
            total = self._counted()
            if total > self.max_bytes - size:
                total = self._freed(self.max_bytes - size - self.max_bytes // FREED_AT_ONCE)
        self._ledger.write_text(str(total + size))

    def _counted(self) -> int:
        """The bytes of all files, after unfinished ones of writers that are gone were removed."""
        for path in self.folder.glob(f"*/*/.*{SUFFIX}*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - ABANDONED:
                    path.unlink()
        return self.nbytes

    def _freed(self, most: int) -> int:
        """Delete what was used longest ago until at most so many bytes are left -> how many."""
        files = sorted(self._files(), key=lambda file: file[2])
        total = sum(size for _, size, _ in files)
        for path, size, _ in files:
            if total <= most:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


def _loaded(path: Path, identity: MemoryIdentity) -> VisualMemory | None:
    try:
        return VisualMemory.load(path, identity)
    except CorruptData:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # damaged, or not there at all
    except InvalidInput:
        pass
    return None


def _checked(sha256: str) -> str:
    """The name becomes a path: it must be a name."""
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,199}", sha256):
        raise InvalidInput(f"{sha256!r} is no key of a picture.")
    return sha256
