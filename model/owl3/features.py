"""Visual features on the disk, under (model, preprocessing, sha256 of the picture).

One safetensors file per picture, loaded memory-mapped, within a budget: when it is full, the
pictures that were used longest ago make room. Several processes may use one folder; a file
appears whole or not at all, and one that is damaged counts as not there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rag_owl.errors import CorruptData, DataFolderError, InvalidInput
from rag_owl.model.owl3.memory import MemoryIdentity, Storage, VisualMemory

if TYPE_CHECKING:
    from rag_owl.model.owl3.model import Owl3

SUFFIX = ".safetensors"
AT_ONCE = 16  # pictures held as pixels


class FeatureStore:
    """Features of single pictures. `max_bytes` bounds the files of all models together."""

    def __init__(self, folder: str | Path, max_bytes: int, storage: Storage = "bfloat16") -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.storage: Storage = storage
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
            os.utime(path)
        except CorruptData:
            path.unlink(missing_ok=True)  # damaged, or not there at all
            return None
        except (OSError, InvalidInput):
            return None
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
        if stored.nbytes > self.max_bytes:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stored.save(path, self.storage)
            self._make_room(keep=path)
        except OSError as error:
            raise DataFolderError(f"{path}: features cannot be written ({error}).") from None
        return path.exists()

    def remember(
        self, model: Owl3, keys: Sequence[str], pixels: Callable[[list[int]], Tensor]
    ) -> VisualMemory:
        """The pictures' features: those stored, and else the vision tower's, which are then stored.

        `pixels` is asked for (n, 3, S, S) of the pictures at n places of `keys`, only where it
        must be, a few at a time. Both ways give the same numbers: those of the store.
        """
        identity = model.memory_identity
        found = {key: self.get(identity, key) for key in keys}
        missing = [i for i, key in enumerate(keys) if found[key] is None]
        for first in range(0, len(missing), AT_ONCE):
            places = missing[first : first + AT_ONCE]
            with torch.no_grad():
                fresh = model.remember(pixels(places), ids=[keys[i] for i in places])
            stored = fresh.to_storage(self.storage)
            for at, i in enumerate(places):
                one = stored[at : at + 1]
                self.put(identity, keys[i], one)
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

    def _make_room(self, keep: Path) -> None:
        files = sorted(self._files(), key=lambda file: (file[0] == keep, file[2]))
        total = sum(size for _, size, _ in files)
        for path, size, _ in files:
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _checked(sha256: str) -> str:
    """The name becomes a path: it must be a name."""
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,199}", sha256):
        raise InvalidInput(f"{sha256!r} is no key of a picture.")
    return sha256
