"""Few large segments instead of many small ones; the dead are left out on the way."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from rag_owl import db
from rag_owl.indexer.batch import segment_facts
from rag_owl.indexer.segment import Segment, merge_segments
from rag_owl.store import collections, segments
from rag_owl.store.collections import Generation
from rag_owl.store.segments import SegmentInfo

MOST_SEGMENTS = 16  # of a channel, while a job runs
_READERS_NEED = 60.0  # seconds that a replaced segment's files stay for searches under way


def merge_segments_of(
    engine: Engine, folder: Path, generation: Generation, final: bool = False
) -> None:
    """Merge where it pays; at a job's end (`final`) down to segments of clearly different size.

    The caller is the only one who writes segments of this generation.
    """
    with db.reading(engine) as session:
        active = segments.active(session, generation.key)
    for channel in ("text", "picture"):
        mine = [segment for segment in active if segment.channel == channel]
        if len(mine) > (1 if final else MOST_SEGMENTS):
            _merge(engine, folder, generation, _choose(mine))
    if final:
        _remove_retired(engine, folder)


def _choose(active: Sequence[SegmentInfo]) -> list[SegmentInfo]:
    """From the smallest up, as long as the next is not much larger than what is already chosen.

    So every vector is rewritten a number of times that grows with the logarithm of the size.
    """
    chosen: list[SegmentInfo] = []
    total = 0
    for segment in sorted(active, key=lambda segment: segment.count):
        if chosen and segment.count > 4 * total:
            break
        chosen.append(segment)
        total += segment.count
    return chosen


def _merge(engine: Engine, folder: Path, generation: Generation, chosen: list[SegmentInfo]) -> None:
    channel = chosen[0].channel
    with db.reading(engine) as session:
        dead = segments.tombstones(session, generation.key, channel)
    if len(chosen) < 2 and not dead:
        return
    opened = [Segment.open(folder / segment.id) for segment in chosen]
    excluded = np.asarray(dead, dtype=np.int64)
    dropped = np.concatenate([np.intersect1d(segment.ids, excluded) for segment in opened])
    if len(chosen) < 2 and not len(dropped):
        return
    new = None
    if sum(segment.count for segment in chosen) > len(dropped):
        name = uuid.uuid4().hex
        manifest = merge_segments(
            folder / name,
            opened,
            excluded,
            index_type=generation.index_type,
            manifest=segment_facts(generation, channel),
        )
        new = SegmentInfo(name, channel, manifest.index_type, manifest.count)
    with db.writing(engine) as session:
        segments.replace(session, generation.key, chosen, new, dropped.tolist())
        collections.touch_generation(session, generation.key)


def _remove_retired(engine: Engine, folder: Path) -> None:
    with db.reading(engine) as session:
        ids = segments.retired(session, time.time() - _READERS_NEED)
    for name in ids:
        shutil.rmtree(folder / name, ignore_errors=True)
    with db.writing(engine) as session:
        segments.forget(session, ids)


def remove_orphans(engine: Engine, folder: Path) -> None:
    """Delete what a killed process left behind; the caller holds the data folder's lock."""
    with db.reading(engine) as session:
        known = segments.known(session)
    if folder.is_dir():
        for each in folder.iterdir():
            if each.name not in known:
                shutil.rmtree(each, ignore_errors=True)
