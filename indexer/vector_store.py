"""Where vectors lie, by a segment's name: in segment files, or in Milvus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rag_owl.indexer.milvus import PREFIX, Milvus, MilvusStore
from rag_owl.indexer.segment import Segment, SegmentManifest
from rag_owl.indexer.segment_files import Ids, Vectors
from rag_owl.indexer.segment_store import SegmentStore

if TYPE_CHECKING:
    from rag_owl.indexer.gpu import GpuSearcher


class VectorStore(SegmentStore):
    """Each name at its engine. Safe for many threads."""

    def __init__(self, files: SegmentStore, milvus: Milvus) -> None:
        super().__init__(files.folder)
        self.is_ours_alone = files.is_ours_alone
        self._files = files
        self._milvus = MilvusStore(milvus)

    def open(self, name: str, gpu: GpuSearcher | None = None) -> Segment:
        if name.startswith(PREFIX):
            return self._milvus.open(name)
        return self._files.open(name, gpu)

    def verify(self, name: str) -> Segment:
        return self.open(name) if name.startswith(PREFIX) else self._files.verify(name)

    def write(
        self, name: str, ids: Ids, vectors: Vectors, *, index_type: str, manifest: Mapping[str, Any]
    ) -> SegmentManifest:
        store = self._milvus if name.startswith(PREFIX) else self._files
        return store.write(name, ids, vectors, index_type=index_type, manifest=manifest)

    def merge(
        self,
        name: str,
        segments: Sequence[Segment],
        excluded: Ids | None,
        *,
        index_type: str,
        manifest: Mapping[str, Any],
    ) -> SegmentManifest:
        return self._files.merge(name, segments, excluded, index_type=index_type, manifest=manifest)

    def delete(self, name: str, keys: Sequence[int]) -> None:
        """Of an engine that can: segment files never change."""
        self._milvus.delete(name, keys)

    def count(self, name: str) -> int:
        return self._milvus.count(name)

    def remove(self, name: str) -> None:
        if name.startswith(PREFIX):
            self._milvus.remove(name)
        else:
            self._files.remove(name)

    def names(self, least_age: float = 0.0) -> Iterator[str]:
        """Files alone: what is in Milvus is dropped with its generation."""
        return self._files.names(least_age)
