"""Finding what bears on a question: three searches over the live generation, fused by rank."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from rag_owl import db
from rag_owl.errors import CorruptData, ModelNotFound
from rag_owl.indexer.fusion import Ranking, found_by, fuse, with_leaders
from rag_owl.indexer.gpu import GpuSearcher
from rag_owl.indexer.queries import Library, Queries, QueryEmbedder
from rag_owl.indexer.segment import Segment, search_segments
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.media import Limits
from rag_owl.ports import BlobStore
from rag_owl.steps import step
from rag_owl.store import collections, filters, generations, items, segments, words
from rag_owl.store.collections import Collection, Generation
from rag_owl.types import Question, Retrieved

log = logging.getLogger(__name__)

Keys = NDArray[np.int64]

_FILTERS_KEPT = 32
_COUNTS_HOLD = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class _Allowed:
    """The items that a filter leaves."""

    keys: Keys  # sorted
    members: frozenset[int]


@dataclass(frozen=True, slots=True)
class _View:
    """What one version of a collection consists of."""

    version: int
    generation: Generation
    segments: Mapping[str, Sequence[Segment]]
    dead: Mapping[str, Keys]
    filtered: dict[str, _Allowed] = field(default_factory=dict)  # allowed keys by filter

    def nearest(
        self,
        session: Session,
        channel: str,
        query: NDArray[np.float32],
        k: int,
        allowed: _Allowed | None,
    ) -> dict[int, float]:
        """Cosine by item key, best first."""
        excluded = self.dead[channel]
        while True:
            keys, scores = search_segments(
                self.segments[channel],
                query,
                k,
                allowed=None if allowed is None else allowed.keys,
                excluded=excluded,
            )
            found = dict(zip(keys.tolist(), scores.tolist(), strict=True))
            if not any(segment.may_hold_more for segment in self.segments[channel]):
                return found
            known = items.having_vector(session, list(found), self.generation.splitter, channel)
            if len(known) == len(found):
                return found
            excluded = np.union1d(excluded, sorted(set(found) - known))


class HybridRetriever:
    """Implements `rag_owl.ports.Retriever`. Safe for many threads.

    store: where segments lie, named by their ids.
    library: the embedders; asked at every query, so it should remember them.
    gpu: what searches segments on a GPU, or None where there is none.
    """

    def __init__(
        self,
        engine: Engine,
        store: SegmentStore,
        blobs: BlobStore,
        library: Library,
        limits: Limits,
        gpu: Callable[[], GpuSearcher | None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._library = library
        self._query_embedder = QueryEmbedder(library, blobs, limits)
        self._gpu = gpu
        self._views: dict[int, _View] = {}
        self._term_counts: dict[int, tuple[float, dict[str, int]]] = {}
        self._lock = threading.Lock()  # for opening segments, not for searching them
        self._expected: set[int] = set()

    def retrieve(
        self, question: Question, on_note: Callable[[str], None] = log.warning
    ) -> list[Retrieved]:
        """The `question.k` best items, best first; fewer where fewer exist.

        on_note: told in a sentence of each search that was left out because its embedder is gone.
        Raises `NotFound` for an unknown collection, `InvalidFilter`, `InvalidQuestion` for a
        picture that cannot be read, `ModelNotFound` where an embedder is gone and the question
        holds pictures, or no other search is left.
        """
        notes: list[str] = []
        try:
            found = self._retrieve(question, notes.append)
        except CorruptData:
            # A merge may have replaced a segment between our reading its row and opening its file.
            self._views.clear()
            notes.clear()
            found = self._retrieve(question, notes.append)
        for note in notes:
            on_note(note)
        return found

    def pinned(self, name: str, generation: Generation) -> Callable[[Question], list[Retrieved]]:
        """As `retrieve`, of one collection, from a generation that need not be live, as it is now.

        Both its embedders must be there. Raises `NotFound`, `CorruptData`.
        """

        def refuse(note: str) -> None:
            raise ModelNotFound(note)

        with db.reading(self._engine) as session:
            collection = collections.get(session, name)
            view = self._open_view(session, collection, generation, None)
        return lambda question: self._retrieve_from(question, collection, view, refuse)

    def _retrieve(self, question: Question, on_note: Callable[[str], None]) -> list[Retrieved]:
        with db.reading(self._engine) as session:
            collection = collections.get(session, question.collection)
            view = self._view(session, collection)
        if view is None:
            return []
        return self._retrieve_from(question, collection, view, on_note)

    def _retrieve_from(
        self,
        question: Question,
        collection: Collection,
        view: _View,
        on_note: Callable[[str], None],
    ) -> list[Retrieved]:
        # Models run, and may have to be loaded first, while no transaction is open.
        queries = self._query_embedder.queries(collection.name, view.generation, question, on_note)
        with db.reading(self._engine) as session:
            allowed = self._allowed(session, collection, view, question)
            with step("search"):
                found = self._search(session, collection, view, question, queries, allowed)
            fused = fuse(found, bool(question.pictures))
            best = with_leaders(list(fused), found, question)
            loaded = items.load(session, best[: question.k])
            if len(loaded) < question.k:  # some are gone since the segments' dead were read
                loaded |= items.load(session, best[question.k : 2 * question.k + 20])
        return [
            Retrieved(loaded[key], fused[key], found_by(found, key))
            for key in [key for key in best if key in loaded][: question.k]
        ]

    def _search(
        self,
        session: Session,
        collection: Collection,
        view: _View,
        question: Question,
        queries: Queries,
        allowed: _Allowed | None,
    ) -> list[Ranking]:
        """One ranking for each way of looking."""
        depth = max(50, 2 * question.k)
        found: list[Ranking] = []
        if queries.by_text is not None and "text" in queries.wanted:
            hits = view.nearest(session, "text", queries.by_text, depth, allowed)
            found.append(Ranking("text", hits))
        if queries.text and "words" in queries.wanted:
            only = None if allowed is None else allowed.members
            ranked = words.search(
                session, collection.key, queries.text, depth, only, self._counts(collection.key)
            )
            found.append(Ranking("words", dict(ranked)))
        for vector in queries.by_picture:
            hits = view.nearest(session, "picture", vector, depth, allowed)
            if not question.pictures:
                hits = {key: s for key, s in hits.items() if s >= queries.text_floor}
            if queries.by_text is not None:
                hits = _best_siblings(session, view, hits, queries.by_text)
            found.append(Ranking("picture", hits))
        return found

    def _counts(self, collection_key: int) -> dict[str, int]:
        """How common terms are: counting the commonest costs more than searching the rare ones."""
        made, counts = self._term_counts.get(collection_key, (-math.inf, {}))
        if time.monotonic() - made > _COUNTS_HOLD:
            counts = {}
            self._term_counts[collection_key] = (time.monotonic(), counts)
        return counts

    def _allowed(
        self, session: Session, collection: Collection, view: _View, question: Question
    ) -> _Allowed | None:
        if question.filters is None or question.filters == {}:
            return None
        filters.check(question.filters)  # before it is written down: it may be anything
        name = json.dumps(question.filters, sort_keys=True, default=str)
        if name not in view.filtered:
            keys = filters.item_keys(
                session, collection.key, view.generation.splitter, question.filters
            )
            if len(view.filtered) >= _FILTERS_KEPT:
                view.filtered.clear()
            view.filtered[name] = _Allowed(np.asarray(keys, dtype=np.int64), frozenset(keys))
        return view.filtered[name]

    def refresh(self) -> None:
        """Open what is new in collections that were asked before: no question waits for it then."""
        with db.reading(self._engine) as session:
            for collection in collections.of_keys(session, list(self._views)):
                self._view(session, collection)

    def _view(self, session: Session, collection: Collection) -> _View | None:
        """The collection as this transaction sees it; None before anything was ingested."""
        view = self._views.get(collection.key)
        if view is not None and view.version == collection.version:
            return view
        with self._lock:
            generation = collections.live_generation(session, collection.key)
            if generation is None:
                return None
            view = self._open_view(session, collection, generation, view)
            self._views[collection.key] = view
            if coming := generations.of_state(session, collection.key, "ready"):
                self._expect(coming[0])
            return view

    def _open_view(
        self,
        session: Session,
        collection: Collection,
        generation: Generation,
        before: _View | None,
    ) -> _View:
        """`before`: what may have some of the segments open already."""
        known = {s.folder.name: s for v in (before.segments if before else {}).values() for s in v}
        active: dict[str, list[Segment]] = {"text": [], "picture": []}
        for info in segments.active(session, generation.key):
            opened = known.get(info.id) or self._store.open(info.id, self._gpu())
            active[info.channel].append(opened)
        dead = {
            channel: np.asarray(
                segments.tombstones(session, generation.key, channel), dtype=np.int64
            )
            for channel in active
        }
        return _View(collection.version, generation, active, dead)

    def _expect(self, coming: Generation) -> None:
        """Load the models of what will soon be live now: the first question then finds them."""
        if coming.key in self._expected:
            return
        self._expected.add(coming.key)

        def load() -> None:
            try:
                self._library.text_embedder(coming.text_embedder).embed_query("ready")
                self._library.picture_embedder(coming.picture_embedder)
            except Exception as error:  # the question that needs it will say so
                log.warning("models of a coming generation cannot be loaded: %s", error)

        threading.Thread(target=load, name="rag-owl-expecting", daemon=True).start()


def _best_siblings(
    session: Session, view: _View, hits: Mapping[int, float], text_query: NDArray[np.float32]
) -> dict[int, float]:
    """A picture stands for all passages of its document: put the one that fits the words first."""
    together = items.siblings(session, list(hits))
    keys = np.asarray(
        [key for group in together.values() if len(group) > 1 for key in group], dtype=np.int64
    )
    scores = np.full(len(keys), -np.inf, dtype=np.float32)
    for segment in view.segments["text"]:
        scores = np.fmax(scores, segment.scores(text_query, keys))
    fit = dict(zip(keys.tolist(), scores.tolist(), strict=True))
    chosen: dict[int, float] = {}
    for key, similarity in hits.items():
        group = together.get(key, [key])
        chosen.setdefault(max(group, key=lambda other: fit.get(other, 0.0)), similarity)
    return chosen
