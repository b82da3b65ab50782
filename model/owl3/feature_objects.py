"""Visual features in an object store: what one machine's model has looked at, others' need not.

An object is a picture's safetensors file and the sha256 of it, 32 bytes, at its end: one object is
whole or absent, and two machines that write the same one never mix. Losing one costs time only,
so nothing here fails: it is said in the log, and the picture is looked at again.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from rag_owl.errors import NotFound, RagOwlError
from rag_owl.object_store import ObjectStore

log = logging.getLogger(__name__)

_PREFIX = "features"
_DIGEST = 32  # bytes
_UPLOADS = 2  # at once
_WAITING = 32  # files in memory that wait to be uploaded; then whoever looks waits too


class FeatureObjects:
    """Safe for many threads and machines."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._uploads = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="features")
        self._room = threading.Semaphore(_WAITING)

    def get(self, name: str) -> bytes | None:
        """The file's bytes as they were put, or None."""
        try:
            data = self._store.get_bytes(f"{_PREFIX}/{name}")
        except NotFound:
            return None
        except RagOwlError as error:
            log.warning("features are computed again: %s", error)
            return None
        content, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            log.warning("%s/%s/%s is damaged; it is made again", self._store.url, _PREFIX, name)
            return None
        return content

    def put(self, name: str, data: bytes) -> None:
        """It is uploaded soon; the model need not wait for the network."""
        self._room.acquire()
        self._uploads.submit(self._put, name, data)

    def delete(self, shard: str, beginning: str) -> int:
        """All models' files in `<model>/<shard>/` whose names begin so. Raises `RagOwlError`."""
        removed = 0
        for folder in self._store.folders(_PREFIX):
            for entry in self._store.entries(f"{_PREFIX}/{folder}/{shard}"):
                if entry.name.rpartition("/")[2].startswith(beginning):
                    self._store.delete(entry.name)
                    removed += 1
        return removed

    def close(self) -> None:
        """Wait for what is on its way."""
        self._uploads.shutdown()

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._store.put_bytes(f"{_PREFIX}/{name}", data + hashlib.sha256(data).digest())
        except RagOwlError as error:
            log.warning("features stay on this machine alone: %s", error)
        finally:
            self._room.release()
