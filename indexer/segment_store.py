"""Where segments lie, by name: a folder with one folder for each of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl.indexer.segment import Segment, SegmentManifest, merge_segments, write_segment
from rag_owl.indexer.segment_files import Ids, Vectors

if TYPE_CHECKING:
    from rag_owl.indexer.gpu import GpuSearcher


class SegmentStore:
    """Segments in a folder. Safe for many threads and processes."""

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

    def remove(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def names(self) -> Iterator[str]:
        """All that lies there, also what an interrupted write left."""
        if self.folder.is_dir():
            yield from sorted(path.name for path in self.folder.iterdir())
