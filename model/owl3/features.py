"""Visual features on the disk, under (model, preprocessing, sha256 of the picture).

One safetensors file per picture, loaded memory-mapped, within a budget: when it is full, the
pictures that were used longest ago make room. Several processes may use one folder; a file
appears whole or not at all, and one that is damaged counts as not there.

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
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from rag_owl.errors import CorruptData, DataFolderError, InvalidInput
from rag_owl.model.owl3.memory import MemoryIdentity, Storage, VisualMemory

if TYPE_CHECKING:
    from rag_owl.model.owl3.model import Owl3

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
AT_ONCE = 16  # pictures held as pixels
FREED_AT_ONCE = 16  # one part in so many of the budget, beside what is to come in
HEADER = 1_024  # bytes of a file beside its numbers, at most
ABANDONED = 3_600  # seconds after which an unfinished file belongs to a writer that is gone
PATIENCE = 60.0  # seconds to wait for another writer


class FeatureStore:
    """Features of single pictures. `max_bytes` bounds the files of all models together."""

    def __init__(self, folder: str | Path, max_bytes: int, storage: Storage = "bfloat16") -> None:
        self.folder = Path(folder)
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
        try:
            memory = VisualMemory.load(path, identity)
        except CorruptData:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # damaged, or not there at all
            return None
        except InvalidInput:
            return None
        with contextlib.suppress(OSError):  # a read-only folder can be read
            os.utime(path)
        return memory

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
        except (OSError, Timeout, SafetensorError) as error:  # the last: the disk is full
            raise DataFolderError(
                f"{path}: what the model remembers cannot be written ({error}). Make space, or "
                "set a smaller RAG_OWL_FEATURES_BYTES."
            ) from None
        return True

    def remember(
        self, model: Owl3, keys: Sequence[str], pixels: Callable[[list[int]], Tensor]
    ) -> VisualMemory:
        """The pictures' features: those stored, and else the vision tower's, which are then stored.

        `pixels` is asked for (n, 3, S, S) of the pictures at n places of `keys`, only where it
        must be, a few at a time. Both ways give the same numbers: those of the store. A disk that
        refuses them costs time at the next question, not this one.
        """
        identity = model.memory_identity
        found = {key: self.get(identity, key) for key in keys}
        first_place = {key: i for i, key in reversed(list(enumerate(keys)))}
        missing = sorted(i for key, i in first_place.items() if found[key] is None)
        for first in range(0, len(missing), AT_ONCE):
            places = missing[first : first + AT_ONCE]
            with torch.no_grad():
                fresh = model.remember(pixels(places), ids=[keys[i] for i in places])
            stored = fresh.to_storage(self.storage)
            for at, i in enumerate(places):
                one = stored[at : at + 1]
                try:
                    self.put(identity, keys[i], one)
                except DataFolderError as error:
                    log.warning("%s", error)
                found[keys[i]] = one
        return VisualMemory.cat([memory for key in keys if (memory := found[key]) is not None])

    def delete(self, sha256: str) -> int:
        """Forget a picture under every model -> files removed."""
        name = _checked(sha256) + SUFFIX
        found = [path for path, _, _ in self._files() if path.name == name]
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    def _path(self, identity: MemoryIdentity, sha256: str) -> Path:
        made_by = hashlib.sha256(f"{identity.model}\n{identity.preprocessing}".encode()).hexdigest()
        name = _checked(sha256)
        return self.folder / made_by[:16] / name[:2] / f"{name}{SUFFIX}"

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


def _checked(sha256: str) -> str:
    """The name becomes a path: it must be a name."""
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,199}", sha256):
        raise InvalidInput(f"{sha256!r} is no key of a picture.")
    return sha256
