"""Giving a generation the vectors it lacks, beside the one that is searched.

What it lacks is what the database says it should hold, less what its segments hold: exact after any
interruption, whatever was added, deleted or damaged meanwhile. Vectors that the live generation
already has from the same embedder are copied, the others computed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from rag_owl import db, media
from rag_owl.errors import CorruptData, NotFound, UnreadableMedia
from rag_owl.indexer.batch import text_of, write_vectors
from rag_owl.indexer.queries import Embedders
from rag_owl.indexer.segment import Segment
from rag_owl.indexer.workshop import Workshop
from rag_owl.store import claims, collections, generations, items, segments
from rag_owl.store.claims import Claim
from rag_owl.store.collections import Generation
from rag_owl.types import Item, Skipped

log = logging.getLogger(__name__)

Keys = NDArray[np.int64]
Vectors = NDArray[np.float32]

CHANNELS = ("text", "picture")
# A killed process loses one batch at most, and whoever waits for us to stop waits for one.
_FIRST_BATCH, _LARGEST_BATCH = 32, 1_024  # items
_BATCH_SECONDS = 4.0
_PICTURES_AT_ONCE = 32  # decoded pictures in memory
_COPIED_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class Lack:
    """What a generation lacks, as of one version of its collection."""

    version: int
    keys: Mapping[str, Keys]  # by channel, ascending
    held: Mapping[str, Keys]
    total: int  # vectors that it should hold, both channels together

    @property
    def count(self) -> int:
        return sum(len(keys) for keys in self.keys.values())


@dataclass(slots=True)
class GivenUp:
    """What one run could not embed: it is not tried again before the next."""

    keys: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in CHANNELS})
    skipped: list[Skipped] = field(default_factory=list)  # not yet said


def lack_of(shop: Workshop, collection_key: int, generation: Generation, given_up: GivenUp) -> Lack:
    """One consistent view. A damaged segment of it is given up: it is made again."""
    while True:
        with db.reading(shop.engine) as session:
            version = collections.version(session, collection_key)
            active = segments.active(session, generation.key)
            wanted = {
                channel: np.sort(
                    np.fromiter(
                        items.with_vector(session, collection_key, generation.splitter, channel),
                        np.int64,
                    )
                )
                for channel in CHANNELS
            }
        held: dict[str, list[Keys]] = {channel: [] for channel in CHANNELS}
        damaged = []
        for info in active:
            try:
                held[info.channel].append(shop.segments.open(info.id).ids)
            except CorruptData as error:
                log.error("segment %s is made again: %s", info.id, error)
                damaged.append(info.id)
        if not damaged:
            break
        with db.writing(shop.engine) as session:
            segments.drop(session, damaged)
    has = {channel: np.sort(np.concatenate([*ids, _NONE])) for channel, ids in held.items()}
    lacking = {}
    for channel in CHANNELS:
        skipped = np.fromiter(given_up.keys[channel], np.int64)
        keys = np.setdiff1d(wanted[channel], has[channel], assume_unique=True)
        lacking[channel] = np.setdiff1d(keys, skipped, assume_unique=True)
    return Lack(version, lacking, has, sum(len(keys) for keys in wanted.values()))


_NONE = np.empty(0, np.int64)


def fill(
    shop: Workshop,
    claim: Claim,
    generation: Generation,
    source: Generation | None,
    embedders: Embedders,
    lack: Lack,
    given_up: GivenUp,
    after_batch: Callable[[int], bool],
) -> bool:
    """Give the generation what it lacks; False when the job is to stop.

    source: a generation whose vectors may be copied, where an embedder is the same. after_batch:
    called outside of transactions with the number of vectors that were added; False stops.
    """
    for channel in CHANNELS:
        copied = _copyable(shop, source, generation, channel)
        for keys, vectors in _vectors(
            shop, copied, embedders, channel, lack.keys[channel], given_up
        ):
            if not _add(shop, claim, generation, channel, keys, vectors):
                return False
            if not after_batch(len(keys)):
                return False
    return True


def _add(
    shop: Workshop,
    claim: Claim,
    generation: Generation,
    channel: str,
    keys: Keys,
    vectors: Vectors,
) -> bool:
    while len(keys):
        info = write_vectors(shop.segments, generation, channel, keys.tolist(), list(vectors))
        with db.writing(shop.engine) as session:
            # First of all the fence: whoever lost the job must not activate anything.
            stop = claims.advance(session, claim)
            generations.lock(session, claim.collection_key)
            here = np.asarray(segments.still_there(session, keys.tolist()), np.int64)
            if len(here) == len(keys):
                segments.activate(session, generation.key, info)
                segments.bury_unsearched(session, generation.key, channel, keys.tolist())
                return not stop
        # What was deleted meanwhile leaves nothing behind, no vector either.
        kept = np.isin(keys, here)
        if generation.vector_engine == "milvus":
            shop.segments.delete(info.id, keys[~kept].tolist())
        else:
            shop.segments.remove(info.id)
        keys, vectors = keys[kept], vectors[kept]
    return True


def _copyable(
    shop: Workshop, source: Generation | None, generation: Generation, channel: str
) -> list[Segment]:
    """The segments whose vectors are what the generation wants in this channel."""
    if source is None or source.key == generation.key:
        return []
    theirs, ours = (
        (each.text_embedder, each.text_dimension)
        if channel == "text"
        else (each.picture_embedder, each.picture_dimension)
        for each in (source, generation)
    )
    if theirs != ours:
        return []
    with db.reading(shop.engine) as session:
        active = segments.active(session, source.key)
    found = []
    for info in active:
        if info.channel == channel:
            try:
                found.append(shop.segments.open(info.id))
            except CorruptData as error:
                log.error("vectors are computed instead of copied: %s", error)
    return found


def _vectors(
    shop: Workshop,
    copied: Sequence[Segment],
    embedders: Embedders,
    channel: str,
    lacking: Keys,
    given_up: GivenUp,
) -> Iterator[tuple[Keys, Vectors]]:
    """Batches: keys (n,) ascending, and their vectors (n, dimension)."""
    for segment in copied:
        for keys, block in segment.vectors(lacking, _COPIED_AT_ONCE):
            lacking = np.setdiff1d(lacking, keys, assume_unique=True)
            yield keys, block
    embed = _embed_texts if channel == "text" else _embed_pictures
    at, size = 0, _FIRST_BATCH
    while at < len(lacking):
        part = lacking[at : at + size].tolist()
        at += len(part)
        with db.reading(shop.engine) as session:
            found = items.load_any(session, part)  # without what was deleted meanwhile
        begun = time.monotonic()
        yield embed(shop, embedders, {key: found[key] for key in part if key in found}, given_up)
        took = max(time.monotonic() - begun, 1e-3)
        size = int(min(max(size * _BATCH_SECONDS / took, 1), 2 * size, _LARGEST_BATCH))


def _embed_texts(
    shop: Workshop, embedders: Embedders, found: Mapping[int, Item], _: GivenUp
) -> tuple[Keys, Vectors]:
    if not found:
        return _NONE, np.empty((0, embedders.text.dimension), np.float32)
    texts = [text_of(item) for item in found.values()]
    vectors = embedders.text.embed_texts(texts, batch_size=shop.batch_size)
    return np.fromiter(found, np.int64, len(found)), vectors


def _embed_pictures(
    shop: Workshop, embedders: Embedders, found: Mapping[int, Item], given_up: GivenUp
) -> tuple[Keys, Vectors]:
    keys: list[int] = []
    vectors = [np.empty((0, embedders.picture.dimension), np.float32)]
    decoded: list[Image] = []
    for key, item in found.items():
        try:
            data = shop.blobs.get(item.picture or "")
            decoded.append(media.decode_picture(data, shop.limits))
        except (NotFound, CorruptData, UnreadableMedia) as error:
            given_up.keys["picture"].add(key)
            given_up.skipped.append(Skipped(item.document_name, f"its picture is lost: {error}"))
            continue
        keys.append(key)
        if len(decoded) == _PICTURES_AT_ONCE:
            vectors.append(embedders.picture.embed_pictures(decoded))
            decoded.clear()
    if decoded:
        vectors.append(embedders.picture.embed_pictures(decoded))
    return np.asarray(keys, np.int64), np.concatenate(vectors)
