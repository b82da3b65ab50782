"""Searching flat and IVF segments on a GPU, where `faiss` was built for one.

`faiss-cpu`, the default, has no GPU classes: `open_gpu_searcher` then returns None and everything
is searched on the CPU. FAISS GPU indexes must not be used from two threads, so one thread owns
the device's memory and every index in it; callers wait for its answer. Segments are copied there
when first searched; the least recently used one leaves when the memory budget is reached.

Its tests are marked `gpu` and have not run anywhere yet: no machine with a GPU build of FAISS was
at hand when this was written.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.indexer.segment_files import faiss, probes

if TYPE_CHECKING:
    from rag_owl.indexer.segment import Segment

LONGEST_LIST = 1024  # rows fetched at once: FAISS's k-selection on GPUs ends at 2048


def open_gpu_searcher(memory_budget: int, device: int = 0) -> GpuSearcher | None:
    """`memory_budget` in bytes. None where FAISS or the machine knows no GPU."""
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() <= device:
        return None
    return GpuSearcher(memory_budget, device)


class GpuSearcher:
    """Pass it to `Segment.open(folder, gpu=...)`."""

    def __init__(self, memory_budget: int, device: int) -> None:
        self._budget = memory_budget
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpu-search")
        # Only that thread touches these two.
        self._resources: Any = None
        self._indexes: OrderedDict[Path, Any] = OrderedDict()  # least recently used first

    def search(
        self,
        segment: Segment,
        queries: NDArray[np.float32],
        k: int,
        permitted: NDArray[np.bool_] | None,
        available: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """-> rows, scores (q, k); None where the CPU has to do it.

        FAISS takes no row filter on GPUs. So many more rows are fetched as the filter hides in
        all: few tombstones are searched here, a metadata filter mostly is not.
        """
        fetched = k + len(segment) - available
        if (
            segment.manifest.index_type == "hnsw"
            or fetched > LONGEST_LIST
            or _bytes_on_device(segment) > self._budget
        ):
            return None
        scores, rows = self._thread.submit(self._search, segment, queries, fetched).result()
        keep = rows >= 0
        if permitted is not None:
            keep &= permitted[rows]
        if (keep.sum(axis=1) < k).any():
            return None
        first = np.argsort(~keep, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, first, 1), np.take_along_axis(scores, first, 1)

    def forget(self, segment: Segment) -> None:
        """Frees what a segment takes on the device, once it is not searched any more."""
        self._thread.submit(self._indexes.pop, segment.folder, None).result()

    def close(self) -> None:
        self._thread.submit(self._indexes.clear).result()
        self._thread.shutdown()

    def _search(self, segment: Segment, queries: NDArray[np.float32], k: int) -> Any:
        index, _ = self._load(segment)
        parameters = None
        if segment.manifest.index_type == "ivf":
            parameters = faiss.SearchParametersIVF(nprobe=probes(index.nlist))
        return index.search(queries, k, params=parameters)

    def _load(self, segment: Segment) -> Any:
        if segment.folder in self._indexes:
            self._indexes.move_to_end(segment.folder)
            return self._indexes[segment.folder]
        if self._resources is None:
            self._resources = faiss.StandardGpuResources()
        size = _bytes_on_device(segment)
        while self._indexes and sum(s for _, s in self._indexes.values()) + size > self._budget:
            self._indexes.popitem(last=False)
        index = faiss.index_cpu_to_gpu(self._resources, self._device, segment._index)
        self._indexes[segment.folder] = (index, size)
        return self._indexes[segment.folder]


def _bytes_on_device(segment: Segment) -> int:
    """Vectors, and for IVF the row number of each."""
    row = segment.manifest.dimension * 4 + (8 if segment.manifest.index_type == "ivf" else 0)
    return len(segment) * row
