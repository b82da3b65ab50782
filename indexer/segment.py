"""Immutable vector segments: a FAISS index, the item keys of its rows, and a manifest.

A segment is a folder with three files:

    index.faiss    vectors and index, inner product (cosine: the vectors have unit length)
    ids.npy        int64 item keys, sorted ascending; row r of the index belongs to ids[r]
    manifest.json  what it is, how it was built, size and sha256 of the other two files

It is built in a hidden folder beside its place, fsynced and renamed, so it is whole or absent.
Opening maps `index.faiss` into memory instead of reading it. Keys are unique over the segments
that are searched together; FAISS row numbers and its -1 never leave this module.

A search returns min(k, what may be returned) rows, whatever the filter: FAISS is given a bitmap
of the rows that may be returned, and where few of them are left, or an approximate index returns
fewer than k, all of them are compared exactly.

Segments are safe to search from several threads: every call has its own parameters, and nothing
on an open index is ever changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rag_owl.errors import InvalidInput
from rag_owl.indexer import segment_files as files
from rag_owl.indexer.segment_files import (
    BLOCK_ROWS,
    Flags,
    Ids,
    SegmentManifest,
    Vectors,
    corrupt,
    faiss,
    remove_unfinished,
)

if TYPE_CHECKING:
    from rag_owl.indexer.gpu import GpuSearcher

__all__ = ["Segment", "SegmentManifest", "merge_segments", "remove_unfinished"]
__all__ += ["search_segments", "write_segment"]

FEW_QUERIES = 20  # from so many on, FAISS compares with one matrix product
EXACT_ROWS = 20_000  # at most so many allowed rows are always compared exactly (about 3 ms)


class Segment:
    """An open segment; get one with `Segment.open`. Use one object from any number of threads."""

    may_hold_more = False  # than the database knows of: nothing is activated before its commit

    def __init__(
        self,
        folder: Path,
        manifest: SegmentManifest,
        ids: Ids,
        index: Any,
        gpu: GpuSearcher | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.ids = ids  # (n,) sorted; row -> key
        self._index = index
        self._gpu = gpu
        # What holds the vectors, for exact comparison and for reading rows.
        hnsw = manifest.index_type == "hnsw"
        self._storage = faiss.downcast_index(index.storage) if hnsw else index

    def __len__(self) -> int:
        return self.manifest.count

    @classmethod
    def open(cls, folder: Path, gpu: GpuSearcher | None = None) -> Segment:
        """Maps a segment into memory after checking manifest, sizes and shapes (`verify` checks
        every byte). Raises CorruptData, naming the file.
        """
        manifest = files.read_manifest(folder)
        for name, expected in manifest.files.items():
            path = folder / name
            if not path.is_file():
                raise corrupt(path, "is missing")
            if (size := path.stat().st_size) != expected["size"]:
                raise corrupt(path, f"has {size} bytes instead of {expected['size']}")
        try:
            ids = np.load(folder / "ids.npy", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise corrupt(folder / "ids.npy", "does not read as an array") from error
        if ids.shape != (manifest.count,) or ids.dtype != np.int64 or (np.diff(ids) <= 0).any():
            raise corrupt(folder / "ids.npy", "does not hold the sorted keys of its manifest")
        path = folder / "index.faiss"
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, MemoryError) as error:
            raise corrupt(path, "does not read as a FAISS index") from error
        kind = {"flat": faiss.IndexFlat, "hnsw": faiss.IndexHNSWFlat, "ivf": faiss.IndexIVFFlat}
        if (
            not isinstance(index, kind[manifest.index_type])
            or (index.ntotal, index.d) != (manifest.count, manifest.dimension)
            or index.metric_type != faiss.METRIC_INNER_PRODUCT
        ):
            raise corrupt(path, "is not the index that its manifest describes")
        return cls(folder, manifest, ids, index, gpu)

    def verify(self) -> None:
        """Compares every byte with the manifest's checksums. Raises CorruptData."""
        for name, expected in self.manifest.files.items():
            try:
                actual = files.sha256(self.folder, name)
            except OSError as error:
                raise corrupt(self.folder / name, "cannot be read") from error
            if actual != expected["sha256"]:
                raise corrupt(self.folder / name, "does not have the checksum of its manifest")

    def search(
        self, queries: Vectors, k: int, *, allowed: Ids | None = None, excluded: Ids | None = None
    ) -> tuple[Ids, Vectors]:
        """The nearest rows of `queries` (q, d): -> ids, scores, both (q, m), best first.

        m = min(k, rows that may be returned). `allowed` restricts, `excluded` (tombstones)
        removes; both are sorted keys, of which the segment need not know any. Scores are inner
        products. Raises InvalidInput when shape or dimension do not fit.
        """
        queries = _checked_queries(queries, self.manifest.dimension)
        permitted = self._permitted(allowed, excluded)
        available = len(self) if permitted is None else int(permitted.sum())
        k = min(k, available)
        if k <= 0 or not len(queries):
            shape = (len(queries), max(k, 0))
            return np.empty(shape, np.int64), np.empty(shape, np.float32)
        try:
            rows, scores = self._search_rows(queries, k, permitted, available)
        except RuntimeError as error:  # FAISS found its own structures inconsistent
            raise corrupt(self.folder / "index.faiss", "cannot be searched") from error
        ids = self.ids[rows]
        order = np.lexsort((ids, -scores))  # equal scores: the smaller key first
        return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)

    def scores(self, query: Vectors, ids: ArrayLike) -> Vectors:
        """Inner products of `query` (d,) with the vectors of `ids` (n,); NaN where absent."""
        keys = np.asarray(ids, np.int64)
        query = _checked_queries(query, self.manifest.dimension)[0]
        position, hit = self._find(keys)
        result = np.full(len(keys), np.nan, np.float32)
        result[hit] = self._reconstruct(position[hit]) @ query
        return result

    def vectors(
        self, ids: ArrayLike | None = None, block: int = BLOCK_ROWS
    ) -> Iterator[tuple[Ids, Vectors]]:
        """Keys and vectors in blocks of at most `block` rows: of all keys or of those in `ids`
        that the segment knows, in their order."""
        if ids is None:
            rows: Ids = np.arange(len(self))
        else:
            position, hit = self._find(np.asarray(ids, np.int64))
            rows = position[hit]
        for start in range(0, len(rows), block):
            part = rows[start : start + block]
            yield self.ids[part], self._reconstruct(part)

    # --- rows: nothing below returns keys ---

    def _find(self, keys: Ids) -> tuple[Ids, Flags]:
        """-> the row where each key is, and whether it is there at all."""
        if not len(self):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        rows = np.minimum(np.searchsorted(self.ids, keys), len(self) - 1)
        return rows, self.ids[rows] == keys

    def _reconstruct(self, rows: Ids) -> Vectors:
        if not len(rows):
            return np.empty((0, self.manifest.dimension), np.float32)
        vectors: Vectors = self._storage.reconstruct_batch(rows)
        return vectors

    def _permitted(self, allowed: Ids | None, excluded: Ids | None) -> Flags | None:
        """-> (n,) whether a row may be returned; None: all may."""
        permitted: Flags | None = None
        if allowed is not None:
            permitted = np.zeros(len(self), np.bool_)
            permitted[self._rows_among(allowed)] = True
        if excluded is not None and len(rows := self._rows_among(excluded)):
            if permitted is None:
                permitted = np.ones(len(self), np.bool_)
            permitted[rows] = False
        return permitted

    def _rows_among(self, keys: Ids) -> Ids:
        """-> the rows of those sorted keys that are here."""
        if not len(self):
            return np.empty(0, np.int64)
        start, end = np.searchsorted(keys, (self.ids[0], self.ids[-1] + 1))
        rows, hit = self._find(keys[start:end])
        return rows[hit]

    def _search_rows(
        self, queries: Vectors, k: int, permitted: Flags | None, available: int
    ) -> tuple[Ids, Vectors]:
        """-> rows and scores (q, k), best first; k is at most `available`."""
        # The selector reads this array while FAISS searches: it lives as long as this call.
        bitmap = None if permitted is None else np.packbits(permitted, bitorder="little")
        selector = None if bitmap is None else faiss.IDSelectorBitmap(bitmap)
        if self._gpu is not None:
            found = self._gpu.search(self, queries, k, permitted, available)
            if found is not None:
                return found
        flat = self.manifest.index_type == "flat"
        if flat or available <= EXACT_ROWS < len(self) or available < 4 * k:
            return self._search_exactly(queries, k, selector)
        # An approximate index looks at more where a filter leaves less of what it finds.
        widen = len(self) / available
        if self.manifest.index_type == "hnsw":
            width = round(max(files.HNSW_SEARCH_WIDTH, 2 * k) * widen)
            parameters = faiss.SearchParametersHNSW(efSearch=width, sel=selector)
        else:
            lists = self._index.nlist
            probes = min(lists, round(files.probes(lists) * widen))
            parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        scores, rows = self._index.search(queries, k, params=parameters)
        short = (rows < 0).any(axis=1)
        if short.any():
            rows[short], scores[short] = self._search_exactly(queries[short], k, selector)
        return rows, scores

    def _search_exactly(self, queries: Vectors, k: int, selector: Any) -> tuple[Ids, Vectors]:
        if self.manifest.index_type == "ivf":
            every = faiss.SearchParametersIVF(nprobe=self._index.nlist, sel=selector)
            scores, rows = self._index.search(queries, k, params=every)
        else:
            if selector is None and len(queries) < FEW_QUERIES:
                # With a selector FAISS scans on the calling thread; without, it starts OpenMP
                # threads for every query, which took 5 times as long beside a busy encoder.
                selector = faiss.IDSelectorAll()
            parameters = faiss.SearchParameters(sel=selector)
            scores, rows = self._storage.search(queries, k, params=parameters)
        return rows, scores


