"""What one batch of an ingest job holds, and how it becomes searchable: all of it or nothing."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from rag_owl import retention
from rag_owl.indexer.milvus import name_of
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.store import (
    bulk,
    claims,
    collections,
    condemned,
    generations,
    items,
    job_inputs,
    jobs,
    revisions,
    segments,
)
from rag_owl.store.claims import Claim
from rag_owl.store.collections import Generation
from rag_owl.store.items import NewItem
from rag_owl.store.revisions import NewDocument, OpenRevision
from rag_owl.types import Item, Skipped

Vector = NDArray[np.float32]


class GenerationSwitched(Exception):
    """Another generation has become live since the batch was embedded: it is made once more."""


@dataclass(slots=True)
class Entry:
    """One document of the batch, or the next part of a long one."""

    document: NewDocument
    first_ordinal: int
    items: list[NewItem] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # to be embedded, of items with in_text
    picture_vectors: list[Vector] = field(default_factory=list)  # of items with in_picture
    complete: bool = False
    abandoned: bool = False  # turned out unreadable after a part of it was stored

    @property
    def is_begun(self) -> bool:
        """Whether some of it is stored, or will be with this batch."""
        return self.complete or bool(self.items or self.first_ordinal)

    def blobs(self) -> set[str]:
        """What its rows will refer to."""
        keys = {self.document.blob, *(item.picture for item in self.items)}
        return {key for key in keys if key is not None}


@dataclass(slots=True)
class Batch:
    entries: list[Entry] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    items: int = 0  # of all entries together
    unchanged: int = 0  # documents known with these bytes, this name and this metadata
    seen: list[NewDocument] = field(default_factory=list)  # known bytes, other name or metadata
    found: int = 0  # documents beyond the one that each file was counted as
    done: list[int] = field(default_factory=list)  # positions of finished inputs
    next_rows: dict[int, int] = field(default_factory=dict)  # position -> as `JobInput.next_row`
    reading: int | None = None  # position of the input that is being read
    loose: set[str] = field(default_factory=set)  # blobs put for a batch that was not stored

    def blobs(self) -> set[str]:
        """What its rows will refer to."""
        stored = (entry for entry in self.entries if entry.is_begun and not entry.abandoned)
        return {key for entry in stored for key in entry.blobs()}

    @property
    def documents(self) -> int:
        return len(self.entries) + len(self.skipped) + len(self.seen) + self.unchanged


def commit(
    session: Session,
    store: SegmentStore,
    claim: Claim,
    generation: Generation,
    batch: Batch,
    text_vectors: NDArray[np.float32],
) -> bool:
    """Store and activate the batch in the caller's transaction; whether the job is to stop.

    text_vectors: (texts, dimension), of all entries' texts in order. Raises `GenerationSwitched`,
    and `BlobsGone`: then the batch is to be read again.
    """
    # First of all the fence: whoever lost the job must not write anything.
    stop = claims.advance(session, claim)
    generations.lock(session, claim.collection_key)
    live = collections.live_generation(session, claim.collection_key)
    if live is None or live.key != generation.key:
        raise GenerationSwitched
    condemned.keep(session, batch.blobs())
    counters = {"added": 0, "updated": 0, "unchanged": 0, "items": 0}
    vectors: dict[str, list[Vector]] = {"text": [], "picture": []}
    keys: dict[str, list[int]] = {"text": [], "picture": []}
    loose = batch.loose - batch.blobs()  # nothing will refer to them
    at = 0
    # First what only moved: then new bytes find their origins free, and retire nothing that is
    # merely somewhere else.
    revisions.move(session, claim.collection_key, batch.seen)
    counters["unchanged"] += len(batch.seen)
    new_keys_of = _add_strangers(session, claim, generation, batch)
    for entry in batch.entries:
        rows = text_vectors[at : at + len(entry.texts)]
        at += len(entry.texts)
        if id(entry) in new_keys_of:
            new_keys = new_keys_of[id(entry)]
            counters["added"] += 1
            counters["items"] += len(new_keys)
            _collect(entry, new_keys, rows, keys, vectors)
            continue
        if not (entry.is_begun or entry.abandoned):
            continue  # all of it comes in the next batch
        if entry.abandoned:
            revisions.abandon(session, claim.collection_key, entry.document.sha256)
            continue
        revision = _revision(session, claim, generation, entry)
        if revision is None:
            if not revisions.is_complete(session, claim.collection_key, entry.document.sha256):
                loose |= entry.blobs()
                if entry.complete:
                    batch.skipped.append(Skipped(entry.document.name, jobs.DELETED))
            elif entry.complete:  # the second of two equal documents in one batch
                revisions.move(session, claim.collection_key, [entry.document])
                counters["unchanged"] += 1
            continue
        new_keys = items.add(
            session,
            claim.collection_key,
            revision,
            generation.splitter,
            entry.items,
            entry.first_ordinal,
        )
        counters["items"] += len(new_keys)
        _collect(entry, new_keys, rows, keys, vectors)
        if entry.complete:
            revisions.complete_revision(session, revision.key)
            counters[revision.outcome] += 1
    for channel in vectors:
        if keys[channel]:
            info = write_vectors(store, generation, channel, keys[channel], vectors[channel])
            segments.activate(session, generation.key, info)
    claims.add_skipped(session, claim, batch.skipped)
    job_inputs.done(session, claim, batch.done)
    for position, row in batch.next_rows.items():
        job_inputs.at_row(session, claim, position, row)
    if loose:  # what only looks so, because other rows refer to it, is left by the collector
        condemned.condemn(session, loose)
        retention.begin(session, claim.collection_key)
    if batch.reading is not None:
        job_inputs.progressed(session, claim, batch.reading)
    if any(counters.values()):
        collections.touch(session, claim.collection_key)
    counters["unchanged"] += batch.unchanged
    claims.advance(session, claim, found=batch.found, skipped=len(batch.skipped), **counters)
    return stop


def _revision(
    session: Session, claim: Claim, generation: Generation, entry: Entry
) -> OpenRevision | None:
    """Where the entry's items go; None: nowhere, they are there already or were deleted."""
    if entry.first_ordinal:
        return revisions.continue_revision(
            session,
            claim.collection_key,
            entry.document,
            generation.splitter,
            entry.first_ordinal,
        )
    if revisions.is_complete(session, claim.collection_key, entry.document.sha256):
        return None
    return revisions.open_revision(session, claim.collection_key, entry.document)


