"""Finding what bears on a question: three searches over the live generation, fused by rank."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from rag_owl import db, media
from rag_owl.errors import CorruptData, InvalidCheckpoint, ModelNotFound
from rag_owl.indexer.gpu import GpuSearcher
from rag_owl.indexer.segment import Segment, search_segments
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.media import Limits
from rag_owl.ports import BlobStore, PictureEmbedder, TextEmbedder
from rag_owl.steps import step
from rag_owl.store import collections, filters, generations, items, segments, words
from rag_owl.store.collections import Collection, Generation
from rag_owl.types import Channel, Question, Retrieved

log = logging.getLogger(__name__)

Keys = NDArray[np.int64]
T = TypeVar("T")

RANK_CONSTANT = 60  # Cormack et al. 2009, "Reciprocal Rank Fusion", §2
# A question with a picture ("What is the capital of this country?") is first of all about what the
# picture shows: its words alone fit any country. With 20, what looks most alike stays ahead of what
# comes tenth, however well the words fit that one: 20 / 61 - 20 / 70 > 2 / 61.
PICTURE_WEIGHT = 20.0
# Words find a picture less surely than a text: one that the words fit first does not pass a text
# that both the other searches put first.
PICTURE_BY_TEXT_WEIGHT = 0.9
_FILTERS_KEPT = 32
_COUNTS_HOLD = 60.0  # seconds
_GONE_HOLDS = 60.0  # seconds; asking a hub that cannot be reached takes several each time


class _EmbedderGone(ModelNotFound):
    """Says no more than strangers may read: no folder, no file.

    name: as generations have it, with its revision. damaged: it is here, its files are not whole.
    """

    def __init__(self, name: str, damaged: bool) -> None:
        plain = Path(name.rpartition("@")[0] or name).name
        super().__init__(
            f"the files of the model {plain} are damaged"
            if damaged
            else f"{plain}, as it made the vectors, is not here"
        )
        self.damaged = damaged


@dataclass(frozen=True, slots=True)
class Embedders:
    text: TextEmbedder
    picture: PictureEmbedder


class Library(Protocol):
    """Embedders by the names that generations have; both raise `ModelError`."""

    def text_embedder(self, name: str) -> TextEmbedder: ...
    def picture_embedder(self, name: str) -> PictureEmbedder: ...


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


@dataclass(frozen=True, slots=True)
class _Ranking:
    channel: Channel
    hits: Mapping[int, float]  # item key to similarity, best first


@dataclass(frozen=True, slots=True)
class _Queries:
    """A question as each channel searches for it."""

    text: str
    by_text: NDArray[np.float32] | None
    by_picture: Sequence[NDArray[np.float32]]
    text_floor: float  # for pictures that are searched by text
    wanted: Sequence[Channel]

    @property
    def any(self) -> bool:
        """Whether there is a way of looking at all."""
        by_text = self.by_text is not None and "text" in self.wanted
        return by_text or bool(self.text and "words" in self.wanted) or bool(self.by_picture)


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
        self._blobs = blobs
        self._library = library
        self._gone: dict[tuple[Channel, str], tuple[float, bool]] = {}
        self._limits = limits
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
        queries = self._queries(collection.name, view.generation, question, on_note)
        with db.reading(self._engine) as session:
            allowed = self._allowed(session, collection, view, question)
            with step("search"):
                found = self._search(session, collection, view, question, queries, allowed)
            fused = _fuse(found, bool(question.pictures))
            best = _with_leaders(list(fused), found, question)
            loaded = items.load(session, best[: question.k])
            if len(loaded) < question.k:  # some are gone since the segments' dead were read
                loaded |= items.load(session, best[question.k : 2 * question.k + 20])
        return [
            Retrieved(loaded[key], fused[key], _found_by(found, key))
            for key in [key for key in best if key in loaded][: question.k]
        ]

    def _queries(
        self,
        name: str,
        generation: Generation,
        question: Question,
        on_note: Callable[[str], None],
    ) -> _Queries:
        """What cannot be searched by because its embedder is gone is left out, with a note."""
        text = question.text.strip()
        wanted = question.channels or ("text", "words", "picture")
        by_text: NDArray[np.float32] | None = None
        by_picture: Sequence[NDArray[np.float32]] = ()
        floor = -1.0
        gone: dict[Channel, _EmbedderGone] = {}
        with step("embed"):
            if text and wanted != ("words",):
                try:
                    by_text = self._embed_text(generation, text)
                except _EmbedderGone as error:
                    gone["text"] = error
            if "picture" in wanted:
                try:
                    by_picture, floor = self._embed_pictures(generation, question, text)
                except _EmbedderGone as error:
                    gone["picture"] = error
        found = _Queries(text, by_text, by_picture, floor, wanted)
        for channel, cause in gone.items():
            what = "Pictures were" if channel == "picture" else "Meanings were"
            again = f"`rag-owl reindex {name} --{channel}-embedder NAME` makes its vectors anew"
            if cause.damaged:  # other vectors are no remedy for that
                again = "its operator finds in the log which, and how to mend it"
            if (channel == "picture" and question.pictures) or not found.any:
                raise ModelNotFound(f"{name} cannot be searched so: {cause}; {again}") from cause
            if channel in wanted:
                on_note(f"{what} not searched: {cause}; {again}.")
        return found

    def _embed_text(self, generation: Generation, text: str) -> NDArray[np.float32]:
        name = generation.text_embedder
        load = self._library.text_embedder
        return self._unless_gone("text", name, lambda: load(name).embed_query(text))

    def _embed_pictures(
        self, generation: Generation, question: Question, text: str
    ) -> tuple[Sequence[NDArray[np.float32]], float]:
        """What to search pictures by, and the least that counts where that is text."""
        name = generation.picture_embedder

        def embed() -> tuple[Sequence[NDArray[np.float32]], float]:
            embedder = self._library.picture_embedder(name)
            return self._picture_queries(embedder, question, text), embedder.text_floor

        return self._unless_gone("picture", name, embed)

    def _unless_gone(self, channel: Channel, name: str, embed: Callable[[], T]) -> T:
        """Raises `_EmbedderGone`, at once where the embedder could not be used a moment ago."""
        since, damaged = self._gone.get((channel, name), (-math.inf, False))
        if time.monotonic() - since < _GONE_HOLDS:
            raise _EmbedderGone(name, damaged)
        try:
            return embed()
        except (ModelNotFound, InvalidCheckpoint) as error:
            # The cause may name files and folders of this machine: it is the operator's alone.
            log.error("the %s embedder %s cannot be used: %s", channel, name, error)
            damaged = isinstance(error, InvalidCheckpoint)
            self._gone[channel, name] = (time.monotonic(), damaged)
            raise _EmbedderGone(name, damaged) from error

    def _search(
        self,
        session: Session,
        collection: Collection,
        view: _View,
        question: Question,
        queries: _Queries,
        allowed: _Allowed | None,
    ) -> list[_Ranking]:
        """One ranking for each way of looking."""
        depth = max(50, 2 * question.k)
        found: list[_Ranking] = []
        if queries.by_text is not None and "text" in queries.wanted:
            hits = view.nearest(session, "text", queries.by_text, depth, allowed)
            found.append(_Ranking("text", hits))
        if queries.text and "words" in queries.wanted:
            only = None if allowed is None else allowed.members
            ranked = words.search(
                session, collection.key, queries.text, depth, only, self._counts(collection.key)
            )
            found.append(_Ranking("words", dict(ranked)))
        for vector in queries.by_picture:
            hits = view.nearest(session, "picture", vector, depth, allowed)
            if not question.pictures:
                hits = {key: s for key, s in hits.items() if s >= queries.text_floor}
            if queries.by_text is not None:
                hits = _best_siblings(session, view, hits, queries.by_text)
            found.append(_Ranking("picture", hits))
        return found

    def _counts(self, collection_key: int) -> dict[str, int]:
        """How common terms are: counting the commonest costs more than searching the rare ones."""
        made, counts = self._term_counts.get(collection_key, (-math.inf, {}))
        if time.monotonic() - made > _COUNTS_HOLD:
            counts = {}
            self._term_counts[collection_key] = (time.monotonic(), counts)
        return counts

    def _picture_queries(
        self, embedder: PictureEmbedder, question: Question, text: str
    ) -> list[NDArray[np.float32]]:
        if question.pictures:
            pictures = [
                media.decode_picture(self._blobs.get(key), self._limits)
                for key in question.pictures
            ]
            return list(embedder.embed_pictures(pictures))
        if text and embedder.reads_text:
            return [embedder.embed_query(text)]
        return []

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


def _weight(ranking: _Ranking, with_pictures: bool) -> float:
    if ranking.channel != "picture":
        return 1.0
    return PICTURE_WEIGHT if with_pictures else PICTURE_BY_TEXT_WEIGHT


def _fuse(found: Sequence[_Ranking], with_pictures: bool) -> dict[int, float]:
    """Score by item key, by weighted reciprocal-rank fusion, best first; of equals the oldest."""
    scores: dict[int, float] = {}
    for ranking in found:
        weight = _weight(ranking, with_pictures)
        for rank, key in enumerate(ranking.hits, 1):
            scores[key] = scores.get(key, 0.0) + weight / (RANK_CONSTANT + rank)
    return dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0])))


def _with_leaders(best: list[int], found: Sequence[_Ranking], question: Question) -> list[int]:
    """Of a question in words, the first of a search is among the `question.k` best.

    Else a part number that one item alone has may be outvoted by items that look alike: they are
    found in the middle of both rankings, and it is first in one of them. Of four items one may be
    such a leader (of three none: the third of all is worth more), that by words before others.
    """
    if question.pictures:
        return best
    by_words_first = sorted(found, key=lambda ranking: ranking.channel != "words")
    firsts = [next(iter(ranking.hits)) for ranking in by_words_first if ranking.hits]
    leaders = list(dict.fromkeys(firsts))[: question.k // 4]
    others = [key for key in best if key not in leaders][: question.k - len(leaders)]
    shown = {*leaders, *others}
    return [key for key in best if key in shown] + [key for key in best if key not in shown]


def _found_by(found: Sequence[_Ranking], key: int) -> dict[Channel, float]:
    similarities: dict[Channel, float] = {}
    for ranking in found:
        if key in ranking.hits:
            best = max(similarities.get(ranking.channel, -np.inf), ranking.hits[key])
            similarities[ranking.channel] = float(best)
    return similarities
