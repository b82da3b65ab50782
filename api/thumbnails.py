"""Small pictures, made once and kept in the data folder, where they may be deleted any time."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

from rag_owl import media
from rag_owl.errors import DataFolderError
from rag_owl.media import Limits
from rag_owl.ports import BlobStore

_SIZES = (64, 128, 256, 512, 1024)  # any other is rounded up: there is a bound to what is kept
_AT_ONCE = 2  # a decoded picture may have 300 MB
_QUALITY = 85


class Thumbnails:
    """Safe for many threads and processes."""

    def __init__(self, folder: Path, blobs: BlobStore, limits: Limits) -> None:
        self._folder = folder
        self._blobs = blobs
        self._limits = limits
        self._making = threading.BoundedSemaphore(_AT_ONCE)

    def of(self, key: str, size: int) -> tuple[Path, str]:
        """(a JPEG whose longer side has at most the next of our sizes, its ETag).

        Raises `NotFound`, `UnreadableMedia`, `DataFolderError`.
        """
        side = next((each for each in _SIZES if each >= size), _SIZES[-1])
        source = self._blobs.path(key)  # also checks that it is a key
        target = self._folder / str(side) / key[:2] / f"{key[2:]}.jpg"
        if not target.is_file():
            with self._making:
                if not target.is_file():
                    self._make(source, target, side)
        return target, f"{key}-{side}"

    def _make(self, source: Path, target: Path, side: int) -> None:
        picture = media.decode_picture(source.read_bytes(), self._limits, max_side=side)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    picture.save(file, "JPEG", quality=_QUALITY)
                os.replace(name, target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise DataFolderError(
                f"cannot write to {self._folder}: {error.strerror or error}; make space or check "
                "permissions"
            ) from error