def _add_strangers(
    session: Session, claim: Claim, generation: Generation, batch: Batch
) -> dict[int, list[int]]:
    """Item keys of the documents that nothing else touches, by the id() of their entry."""
    # All entries count: a document that is also abandoned here is no stranger.
    alone = bulk.strangers(
        session, claim.collection_key, [entry.document for entry in batch.entries]
    )
    entries = [
        entry
        for at, entry in enumerate(batch.entries)
        if at in alone and entry.complete and not entry.first_ordinal
    ]
    keys = bulk.add(
        session,
        claim.collection_key,
        generation.splitter,
        [(entry.document, entry.items) for entry in entries],
    )
    return {id(entry): new for entry, new in zip(entries, keys, strict=True)}


def _collect(
    entry: Entry,
    new_keys: Sequence[int],
    rows: NDArray[np.float32],
    keys: Mapping[str, list[int]],
    vectors: Mapping[str, list[Vector]],
) -> None:
    texts, pictures = iter(rows), iter(entry.picture_vectors)
    for key, item in zip(new_keys, entry.items, strict=True):
        if item.in_text:
            keys["text"].append(key)
            vectors["text"].append(next(texts))
        if item.in_picture:
            keys["picture"].append(key)
            vectors["picture"].append(next(pictures))


def write_vectors(
    store: SegmentStore,
    generation: Generation,
    channel: str,
    keys: Sequence[int],
    vectors: Sequence[Vector],
) -> segments.SegmentInfo:
    """A new segment's files, or more rows in Milvus; searched when the segment is activated."""
    milvus = generation.vector_engine == "milvus"
    name = name_of(generation.key, channel) if milvus else uuid.uuid4().hex
    manifest = store.write(
        name,
        np.asarray(keys, dtype=np.int64),
        np.stack(vectors),
        index_type=generation.index_type,
        manifest=segment_facts(generation, channel),
    )
    return segments.SegmentInfo(name, channel, manifest.index_type, manifest.count)


def embedding_input(name: str, title: str, heading: str, text: str) -> str:
    """A passage is embedded under its heading, or its document's title: it often names neither."""
    above = heading or (title if title != name else "")
    return f"{above}\n{text}" if above else text


def text_of(item: Item) -> str:
    """What is embedded of a stored item."""
    return embedding_input(item.document_name, item.title, item.heading, item.text or "")


def segment_facts(generation: Generation, channel: str) -> dict[str, str | int]:
    """What a segment's manifest says of its origin."""
    embedder = generation.text_embedder if channel == "text" else generation.picture_embedder
    return {"generation": generation.key, "channel": channel, "embedder": embedder}