def search_segments(
    segments: Sequence[Segment],
    query: Vectors,
    k: int,
    allowed: Ids | None = None,
    excluded: Ids | None = None,
) -> tuple[Ids, Vectors]:
    """The nearest of `query` (d,) over all segments: -> ids (m,), scores (m,), best first.

    m = min(k, what may be returned); `allowed` and `excluded` as in `Segment.search`.
    """
    found = [s.search(query, k, allowed=allowed, excluded=excluded) for s in segments]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    ids = np.concatenate([ids[0] for ids, _ in found])
    scores = np.concatenate([scores[0] for _, scores in found])
    best = np.lexsort((ids, -scores))[:k]
    return ids[best], scores[best]


def _checked_queries(queries: Vectors, dimension: int) -> Vectors:
    queries = np.ascontiguousarray(np.atleast_2d(queries), np.float32)
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise InvalidInput(
            f"a query of shape {queries.shape} does not fit an index of dimension {dimension}; "
            "use the embedder that the index was built with"
        )
    if not np.isfinite(queries).all():
        raise InvalidInput("a query vector holds NaN or infinity; check the embedder")
    return queries


# --- writing --------------------------------------------------------------------------------------


def write_segment(
    folder: Path,
    ids: Ids,
    vectors: Vectors,
    *,
    index_type: str = "auto",
    manifest: Mapping[str, Any],
) -> SegmentManifest:
    """Writes ids (n,) and unit vectors (n, d) as a new segment; durable when it returns.

    `manifest` names the `embedder`; its other entries are kept as `extra`. `index_type` is one of
    `auto`, `flat`, `hnsw`, `ivf`; auto goes by the number of rows (`segment_files.HNSW_FROM` and
    `IVF_FROM`).

    Raises InvalidInput (shapes, repeated keys, vectors that are not of unit length), Conflict
    when `folder` exists, DataFolderError when it cannot be written.
    """
    ids, vectors = np.asarray(ids, np.int64), np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or ids.shape != (len(vectors),):
        raise InvalidInput(
            f"segment {folder.name}: ids {ids.shape} and vectors {vectors.shape} do not fit; "
            "pass (n,) keys and (n, dimension) vectors"
        )
    order = np.argsort(ids, kind="stable")
    return files.write(
        folder, ids[order], lambda r: vectors[order[r]], vectors.shape[1], index_type, manifest
    )


