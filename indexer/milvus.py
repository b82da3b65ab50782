"""Vectors in Milvus, for collections that outgrow one machine, behind the interface of segments.

Each channel of a generation is one Milvus collection with the item's key as its primary key, and
one row in our table of segments. Vectors are upserted before the transaction that makes their items
known, so Milvus may hold keys of batches that were never committed: who searches compares what was
found with the database (`may_hold_more`). What was deleted is left out of searches by its key until
it is deleted from Milvus too.

Filters are exact: what may be returned is written as expressions over keys, so many that each one
stays short, which together say just what is allowed; Milvus applies them before it ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from rag_owl.errors import CorruptData, InvalidInput, InvalidSettings, StorageUnavailable
from rag_owl.indexer.segment import Segment, SegmentManifest
from rag_owl.indexer.segment_files import HNSW_LINKS, INDEX_TYPES, Ids, Vectors

PREFIX = "0" * 16  # of a segment's name; those of files are random, and never begin so
_CHANNELS = ("text", "picture")
_KEYS_AT_ONCE = 5_000  # in one expression
_ROWS_AT_ONCE = 2_000  # in one upsert: 384 numbers each are 3 MB
_MOST_RESULTS = 16_384  # Milvus's own limit of a search
_HNSW_BUILD_WIDTH, _HNSW_LEAST_WIDTH = 200, 128
_IVF_LISTS, _IVF_PROBES = 4_096, 256
_SECONDS = 30.0  # for one call with all its retries
_Result = TypeVar("_Result")


def name_of(generation_key: int, channel: str) -> str:
    """The name of a channel's only segment, 32 hexadecimal digits."""
    return f"{PREFIX}{generation_key:015x}{_CHANNELS.index(channel)}"


class Milvus:
    """A server, or for tests a file of Milvus Lite. Connected on first use; safe for threads."""

    def __init__(self, url: str | None, token: str | None, installation: Callable[[], str]) -> None:
        """installation: the database's id: several may share one Milvus."""
        self._url = url
        self._token = token
        self._installation = installation
        self._client: Any = None
        self._lock = threading.Lock()

    def collection(self, name: str) -> str:
        """What a segment's name is called there."""
        generation, channel = int(name[len(PREFIX) : -1], 16), _CHANNELS[int(name[-1])]
        return f"rag_owl_{self._installation()}_{generation}_{channel}"

    def call(self, what: str, name: str, ask: Callable[[Any, str], _Result]) -> _Result:
        """Raises `StorageUnavailable` for whatever Milvus says or does not say."""
        from pymilvus.exceptions import MilvusException

        collection = self.collection(name)
        try:
            return ask(self._connected(), collection)
        except (MilvusException, ConnectionError, TimeoutError) as error:
            reason = " ".join(str(getattr(error, "message", "") or error).split())[:300]
            raise StorageUnavailable(
                f"Milvus at {self._url} cannot {what} {collection}: {reason}"
            ) from error

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                if not self._url:
                    raise InvalidSettings(
                        "setting milvus_url: this collection's vectors are in Milvus; say where "
                        "it is with RAG_OWL_MILVUS_URL"
                    )
                try:
                    from pymilvus import MilvusClient
                except ImportError as error:
                    raise InvalidSettings(
                        "setting milvus_url needs a package: pip install 'rag-owl[milvus]'"
                    ) from error
                self._client = MilvusClient(self._url, token=self._token or "", timeout=_SECONDS)
            return self._client


