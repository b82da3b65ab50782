"""Few large segments instead of many small ones; the dead are left out on the way."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from rag_owl import db, holds
from rag_owl.errors import Conflict, CorruptData, JobLost
from rag_owl.indexer.batch import segment_facts
from rag_owl.indexer.segment_files import HNSW_FROM, IVF_FROM
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.store import collections, generations, segments
from rag_owl.store.collections import Generation
from rag_owl.store.segments import SegmentInfo

log = logging.getLogger(__name__)

MOST_SEGMENTS = 16  # of a channel that may still be merged, while a job runs
MOST_BYTES = 512 * 2**20  # of vectors: a segment is built in memory, and fetched as a whole
_STEP = 8  # while a job runs, segments are of a size when none has so many times another's rows
_ORPHANS_AFTER = 24 * 3_600.0  # seconds: another machine may be about to activate it
_TIMES = 20  # to write a segment anew before somebody else does
_READERS_NEED = 60.0  # seconds that a replaced segment's files stay for searches under way


def merge_segments_of(
    engine: Engine, store: SegmentStore, generation: Generation, final: bool = False
) -> None:
    """Merge where it pays; at a job's end (`final`) down to segments of clearly different size.

    The caller is the only one who writes segments of this generation. A damaged segment is left
    alone and said so: it must not keep new documents from being found.
    """
    merged = final
    for channel in ("text", "picture"):
        if generation.vector_engine == "milvus":
            if final:
                try:
                    _delete_dead(engine, store, generation, channel)
                except Conflict as error:
                    log.info("dead %s vectors were not deleted: %s", channel, error)
            continue
        with db.reading(engine) as session:
            active = segments.active(session, generation.key)
        mine = [segment for segment in active if segment.channel == channel]
        most = _most_rows(generation, channel)
        if final:
            chosen = _choose(mine, most)
        elif len(unfinished := [each for each in mine if 2 * each.count <= most]) > MOST_SEGMENTS:
            chosen = _choose_quickly(unfinished, most)
        else:
            continue
        index_type = _index_type(generation, chosen, sum(each.count for each in mine), final)
        try:
            _merge(engine, store, generation, chosen, index_type)
            merged = True
        except CorruptData as error:
            log.error("%s segments were not merged: %s", channel, error)
        except Conflict as error:
            log.info("%s segments were not merged: %s", channel, error)
    if merged:  # not at a job's end alone: what a long one merges would fill the disk
        remove_retired(engine, store)


def _choose(active: Sequence[SegmentInfo], most: float = math.inf) -> list[SegmentInfo]:
    """The largest group of which none is much larger than all the smaller ones of it together.

    So every vector is rewritten a number of times that grows with the logarithm of the size.
    most: rows of what comes out; a segment with more than half of them stays as it is.
    """
    groups: list[list[SegmentInfo]] = []
    for segment in sorted(active, key=lambda segment: segment.count):
        if 2 * segment.count > most:
            break
        smaller = sum(other.count for other in groups[-1]) if groups else 0
        if groups and segment.count <= min(4 * smaller, most - smaller):
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return max(groups, key=len, default=[])


def _choose_quickly(active: Sequence[SegmentInfo], most: float) -> list[SegmentInfo]:
    """Those of the commonest size: a job that goes on must not write the same vectors again and
    again, and may leave more segments than it would at its end."""
    sizes: dict[int, list[SegmentInfo]] = {}
    for segment in sorted(active, key=lambda segment: segment.count):
        group = sizes.setdefault(int(math.log(max(segment.count, 1), _STEP)), [])
        if sum(other.count for other in group) + segment.count <= most:
            group.append(segment)
    chosen = max(sizes.values(), key=len, default=[])
    if len(chosen) < 2:  # all of clearly different size
        chosen = sorted(active, key=lambda segment: segment.count)[:2]
    return chosen


def _most_rows(generation: Generation, channel: str) -> int:
    text = channel == "text"
    dimension = generation.text_dimension if text else generation.picture_dimension
    return max(1, MOST_BYTES // (4 * max(1, dimension)))


def _index_type(
    generation: Generation, chosen: Sequence[SegmentInfo], rows: int, final: bool
) -> str:
    """Where it is ours to choose, lists where a graph would cost too much: what a running job
    merges is soon merged again, and many rows in segments of `MOST_BYTES` are still many rows."""
    small = sum(segment.count for segment in chosen) < HNSW_FROM
    if generation.index_type != "auto" or small or (final and rows < IVF_FROM):
        return generation.index_type
    return "ivf"


def _merge(
    engine: Engine,
    store: SegmentStore,
    generation: Generation,
    chosen: list[SegmentInfo],
    index_type: str,
) -> None:
    if not chosen:
        return
    channel = chosen[0].channel
    with db.reading(engine) as session:
        # Not those of a revision that is still growing: it will be searched when it is complete.
        dead = segments.tombstones(session, generation.key, channel, for_good=True)
    if len(chosen) < 2 and not dead:
        return
    opened = [store.open(segment.id) for segment in chosen]
    excluded = np.asarray(dead, dtype=np.int64)
    dropped = np.concatenate([np.intersect1d(segment.ids, excluded) for segment in opened])
    if len(chosen) < 2 and not len(dropped):
        return
    new = None
    if sum(segment.count for segment in chosen) > len(dropped):
        name = uuid.uuid4().hex
        manifest = store.merge(
            name,
            opened,
            excluded,
            index_type=index_type,
            manifest=segment_facts(generation, channel),
        )
        new = SegmentInfo(name, channel, manifest.index_type, manifest.count)
    try:
        with db.writing(engine) as session:
            state = _hold(session, generation)
            segments.replace(session, generation.key, chosen, new, dropped.tolist())
            if state == "live":
                collections.touch_generation(session, generation.key)
    except Conflict:
        if new is not None:  # which nobody will ever know of
            store.remove(new.id)
        raise


def _hold(session: Session, generation: Generation) -> generations.State:
    """Its state, which nobody changes before the transaction ends. Raises `Conflict`.

    Of one that is retired nothing may become active: whoever retired it has let go of what was.
    """
    state = generations.hold(session, generation.key)
    if state is None or state == "retired":
        raise Conflict("the generation was dropped meanwhile")
    return state


def _delete_dead(engine: Engine, store: SegmentStore, generation: Generation, channel: str) -> None:
    """What stands for a merge where vectors can be deleted: first there, then their tombstones."""
    with db.reading(engine) as session:
        dead = segments.tombstones(session, generation.key, channel, for_good=True)
        active = segments.active(session, generation.key)
    mine = [segment for segment in active if segment.channel == channel]
    if not dead or not mine:
        return
    for segment in mine:
        store.delete(segment.id, dead)
    with db.writing(engine) as session:
        state = _hold(session, generation)
        segments.clear_tombstones(session, generation.key, channel, dead)
        for segment in mine:  # counted there: what was never in it was among the dead as well
            segments.set_count(session, segment.id, store.count(segment.id))
        if state == "live":
            collections.touch_generation(session, generation.key)


def drop_dead(engine: Engine, store: SegmentStore, collection_key: int) -> None:
    """Write every segment of the collection anew that holds vectors of what was deleted.

    In every generation that has vectors. Raises `CorruptData` for a damaged segment.
    """
    with db.reading(engine) as session:
        found = generations.of_state(session, collection_key, "building", "ready", "live", "kept")
    for generation in found:
        for attempt in range(_TIMES):
            try:
                _drop_dead(engine, store, generation)
                break
            except Conflict as error:  # an ingest merged what we were about to
                if isinstance(error, JobLost) or attempt == _TIMES - 1:
                    raise


def _drop_dead(engine: Engine, store: SegmentStore, generation: Generation) -> None:
    if generation.vector_engine == "milvus":
        for channel in ("text", "picture"):
            _delete_dead(engine, store, generation, channel)
        return
    with db.reading(engine) as session:
        active = segments.active(session, generation.key)
    for segment in active:
        _merge(engine, store, generation, [segment], segment.index_type)


def remove_retired(engine: Engine, store: SegmentStore) -> None:
    """Delete the files of segments that were replaced long enough ago; not during a backup."""
    with holds.removing_files(engine) as may:
        if may:
            _remove_retired(engine, store, time.time() - _READERS_NEED)


def remove_retired_now(engine: Engine, store: SegmentStore) -> None:
    """As `remove_retired`, at once: who reads them looks again. The caller holds the files."""
    _remove_retired(engine, store, math.inf)


def _remove_retired(engine: Engine, store: SegmentStore, before: float) -> None:
    with db.reading(engine) as session:
        ids = segments.retired(session, before)
    for name in ids:
        store.remove(name)
    if ids:
        with db.writing(engine) as session:
            segments.forget(session, ids)


def remove_orphans(engine: Engine, store: SegmentStore) -> int:
    """Delete what killed processes left behind; how many. The caller holds the folder's lock."""
    removed = 0
    with db.reading(engine) as session:
        known = segments.known(session)
    for name in store.names(0.0 if store.is_ours_alone else _ORPHANS_AFTER):
        if name not in known:
            store.remove(name)
            removed += 1
    return removed
