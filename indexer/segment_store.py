"""Where segments lie, by name: a folder with one folder for each of them, or an object store."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl.errors import CorruptData, NotFound
from rag_owl.file_cache import FileCache
from rag_owl.indexer import segment_files as files
from rag_owl.indexer.segment import Segment, SegmentManifest, merge_segments, write_segment
from rag_owl.indexer.segment_files import Ids, Vectors
from rag_owl.object_store import ObjectStore

if TYPE_CHECKING:
    from rag_owl.indexer.gpu import GpuSearcher

_SHELF = "segments"
_PARTS = ("ids.npy", "index.faiss")
_MANIFEST = "manifest.json"
_NAME = re.compile(r"[0-9a-f]{32}")
_TIMES = 3  # a part is fetched when its bytes are not the right ones


class SegmentStore:
    """Segments in a folder. Safe for many threads and processes."""

    is_ours_alone = True  # whoever holds the folder's lock is the only one who writes here

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, name: str, gpu: GpuSearcher | None = None) -> Segment:
        """As `Segment.open`. Raises `CorruptData`, naming the file."""
        return Segment.open(self.folder / name, gpu)

    def verify(self, name: str) -> Segment:
        """Compare every stored byte with its checksum. Raises `CorruptData`."""
        segment = self.open(name)
        segment.verify()
        return segment

    def write(
        self, name: str, ids: Ids, vectors: Vectors, *, index_type: str, manifest: Mapping[str, Any]
    ) -> SegmentManifest:
        """As `write_segment`: durable when it returns."""
        return write_segment(
            self.folder / name, ids, vectors, index_type=index_type, manifest=manifest
        )

    def merge(
        self,
        name: str,
        segments: Sequence[Segment],
        excluded: Ids | None,
        *,
        index_type: str,
        manifest: Mapping[str, Any],
    ) -> SegmentManifest:
        """As `merge_segments`: durable when it returns."""
        return merge_segments(
            self.folder / name, segments, excluded, index_type=index_type, manifest=manifest
        )

    def delete(self, name: str, keys: Sequence[int]) -> None:
        raise NotImplementedError("segment files never change")

    def count(self, name: str) -> int:
        """Vectors in a segment that can be changed."""
        raise NotImplementedError("segment files never change")

    def remove(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def names(self, least_age: float = 0.0) -> Iterator[str]:
        """All that lies there for so many seconds, also what an interrupted write left."""
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if not least_age or time.time() - path.stat().st_mtime > least_age:
                    yield path.name


class RemoteSegmentStore(SegmentStore):
    """Segments in an object store, with local copies. Safe for many machines.

    Written are first the parts, then the manifest, which names their sizes and checksums: without
    it there is no segment. A local copy is made of bytes that were compared with it.
    """

    is_ours_alone = False

    def __init__(self, store: ObjectStore, cache: FileCache) -> None:
        super().__init__(cache.folder / _SHELF)
        self._store = store
        self._cache = cache

    def open(self, name: str, gpu: GpuSearcher | None = None) -> Segment:
        """Raises `CorruptData` and `StorageUnavailable`, naming the object."""
        try:
            return Segment.open(self._local(name), gpu)
        except CorruptData:  # the local copy is damaged
            self._cache.remove(_SHELF, name)
            return Segment.open(self._local(name), gpu)

    def verify(self, name: str) -> Segment:
        """The store's own bytes; they become the local copy. Raises as `open` does."""
        self._cache.remove(_SHELF, name)
        return self.open(name)

    def write(
        self, name: str, ids: Ids, vectors: Vectors, *, index_type: str, manifest: Mapping[str, Any]
    ) -> SegmentManifest:
        with self._cache.arriving() as folder:
            written = write_segment(folder, ids, vectors, index_type=index_type, manifest=manifest)
            self._upload(name, folder)
        return written

    def merge(
        self,
        name: str,
        segments: Sequence[Segment],
        excluded: Ids | None,
        *,
        index_type: str,
        manifest: Mapping[str, Any],
    ) -> SegmentManifest:
        with self._cache.arriving() as folder:
            written = merge_segments(
                folder, segments, excluded, index_type=index_type, manifest=manifest
            )
            self._upload(name, folder)
        return written

    def remove(self, name: str) -> None:
        """The manifest first: what is left of a segment is none."""
        for part in (_MANIFEST, *_PARTS):
            self._store.delete(f"segments/{name}/{part}")
        self._cache.remove(_SHELF, name)

    def names(self, least_age: float = 0.0) -> Iterator[str]:
        youngest: dict[str, float] = {}
        for entry in self._store.entries("segments"):
            name = entry.name.split("/")[1]
            age = self._store.age(entry.modified)
            youngest[name] = min(youngest.get(name, age), age)
        yield from sorted(name for name, age in youngest.items() if age >= least_age)

    def forget_unknown(self, known: set[str]) -> None:
        """Remove local copies of segments that are not among them."""
        for path in self._cache.entries(_SHELF):
            if path.name not in known:
                self._cache.remove(_SHELF, path.name)

    def _upload(self, name: str, folder: Path) -> None:
        for part in (*_PARTS, _MANIFEST):
            self._store.put_file(f"segments/{name}/{part}", folder / part)
        self._cache.add(_SHELF, name, folder.rename)

    def _local(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise CorruptData(f"{name!r} cannot be a segment's name; check the database")
        return self._cache.obtain(_SHELF, name, lambda folder: self._fetch(name, folder))

    def _fetch(self, name: str, folder: Path) -> None:
        folder.mkdir()
        manifest: SegmentManifest | None = None
        for part in (_MANIFEST, *_PARTS):
            for _ in range(_TIMES):
                try:
                    self._store.get_file(f"segments/{name}/{part}", folder / part)
                except NotFound:
                    raise self._corrupt(name, part, "is missing") from None
                if part == _MANIFEST:
                    manifest = _parsed(folder)
                    if manifest is not None:
                        break
                elif manifest and files.sha256(folder, part) == manifest.files[part].get("sha256"):
                    break
            else:
                raise self._corrupt(name, part, "has other bytes than were written")

    def _corrupt(self, name: str, part: str, what: str) -> CorruptData:
        return CorruptData(
            f"{self._store.url}/segments/{name}/{part} {what}; run `rag-owl doctor --deep`: "
            "it makes damaged segments again from the database"
        )


def _parsed(folder: Path) -> SegmentManifest | None:
    """None for half of a manifest."""
    try:
        json.loads((folder / _MANIFEST).read_bytes())
    except ValueError:
        return None
    return files.read_manifest(folder)