class MilvusIndex(Segment):
    """One channel of a generation. Use one object from any number of threads."""

    may_hold_more = True  # than the database knows of

    def __init__(self, milvus: Milvus, name: str, manifest: SegmentManifest) -> None:
        self.folder = Path(name)  # its name alone counts
        self.manifest = manifest
        self._milvus = milvus
        self._name = name

    @classmethod
    def opened(cls, milvus: Milvus, name: str) -> MilvusIndex:
        """Raises `CorruptData` where Milvus has no such collection."""

        def look(client: Any, collection: str) -> SegmentManifest | None:
            if not client.has_collection(collection):
                return None
            found = client.describe_collection(collection)
            vector = next(field for field in found["fields"] if field["name"] == "vector")
            index = client.describe_index(collection, "vector") or {}
            kind = str(index.get("index_type", "FLAT")).lower().removesuffix("_flat")
            return _manifest("", int(vector["params"]["dim"]), 0, kind)

        manifest = milvus.call("open", name, look)
        if manifest is None:
            raise CorruptData(
                f"Milvus has no collection {milvus.collection(name)}; run `rag-owl doctor --deep`: "
                "it makes its vectors again from the database"
            )
        return cls(milvus, name, manifest)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> Ids:  # type: ignore[override]
        """All keys, sorted, read anew each time."""

        def read(client: Any, collection: str) -> list[int]:
            # As pymilvus's own iterator pages: a query with a limit gives the smallest keys.
            found: list[int] = []
            while True:
                rows = client.query(
                    collection,
                    filter=f"key > {found[-1] if found else -1}",
                    output_fields=["key"],
                    limit=_MOST_RESULTS,
                    timeout=_SECONDS,
                )
                found += sorted(int(row["key"]) for row in rows)
                if len(rows) < _MOST_RESULTS:
                    return found

        return np.asarray(self._milvus.call("list", self._name, read), np.int64)

    def verify(self) -> None:
        """Milvus keeps its own checksums; that it answers was found out by opening."""

    def search(
        self, queries: Vectors, k: int, *, allowed: Ids | None = None, excluded: Ids | None = None
    ) -> tuple[Ids, Vectors]:
        queries = np.ascontiguousarray(np.atleast_2d(queries), np.float32)
        if queries.shape[1] != self.manifest.dimension:
            raise InvalidInput(
                f"a query of shape {queries.shape} does not fit an index of dimension "
                f"{self.manifest.dimension}; use the embedder that the index was built with"
            )
        if not np.isfinite(queries).all():
            raise InvalidInput("a query vector holds NaN or infinity; check the embedder")
        filters = _filters(allowed, excluded)
        best: list[list[tuple[float, int]]] = [[] for _ in queries]
        for each in filters:
            for at, hits in enumerate(self._ask(queries, k, each)):
                best[at] += hits
        m = min(k, min((len(hits) for hits in best), default=0))
        ids, scores = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
        for at, hits in enumerate(best):
            hits.sort(key=lambda hit: (-hit[0], hit[1]))
            for rank, (score, key) in enumerate(hits[:m]):
                ids[at, rank], scores[at, rank] = key, score
        return ids, scores

    def _ask(self, queries: Vectors, k: int, filter: str) -> list[list[tuple[float, int]]]:
        if k < 1:
            return [[] for _ in queries]
        limit = min(k, _MOST_RESULTS)
        kind = self.manifest.index_type
        parameters = {"ef": max(_HNSW_LEAST_WIDTH, 2 * limit)} if kind == "hnsw" else {}
        parameters |= {"nprobe": _IVF_PROBES} if kind == "ivf" else {}
        found = self._milvus.call(
            "search",
            self._name,
            lambda client, collection: client.search(
                collection,
                data=list(queries),
                filter=filter,
                limit=limit,
                output_fields=["key"],
                search_params={"metric_type": "IP", "params": parameters},
                anns_field="vector",
                timeout=_SECONDS,
            ),
        )
        return [[(float(hit["distance"]), int(hit["key"])) for hit in hits] for hits in found]

    def scores(self, query: Vectors, ids: ArrayLike) -> Vectors:
        keys = np.asarray(ids, np.int64)
        result = np.full(len(keys), np.nan, np.float32)
        place = {int(key): at for at, key in enumerate(keys)}
        for found, vectors in self.vectors(np.unique(keys)):
            for key, score in zip(found.tolist(), vectors @ query, strict=True):
                result[place[key]] = score
        return result

    def vectors(
        self, ids: ArrayLike | None = None, block: int = _ROWS_AT_ONCE
    ) -> Iterator[tuple[Ids, Vectors]]:
        keys = self.ids if ids is None else np.asarray(ids, np.int64)
        for start in range(0, len(keys), min(block, _ROWS_AT_ONCE)):
            part = keys[start : start + min(block, _ROWS_AT_ONCE)].tolist()
            rows = self._milvus.call(
                "read",
                self._name,
                partial(_get, part),
            )
            by_key = {int(row["key"]): row["vector"] for row in rows}
            there = [key for key in part if key in by_key]
            if there:
                read = np.asarray([by_key[key] for key in there], np.float32)
                yield np.asarray(there, np.int64), read


