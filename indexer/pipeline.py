"""Ingestion: files to searchable items, in batches that can be repeated after any interruption."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
from PIL.Image import Image
from sqlalchemy.orm import Session

from rag_owl import db, paths, uploads
from rag_owl.blobs import FolderBlobs
from rag_owl.errors import BlobsGone, UnreadableMedia
from rag_owl.indexer.batch import Batch, Entry, GenerationSwitched, commit, embedding_input
from rag_owl.indexer.inputs import find_inputs
from rag_owl.indexer.loaders import Input, Loaded, SkippedRow
from rag_owl.indexer.loaders.apart import read_apart
from rag_owl.indexer.merge import merge_segments_of, remove_retired
from rag_owl.indexer.split import ItemDraft, split
from rag_owl.indexer.workshop import Workshop
from rag_owl.settings import Quota
from rag_owl.store import condemned, generations, job_inputs, jobs, quotas, revisions
from rag_owl.store.claims import Claim
from rag_owl.store.items import NewItem
from rag_owl.store.job_inputs import JobInput
from rag_owl.store.revisions import NewDocument
from rag_owl.types import Skipped

# Batches grow: the first items are searchable at once, later ones cost fewer transactions.
FIRST_BATCH, LARGEST_BATCH = 64, 1_024  # items
_LONGEST_BATCH = 10.0  # seconds
_MOST_ENTRIES = 2_000  # documents of a batch, also those that need no work
_PICTURES_AT_ONCE = 32  # decoded pictures in memory
_LONGEST_WAIT = 60.0  # seconds for a reindex that is about to end


class Ingest:
    """One run of one job. The rows say where it is; this object holds only the current batch."""

    def __init__(self, workshop: Workshop, claim: Claim, stopping: Callable[[], bool]) -> None:
        self._shop = workshop
        self._claim = claim
        self._stopping = stopping
        self._batch = Batch()
        self._quota = workshop.quota_of(claim.collection)
        self._held: quotas.Holding | None = None
        self._images: list[tuple[Entry, Image]] = []
        self._arriving = workshop.blobs.arrivals()
        self._pictures: list[str] = []  # blobs that the answering model is to look at
        self._size = FIRST_BATCH
        self._since = time.monotonic()
        self._view: Session | None = None
        self._suspects = 0  # inputs still to be read one by one

    def run(self) -> bool:
        """Work until the job is finished (True) or asked to stop (False: it will be resumed)."""
        try:
            return self._run()
        finally:
            self._arriving.drop()

    def _run(self) -> bool:
        remove_retired(self._shop.engine, self._shop.segments)
        if not self._claim.scanned and not find_inputs(self._shop, self._claim, self._stopping):
            return False
        if self._claim.interrupted:
            with db.writing(self._shop.engine) as session:
                # As many as one batch may hold: the one that ended the process is among them.
                self._suspects = _MOST_ENTRIES if job_inputs.suspect(session, self._claim) else 0
        while True:
            self._generation, self._embedders = self._shop.open_generation(self._claim)
            try:
                finished = self._work()
                break
            except GenerationSwitched:  # as after an interruption: from the last committed batch
                self._batch_again()
            except BlobsGone as gone:  # a deletion was faster: put them again
                with db.writing(self._shop.engine) as session:
                    condemned.forgive(session, gone.keys)
                self._batch_again()
        if finished:
            merge_segments_of(self._shop.engine, self._shop.segments, self._generation, final=True)
        return finished

    def _work(self) -> bool:
        while True:
            with db.reading(self._shop.engine) as session:
                waiting = job_inputs.waiting(session, self._claim)
            if not waiting:
                break
            for source in waiting:
                if not (self._read_alone(source) if self._suspects else self._read(source)):
                    return False
            if not self._flush():
                return False
        return True

    def _read_alone(self, source: JobInput) -> bool:
        """As `_read`, where one of the next inputs may be what ended the process before."""
        self._suspects -= 1
        if source.attempts >= jobs.MOST_ATTEMPTS:
            self._batch.found += bool(source.next_row)
            self._batch.skipped.append(Skipped(source.name, jobs.DEADLY))
            self._batch.done.append(source.position)
            return True
        self._shop.decoders.warm()  # what ends the process before it reads is not the input's doing
        with db.writing(self._shop.engine) as session:
            job_inputs.begin_attempt(session, self._claim, source.position)
        self._size = 1  # the sooner something of it is stored, the sooner it is no suspect
        return self._read(source) and self._flush()

    def _read(self, source: JobInput) -> bool:
        """One input into the batch; False when the job is to stop."""
        companion = paths.load(source.companion) if source.companion else None
        file = Input(source.name, paths.load(source.path), companion, source.companion_name)
        values = read_apart(
            file,
            start_row=max(source.next_row, 0),
            limits=self._shop.limits,
            pool=self._shop.decoders,
        )
        self._batch.reading = source.position
        counted = source.next_row != 0
        documents = 0  # of a file without rows
        skipped: list[Skipped] = []  # of the document that comes after them

        def count(pieces: int) -> None:
            # A file was counted as one when it was found; every further piece of it counts too.
            nonlocal counted
            self._batch.found += pieces if counted else pieces - 1
            counted = True
            self._batch.skipped += skipped
            skipped.clear()

        # What is counted goes with what says that it is done into one batch: done again after an
        # interruption, it is counted once.
        for each in values:
            row = each.row if isinstance(each, SkippedRow | Loaded) else None
            if isinstance(each, Skipped):
                skipped.append(each)
                if row is None:
                    continue
            if row is None:
                documents += 1
                if documents <= -source.next_row:
                    skipped.clear()
                    continue
            if isinstance(each, Loaded) and not self._add(each, source, second=documents > 1):
                return False
            count(len(skipped) + isinstance(each, Loaded))
            self._batch.next_rows[source.position] = -documents if row is None else row + 1
            if self._is_full() and not self._flush():
                return False
        if skipped:
            count(len(skipped))
        self._batch.next_rows.pop(source.position, None)
        self._batch.done.append(source.position)
        self._batch.reading = None
        return not self._is_full() or self._flush()

    def _add(self, loaded: Loaded, source: JobInput, second: bool) -> bool:
        """One document into the batch, over as many batches as it takes; False to stop.

        second: of a picture and a text that are no pair, the text.
        """
        origin = source.origin or source.path
        if second:
            origin = uploads.origin_of(self._claim.parameters, loaded.name) or f"{origin}#2"
        suffix = "" if loaded.row is None else loaded.name.removeprefix(source.name)
        document = NewDocument(
            origin=origin + suffix,
            name=loaded.name,
            title=loaded.title,
            sha256=loaded.sha256,
            media_type=loaded.media_type,
            metadata={**loaded.metadata, **self._claim.parameters.get("metadata", {})},
        )
        known = revisions.find(
            self._looking(),
            self._claim.collection_key,
            loaded.sha256,
            document.origin,
            self._generation.splitter,
        )
        if known is not None and known.complete:
            self._heal(loaded)
            if known.document == document:
                self._batch.unchanged += 1
            else:  # another name or other metadata
                self._batch.seen.append(document)
            return True
        if known is None and loaded.sha256 == source.deleted:
            self._batch.skipped.append(Skipped(loaded.name, jobs.DELETED))
            return True
        if known is None and (full := self._why_full(document)):
            self._batch.skipped.append(Skipped(loaded.name, full))
            return True
        stored = known.items if known is not None else 0
        entry = Entry(document, stored)
        try:
            if loaded.source is not None:
                with loaded.source.open("rb") as file:
                    blob = self._arriving.put(file)
                if blob != (loaded.source_sha256 or loaded.sha256):
                    raise UnreadableMedia("changed while it was read; ingest it again")
                entry.document = document = replace(document, blob=blob)
            self._batch.entries.append(entry)
            for item, image, data in self._items(loaded, skip=stored):
                if self._is_full():
                    reached = entry.first_ordinal + len(entry.items)
                    if not self._flush():
                        return False
                    entry = Entry(document, reached)
                    self._batch.entries.append(entry)
                if data is not None and item.picture is not None:
                    self._arriving.put(data)  # with the batch that refers to it
                    self._pictures.append(item.picture)
                entry.items.append(item)
                self._batch.items += 1
                if item.in_text:
                    entry.texts.append(
                        embedding_input(loaded.name, loaded.title, item.heading, item.text or "")
                    )
                if image is not None:
                    self._images.append((entry, image))
                    if len(self._images) >= _PICTURES_AT_ONCE:
                        self._embed_pictures()
        except (UnreadableMedia, OSError) as error:
            reason = str(error) if isinstance(error, UnreadableMedia) else _why(error)
            self._images = [pair for pair in self._images if pair[0] is not entry]
            if entry in self._batch.entries:
                self._batch.entries.remove(entry)
                self._batch.loose |= entry.blobs()
            self._batch.entries.append(Entry(document, 0, abandoned=True))
            self._batch.skipped.append(Skipped(loaded.name, reason))
            return True
        if not entry.first_ordinal and not entry.items:
            self._batch.entries.remove(entry)
            self._batch.skipped.append(
                Skipped(loaded.name, "holds no text and no picture; nothing to search in it")
            )
        entry.complete = True
        return True

    def _heal(self, loaded: Loaded) -> None:
        """The file of a document that is known, where it was lost (`doctor --deep` says so).

        An object store is not asked: for a million files that did not change it would take hours.
        """
        blobs = self._shop.blobs
        key = loaded.source_sha256 or loaded.sha256
        if loaded.source is None or not isinstance(blobs, FolderBlobs) or blobs.exists(key):
            return
        with suppress(OSError), loaded.source.open("rb") as file:
            # Nobody's, if the document was deleted since it was found, or the file changed.
            self._batch.loose.add(self._arriving.put(file))

    def _why_full(self, document: NewDocument) -> str | None:
        """Why there is no room for it; None: there is."""
        if self._quota == Quota():
            return None
        key = self._claim.collection_key
        if self._held is None:
            self._held = quotas.holding(self._looking(), key, self._quota)
        now = quotas.Holding(self._held.documents, self._held.items + self._batch.items)
        again = quotas.is_known_origin(self._looking(), key, document.origin)
        why = quotas.excess(self._claim.collection, self._quota, now, again)
        if why is None and not again:
            self._held.documents += 1
        return why

    def _looking(self) -> Session:
        """One view of the database per batch: looking up every document in its own costs more."""
        if self._view is None:
            self._view = Session(self._shop.engine)
        return self._view

    def _items(
        self, loaded: Loaded, skip: int
    ) -> Iterator[tuple[NewItem, Image | None, bytes | None]]:
        """The document's items after the first `skip`, each with the picture to be embedded and
        its file to be kept."""
        seen: set[str] = set()  # a picture that several items share is embedded once
        for ordinal, draft in enumerate(split(loaded)):
            key, first = None, False
            if draft.picture is not None:
                key = hashlib.sha256(draft.picture.data).hexdigest()
                first = key not in seen
                seen.add(key)
            if ordinal < skip:
                continue
            picture = draft.picture if first else None
            image, data = (picture.image, picture.data) if picture is not None else (None, None)
            yield _new_item(draft, key, image is not None), image, data

    def _is_full(self) -> bool:
        batch = self._batch
        return (
            batch.items >= self._size
            or batch.documents >= _MOST_ENTRIES
            or (bool(batch.documents) and time.monotonic() - self._since > _LONGEST_BATCH)
            or self._stopping()
        )

    def _embed_pictures(self) -> None:
        if self._images:
            vectors = self._embedders.picture.embed_pictures([image for _, image in self._images])
            for (entry, _), vector in zip(self._images, vectors, strict=True):
                entry.picture_vectors.append(vector)
            self._images.clear()

    def _flush(self) -> bool:
        """Make the batch searchable; False when the job is to stop."""
        if self._view is not None:
            self._view.close()
            self._view = None
        self._let_reindex_end()
        self._embed_pictures()
        self._arriving.settle()
        if self._shop.remember_picture is not None:
            for key in self._pictures:
                self._shop.remember_picture(key)
        texts = [text for entry in self._batch.entries for text in entry.texts]
        if texts:
            vectors = self._embedders.text.embed_texts(texts, batch_size=self._shop.batch_size)
        else:
            vectors = np.zeros((0, self._generation.text_dimension), dtype=np.float32)
        with db.writing(self._shop.engine) as session:
            stop = commit(
                session, self._shop.segments, self._claim, self._generation, self._batch, vectors
            )
        self._begin_batch(self._batch.reading)
        self._size = min(2 * self._size, LARGEST_BATCH)
        merge_segments_of(self._shop.engine, self._shop.segments, self._generation)
        self._since = time.monotonic()
        return not stop and not self._stopping()

    def _batch_again(self) -> None:
        loose = self._batch.loose | self._batch.blobs()
        self._begin_batch()
        self._batch.loose = loose  # what was deleted meanwhile is not put again

    def _begin_batch(self, reading: int | None = None) -> None:
        if self._view is not None:
            self._view.close()
            self._view = None
        self._batch = Batch(reading=reading)
        self._arriving.drop()
        self._pictures.clear()
        self._held = None  # it is counted again, with what others did meanwhile
        self._images.clear()

    def _let_reindex_end(self) -> None:
        """A reindex that nearly has all vectors would never have them while we go on."""
        until = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < until and not self._stopping():
            with db.reading(self._shop.engine) as session:
                if not generations.is_closing(session, self._claim.collection_key):
                    return
            time.sleep(0.1)


def _new_item(draft: ItemDraft, picture: str | None, embed_picture: bool) -> NewItem:
    return NewItem(
        kind=draft.kind,
        text=draft.text,
        heading=draft.heading,
        location=draft.location,
        text_boxes=draft.text_boxes,
        text_times=draft.text_times,
        picture=picture,
        in_text=bool(draft.text and draft.text.strip()),
        in_picture=embed_picture,
    )


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}; check that it exists and may be read"
