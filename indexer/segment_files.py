"""The files of a segment: building the index, writing all of it or nothing, the manifest.

What a segment is stands in `segment.py`, which is what others use.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.errors import Conflict, CorruptData, DataFolderError, InvalidInput

faiss: Any = import_module("faiss")  # the stubs that it ships lack half of what is used here

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Flags = NDArray[np.bool_]

FORMAT = 1
INDEX_TYPES = ("flat", "hnsw", "ivf")
HNSW_FROM = 50_000  # "auto": a flat scan of 50,000 x 384 takes about 4 ms on one core
IVF_FROM = 1_000_000  # "auto": two cores add 5,000 rows a second to a graph, 40,000 to lists
HNSW_LINKS = 16  # per row; 32 adds 8 % of memory and no recall at 100,000 rows
HNSW_BUILD_WIDTH = 80  # efConstruction
HNSW_SEARCH_WIDTH = 128  # efSearch, without a filter
IVF_LEAST_PROBES, IVF_PROBES_SHARE = 64, 16  # lists visited, without a filter: see `probes`
IVF_TRAINING_ROWS = 50  # per list
BLOCK_ROWS = 8_192
TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class SegmentManifest:
    format: int
    embedder: str
    dimension: int
    count: int
    index_type: str
    metric: str
    parameters: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]  # name -> {"size": bytes, "sha256": hex}
    created: str  # ISO 8601, UTC
    extra: Mapping[str, Any] = field(default_factory=dict)  # what the writer added


def write(
    folder: Path,
    ids: Ids,
    read: Callable[[Ids], Vectors],
    dimension: int,
    index_type: str,
    manifest: Mapping[str, Any],
) -> SegmentManifest:
    """`ids` sorted; `read` gives the vectors of any rows, so that they never need to be in memory
    all at once. See `segment.write_segment`."""
    if index_type == "auto":
        small, large = len(ids) < HNSW_FROM, len(ids) >= IVF_FROM
        index_type = "flat" if small else "ivf" if large else "hnsw"
    if index_type not in INDEX_TYPES:
        raise InvalidInput(f"unknown index type {index_type!r}; choose auto, flat, hnsw or ivf")
    if not manifest.get("embedder"):
        raise InvalidInput(f"segment {folder.name}: the manifest must name its embedder")
    if len(ids) and (np.diff(ids) == 0).any():
        raise InvalidInput(f"segment {folder.name}: an item key comes twice; keys are unique")
    if folder.exists():
        raise Conflict(f"segment folder {folder} exists; segments are never changed, only replaced")
    index, parameters = build(ids, checked_reader(read, folder), dimension, index_type)
    temporary = folder.parent / f"{TEMPORARY}{folder.name}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        np.save(temporary / "ids.npy", ids)
        faiss.write_index(index, str(temporary / "index.faiss"))
        written = SegmentManifest(
            format=FORMAT,
            embedder=str(manifest["embedder"]),
            dimension=dimension,
            count=len(ids),
            index_type=index_type,
            metric="inner_product",
            parameters=parameters,
            files={
                name: {
                    "size": (temporary / name).stat().st_size,
                    "sha256": sha256(temporary, name),
                }
                for name in ("ids.npy", "index.faiss")
            },
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            extra={key: value for key, value in manifest.items() if key != "embedder"},
        )
        (temporary / "manifest.json").write_text(json.dumps(asdict(written), indent=1))
        for name in (*written.files, "manifest.json", "."):
            _fsync(temporary / name)
        temporary.rename(folder)
        _fsync(folder.parent)
    except (OSError, RuntimeError) as error:  # FAISS reports a full disk as RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataFolderError(
            f"segment {folder} cannot be written ({reason_of(error)}); "
            "check that the data folder is writable and has free space"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return written


def build(
    ids: Ids, read: Callable[[Ids], Vectors], dimension: int, index_type: str
) -> tuple[Any, dict[str, Any]]:
    count = len(ids)
    parameters: dict[str, Any] = {"hnsw_from": HNSW_FROM, "ivf_from": IVF_FROM}
    if index_type == "ivf":
        lists = max(1, min(round(2 * math.sqrt(count)), count))
        # The factory makes the k-means spherical, as inner product wants it.
        index = faiss.index_factory(dimension, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        sample = min(count, IVF_TRAINING_ROWS * lists)
        rows = np.sort(np.random.default_rng(0).choice(count, sample, replace=False))
        index.cp.min_points_per_centroid = 1  # few points only make lists uneven: no warning
        if count:
            index.train(read(rows))
        parameters |= {"lists": lists, "training_rows": sample}
    elif index_type == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD_WIDTH
        _reserve(faiss.downcast_index(index.storage), count)
        parameters |= {"links": HNSW_LINKS, "build_width": HNSW_BUILD_WIDTH}
    else:
        index = faiss.IndexFlatIP(dimension)
        _reserve(index, count)
    for start in range(0, count, BLOCK_ROWS):
        index.add(read(np.arange(start, min(start + BLOCK_ROWS, count))))
    if index_type == "ivf":
        index.make_direct_map()  # row -> its place in the lists, to read vectors by row
    return index, parameters


def probes(lists: int) -> int:
    """How many of an index's lists a search visits."""
    return min(lists, max(IVF_LEAST_PROBES, lists // IVF_PROBES_SHARE))


def _reserve(index: Any, rows: int) -> None:
    """Makes room once: growing block by block would hold up to three times the vectors."""
    index.codes.resize(rows * index.code_size)
    index.codes.resize(0)


def checked_reader(read: Callable[[Ids], Vectors], folder: Path) -> Callable[[Ids], Vectors]:
    def checked(rows: Ids) -> Vectors:
        block = np.ascontiguousarray(read(rows))
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        if not (np.abs(length - 1) < 1e-3).all():  # false for NaN too
            raise InvalidInput(f"segment {folder.name}: a vector is not finite and of unit length")
        return block

    return checked


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(folder: Path, name: str) -> str:
    with (folder / name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_unfinished(parent: Path) -> int:
    """Removes what interrupted writes left in `parent`; only for the one process that writes."""
    leftovers = list(parent.glob(f"{TEMPORARY}*"))
    for leftover in leftovers:
        shutil.rmtree(leftover)
    return len(leftovers)


def read_manifest(folder: Path) -> SegmentManifest:
    path = folder / "manifest.json"
    try:
        values = json.loads(path.read_bytes())
        if values["format"] != FORMAT:
            raise CorruptData(
                f"{path} has format {values['format']}, this version reads {FORMAT}; "
                "open it with the rag_owl that wrote it, or reindex the collection"
            )
        manifest = SegmentManifest(**values)
        sizes = [manifest.files[name]["size"] for name in ("ids.npy", "index.faiss")]
    except FileNotFoundError as error:
        raise corrupt(path, "is missing") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise corrupt(path, "does not read as a manifest") from error
    if manifest.index_type not in INDEX_TYPES or not all(isinstance(s, int) for s in sizes):
        raise corrupt(path, "does not read as a manifest")
    return manifest


def corrupt(path: Path, what: str) -> CorruptData:
    return CorruptData(
        f"{path} {what}; run `rag-owl doctor --deep`: "
        "it makes damaged segments again from the database"
    )


def reason_of(error: Exception) -> str:
    """The system's words, without FAISS's own place in its source around them."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = str(error).partition("\n")[0]
    inner = re.search(r"\(([A-Z][^()]+)\)$", line)
    return inner[1] if inner else line