class MilvusStore:
    """Writing, deleting and dropping; `SegmentStore` for the names that begin with `PREFIX`."""

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus

    def open(self, name: str) -> MilvusIndex:
        return MilvusIndex.opened(self._milvus, name)

    def write(
        self, name: str, ids: Ids, vectors: Vectors, *, index_type: str, manifest: Mapping[str, Any]
    ) -> SegmentManifest:
        """Adds to what is there; stored when it returns. Raises as `write_segment` does."""
        ids, vectors = np.asarray(ids, np.int64), np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or ids.shape != (len(vectors),):
            raise InvalidInput(f"{name}: ids {ids.shape} and vectors {vectors.shape} do not fit")
        length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        if not (np.abs(length - 1) < 1e-3).all():  # false for NaN too
            raise InvalidInput(f"{name}: a vector is not finite and of unit length")
        kind = "hnsw" if index_type == "auto" else index_type
        if kind not in INDEX_TYPES:
            raise InvalidInput(f"unknown index type {kind!r}; choose auto, flat, hnsw or ivf")
        self._milvus.call(
            "make", name, lambda client, there: _make(client, there, vectors.shape[1], kind)
        )
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            rows = [
                {"key": key, "vector": vector}
                for key, vector in zip(
                    ids[start : start + _ROWS_AT_ONCE].tolist(),
                    vectors[start : start + _ROWS_AT_ONCE],
                    strict=True,
                )
            ]
            self._milvus.call(
                "write to",
                name,
                partial(_upsert, rows),
            )
        return _manifest(str(manifest.get("embedder", "")), vectors.shape[1], len(ids), kind)

    def delete(self, name: str, keys: Sequence[int]) -> None:
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            part = list(keys[start : start + _KEYS_AT_ONCE])
            self._milvus.call(
                "delete from",
                name,
                partial(_delete, part),
            )

    def count(self, name: str) -> int:
        """Those of batches that were never committed among them."""
        return int(self._milvus.call("count", name, _count))

    def remove(self, name: str) -> None:
        self._milvus.call("drop", name, lambda client, there: client.drop_collection(there))


def _get(keys: Sequence[int], client: Any, collection: str) -> Any:
    return client.get(collection, ids=keys, output_fields=["key", "vector"], timeout=_SECONDS)


def _count(client: Any, collection: str) -> Any:
    (found,) = client.query(collection, filter="", output_fields=["count(*)"], timeout=_SECONDS)
    return found["count(*)"]


def _upsert(rows: Sequence[Mapping[str, Any]], client: Any, collection: str) -> Any:
    return client.upsert(collection, rows, timeout=_SECONDS)


def _delete(keys: Sequence[int], client: Any, collection: str) -> Any:
    return client.delete(collection, ids=keys, timeout=_SECONDS)


def _make(client: Any, collection: str, dimension: int, kind: str) -> None:
    if client.has_collection(collection):
        return
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    parameters: dict[str, Any] = {}
    if kind == "hnsw":
        parameters = {"M": HNSW_LINKS, "efConstruction": _HNSW_BUILD_WIDTH}
    elif kind == "ivf":
        parameters = {"nlist": _IVF_LISTS}
    index = client.prepare_index_params()
    index.add_index(
        "vector",
        index_type={"flat": "FLAT", "hnsw": "HNSW", "ivf": "IVF_FLAT"}[kind],
        metric_type="IP",
        params=parameters,
    )
    # Whoever sees the row that says what is new must find it.
    client.create_collection(
        collection, schema=schema, index_params=index, consistency_level="Strong"
    )


def _filters(allowed: Ids | None, excluded: Ids | None) -> list[str]:
    """Expressions that together hold for just what may be returned, and no two for one key."""
    dead = np.empty(0, np.int64) if excluded is None else np.unique(excluded)
    if allowed is not None:
        keys = np.setdiff1d(allowed, dead)
        return [f"key in {part.tolist()}" for part in _pieces(keys)]
    pieces = _pieces(dead)
    if not pieces:
        return [""]
    found = []
    low: int | None = None
    for at, part in enumerate(pieces):
        high = int(pieces[at + 1][0]) if at + 1 < len(pieces) else None
        bounds = [] if low is None else [f"key >= {low}"]
        bounds += [] if high is None else [f"key < {high}"]
        found.append(" and ".join([*bounds, f"key not in {part.tolist()}"]))
        low = high
    return found


def _pieces(keys: Ids) -> list[Ids]:
    return [keys[at : at + _KEYS_AT_ONCE] for at in range(0, len(keys), _KEYS_AT_ONCE)]


def _manifest(embedder: str, dimension: int, count: int, kind: str) -> SegmentManifest:
    return SegmentManifest(
        format=0,
        embedder=embedder,
        dimension=dimension,
        count=count,
        index_type=kind,
        metric="inner_product",
        parameters={},
        files={},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
