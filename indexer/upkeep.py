"""Jobs that keep what is stored in order: few segments instead of many, every byte as it was."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import Engine

from rag_owl import db
from rag_owl.errors import CorruptData, NotFound, RagOwlError
from rag_owl.indexer.merge import merge_segments_of
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.ports import BlobStore
from rag_owl.store import blob_uses, claims, collections, segments
from rag_owl.store.claims import Claim
from rag_owl.store.collections import Generation
from rag_owl.types import Skipped

Stopping = Callable[[], bool]

_SAY_EVERY = 1.0  # seconds
_BLOCK = 2**20


def merge(engine: Engine, store: SegmentStore, claim: Claim, stopping: Stopping) -> bool:
    """Merge the segments of the live generations; each is one thing done."""
    generations = _live_generations(engine, claim)
    with db.writing(engine) as session:
        claims.restart_scan(session, claim)
        claims.advance(session, claim, found=len(generations))
    for generation in generations:
        if stopping():
            return False
        merge_segments_of(engine, store, generation, final=True)
        with db.writing(engine) as session:
            claims.advance(session, claim, done=1)
    return True


def verify(
    engine: Engine, store: SegmentStore, blobs: BlobStore, claim: Claim, stopping: Stopping
) -> bool:
    """Read every segment and blob that is in use and compare checksums; each is one thing done.

    The damaged are `failed`, with the reason among what was skipped.
    """
    with db.reading(engine) as session:
        of_segments = [
            info.id
            for generation in _live_generations(engine, claim)
            for info in segments.active(session, generation.key)
        ]
        # Blobs are shared by collections: they are looked at with the whole installation.
        of_blobs = [] if claim.collection_key else sorted(blob_uses.used(session))
    with db.writing(engine) as session:
        claims.restart_scan(session, claim)
        claims.advance(session, claim, found=len(of_segments) + len(of_blobs))
    done, damaged, said = 0, list[Skipped](), time.monotonic()

    def say() -> None:
        nonlocal done, said
        with db.writing(engine) as session:
            claims.advance(session, claim, done=done, failed=len(damaged))
            claims.add_skipped(session, claim, damaged)
        done, said = 0, time.monotonic()
        damaged.clear()

    for name, check in _checks(engine, store, blobs, of_segments, of_blobs):
        if stopping():
            return False
        try:
            check()
            done += 1
        except RagOwlError as error:
            damaged.append(Skipped(name, str(error)))
        if time.monotonic() - said > _SAY_EVERY:
            say()
    say()
    return True


def _live_generations(engine: Engine, claim: Claim) -> list[Generation]:
    with db.reading(engine) as session:
        keys = [claim.collection_key]
        if not claim.collection_key:
            names = [info.name for info in collections.list_all(session)]
            keys = [collections.get(session, name).key for name in names]
        found = [collections.live_generation(session, key) for key in keys]
    return [generation for generation in found if generation is not None]


def _checks(
    engine: Engine,
    store: SegmentStore,
    blobs: BlobStore,
    of_segments: list[str],
    of_blobs: list[bytes],
) -> Iterator[tuple[str, Callable[[], None]]]:
    for name in of_segments:
        yield f"segment {name}", lambda name=name: _check_segment(engine, store, name)  # type: ignore[misc]
    for digest in of_blobs:
        key = digest.hex()
        yield f"blob {key}", lambda key=key: _check_blob(engine, blobs, key)  # type: ignore[misc]


def _check_segment(engine: Engine, store: SegmentStore, name: str) -> None:
    try:
        store.verify(name)
    except RagOwlError:
        with db.reading(engine) as session:
            if segments.is_active(session, name):
                raise  # and not one that was merged into another meanwhile


def _check_blob(engine: Engine, blobs: BlobStore, key: str) -> None:
    try:
        # An object store's own bytes, where there is one; else block by block, not all at once.
        own = getattr(blobs, "verify", None)
        if own is not None:
            own(key)
        elif _sha256(blobs.path(key)) != key:
            raise CorruptData(f"blob {key} is damaged on disk; ingest its document again")
    except (NotFound, CorruptData):
        with db.reading(engine) as session:
            if bytes.fromhex(key) in blob_uses.used(session):
                raise  # and not one whose document was deleted meanwhile


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
