"""Making damaged segments again: the database has all that their vectors are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from rag_owl import db, media
from rag_owl.errors import CorruptData
from rag_owl.indexer.batch import text_of, write_vectors
from rag_owl.indexer.queries import Embedders
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.media import Limits
from rag_owl.ports import BlobStore
from rag_owl.store import collections, items, segments
from rag_owl.store.collections import Generation
from rag_owl.store.segments import SegmentInfo

_AT_ONCE = 1_000


def rebuild_damaged(
    engine: Engine,
    store: SegmentStore,
    blobs: BlobStore,
    limits: Limits,
    embedders: Callable[[Generation], Embedders],
    collection_key: int,
) -> int:
    """Verify a collection's live segments and replace those that are damaged; how many were.

    The caller holds the data folder's lock. Raises `NotFound` or `CorruptData` when a picture that
    is needed is gone too.
    """
    with db.reading(engine) as session:
        generation = collections.live_generation(session, collection_key)
        active = segments.active(session, generation.key) if generation else []
    if generation is None:
        return 0
    rebuilt = 0
    for channel in ("text", "picture"):
        mine = [info for info in active if info.channel == channel]
        present, damaged = _sort_out(store, mine)
        if not damaged:
            continue
        with db.reading(engine) as session:
            wanted = items.with_vector(session, collection_key, generation.splitter, channel)
        lacking = sorted(set(wanted) - present)
        keys: list[int] = []
        vectors: list[NDArray[np.float32]] = []
        for item_keys, embedded in _embed(
            engine, blobs, limits, embedders(generation), channel, lacking
        ):
            keys += item_keys
            vectors += list(embedded)
        new = write_vectors(store, generation, channel, keys, vectors) if keys else None
        with db.writing(engine) as session:
            segments.replace(session, generation.key, damaged, new, [])
            collections.touch(session, collection_key)
        rebuilt += len(damaged)
    return rebuilt


def _sort_out(store: SegmentStore, infos: list[SegmentInfo]) -> tuple[set[int], list[SegmentInfo]]:
    """(item keys of the sound segments, the damaged ones)."""
    present: set[int] = set()
    damaged = []
    for info in infos:
        try:
            segment = store.verify(info.id)
        except CorruptData:
            damaged.append(info)
        else:
            present.update(segment.ids.tolist())
    return present, damaged


def _embed(
    engine: Engine,
    blobs: BlobStore,
    limits: Limits,
    embedders: Embedders,
    channel: str,
    keys: list[int],
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    for at in range(0, len(keys), _AT_ONCE):
        with db.reading(engine) as session:
            found = items.load_any(session, keys[at : at + _AT_ONCE])
        if channel == "text":
            yield list(found), embedders.text.embed_texts([text_of(i) for i in found.values()])
            continue
        for key, item in found.items():  # one decoded picture in memory at a time
            picture = media.decode_picture(blobs.get(item.picture or ""), limits)
            yield [key], embedders.picture.embed_pictures([picture])