def merge_segments(
    folder: Path,
    segments: Sequence[Segment],
    excluded: Ids | None = None,
    *,
    index_type: str = "auto",
    manifest: Mapping[str, Any] | None = None,
) -> SegmentManifest:
    """Writes one segment out of several, without the tombstones `excluded` (sorted keys).

    Holds the new index and one block of rows in memory. `manifest` as in `write_segment`, by
    default the first segment's embedder. Raises InvalidInput when the embedders differ.
    """
    if not segments:
        raise InvalidInput(f"segment {folder.name}: nothing to merge; name at least one segment")
    first = segments[0].manifest
    for segment in segments[1:]:
        other = segment.manifest
        if (other.embedder, other.dimension) != (first.embedder, first.dimension):
            raise InvalidInput(
                f"segment {segment.folder.name} holds {other.embedder} vectors and cannot be "
                f"merged with {first.embedder}; reindex instead"
            )
    ids = np.sort(np.concatenate([s.ids for s in segments]))
    if excluded is not None and len(excluded):
        ids = ids[~np.isin(ids, excluded, assume_unique=True)]

    def read(rows: Ids) -> Vectors:
        keys, block = ids[rows], np.empty((len(rows), first.dimension), np.float32)
        for segment in segments:
            position, hit = segment._find(keys)
            block[hit] = segment._reconstruct(position[hit])
        return block

    return files.write(
        folder, ids, read, first.dimension, index_type, manifest or {"embedder": first.embedder}
    )
