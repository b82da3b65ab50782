"""An opened data folder: its parts, and what works its jobs in this process."""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine

from rag_owl import db, media, retention
from rag_owl.asked_media import Intake
from rag_owl.errors import DataFolderError, InvalidInput, RagOwlError
from rag_owl.indexer.loaders.apart_pool import Allowance, Pool, sweep
from rag_owl.indexer.merge import remove_orphans
from rag_owl.indexer.search import HybridRetriever
from rag_owl.indexer.workshop import Workshop
from rag_owl.job_folder import FolderRunner
from rag_owl.job_kinds import KINDS
from rag_owl.jobs import Runner
from rag_owl.models import Models
from rag_owl.remote_blobs import RemoteBlobs
from rag_owl.rows import SCHEMA
from rag_owl.schedules import Schedules
from rag_owl.schema import bind_folder, bind_store, prepare_schema, stored_schema
from rag_owl.settings import Settings, read_settings
from rag_owl.storage import Storage
from rag_owl.store import condemned
from rag_owl.store.claims import Claim
from rag_owl.store.collections import Generation
from rag_owl.types import Question, Retrieved
from rag_owl.visibility import limited
from rag_owl.work_lock import exclusively

log = logging.getLogger(__name__)

_REFRESH_EVERY = 0.5  # seconds


class System:
    """What `RagOwl`'s methods, `operations` and jobs work with."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """Use `open`."""
        self.settings = settings
        self.folder = settings.data.expanduser().resolve()
        self.storage = storage = Storage.of(settings, self.folder, engine)
        self._closing = threading.Event()
        self._forgotten_until = 0.0
        self.blobs = storage.blobs
        self.engine = self._unlimited = engine
        self.segments = storage.segments
        self.limits = media.Limits(
            max_pixels=settings.max_pixels,
            max_pages=settings.max_pages,
            max_video_seconds=settings.max_video_seconds,
            max_archive_members=settings.max_archive_members,
            max_archive_bytes=settings.max_archive_bytes,
            video_decoder=settings.video_decoder,
            video_every=settings.video_every,
            max_bytes=settings.max_bytes,
        )
        self.decoders = Pool(
            Allowance(settings.decode_seconds, settings.decode_memory, settings.decoders),
            self.folder / "decoding",
        )
        self._intake = Intake(engine, self.blobs, self.decoders, self.limits)
        self.models = Models(settings, self.blobs, self.folder, self.limits, storage.objects)
        self._retriever = HybridRetriever(
            engine,
            self.segments,
            self.blobs,
            self.models,
            self.limits,
            self.models.gpu,
        )
        schedules = Schedules(engine, settings.periodic, settings.scan_roots)
        self._runner = self._make_runner(schedules)

    def _make_runner(self, schedules: Schedules) -> Runner:
        if self.engine.dialect.name == "postgresql":
            from rag_owl.job_queue import QueueRunner

            return QueueRunner(
                self.engine, self._work, self._tidy, schedules, self.settings.stalled_seconds
            )
        return FolderRunner(self.engine, self.folder, self._work, self._tidy, schedules)

    @classmethod
    def open(
        cls, data: str | os.PathLike[str] | None = None, work_jobs: bool = True, **settings: Any
    ) -> Self:
        """Open a data folder, making or migrating it as needed, and resume its unfinished jobs.

        work_jobs: False leaves them to other processes that have the folder open.
        Raises `InvalidSettings`; `DataFolderError` when the folder cannot be used;
        `DataFolderBusy` when it needs a migration and another process holds it.
        """
        chosen = read_settings(data=data, **settings)
        folder = chosen.data.expanduser().resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "segments").mkdir(exist_ok=True)
        except OSError as error:
            raise DataFolderError(
                f"cannot use {folder} as data folder: {error.strerror or error}. "
                "Choose another with --data or RAG_OWL_DATA."
            ) from error
        engine = db.connect(chosen.database)
        try:
            if stored_schema(engine) != SCHEMA:
                with exclusively(folder, seconds=60):
                    prepare_schema(engine)
            owl = cls(chosen, engine)
        except BaseException:
            engine.dispose()
            raise
        try:
            if owl.storage.objects is None:
                bind_folder(engine, folder)
            else:
                bind_store(engine, owl.storage.objects)
                threading.Thread(
                    target=owl._keep_fresh, name="rag-owl-segments", daemon=True
                ).start()
            owl._forget_collected()
            if work_jobs:
                owl._runner.start()
        except BaseException:
            owl.close()
            raise
        return owl

    def limited_to(self, names: Collection[str] | None) -> Self:
        """The same system, in which only these collections exist; None: all of them.

        It shares everything with this one, and is not closed by itself.
        """
        if names is None:
            return self
        view = copy.copy(self)
        view.engine = limited(self.engine, names)
        return view

    def close(self) -> None:
        """Finish the batch at hand and let go; an unfinished job is resumed at the next opening."""
        self._closing.set()
        self._runner.stop()
        self.storage.close()
        self.models.close()
        self.decoders.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def warm_up(self) -> None:
        """Load the models that the first question would wait for. Raises `ModelError`."""
        self.models.warm_up()

    def pinned(
        self, collection: str, generation: Generation
    ) -> Callable[[Question], list[Retrieved]]:
        """Searches that one generation of a collection, as it is now."""
        return self._retriever.pinned(collection, generation)

    def work_soon(self) -> None:
        """Say that a job was begun: whoever works jobs here looks now."""
        self._runner.wake()

    def workshop(self) -> Workshop:
        """What every ingest needs."""
        return Workshop(
            self.engine,
            self.segments,
            self.blobs,
            self.limits,
            self.settings.batch_size,
            self.decoders,
            self.models.embedders_for,
            leave_out=[self.folder],
            remember_picture=self.models.remember_picture(),
            quota_of=self.settings.quota_of,
        )

    def _keep_fresh(self) -> None:
        """Fetch new segments from the object store before a question needs them."""
        while not self._closing.wait(_REFRESH_EVERY):
            try:
                self._retriever.refresh()
            except RagOwlError as error:  # the question that needs them will say so
                log.debug("new segments cannot be fetched: %s", error)

    def _tidy(self) -> None:
        """Remove what dead processes left. The caller holds the folder's lock."""
        remove_orphans(self.engine, self.segments)
        sweep(self.folder / "decoding")
        self._forget_collected()

    def _forget_collected(self) -> None:
        """What this machine's caches hold of blobs that another machine's deletion collected."""
        if self.engine.dialect.name == "postgresql":
            with db.reading(self.engine) as session:
                keys = condemned.collected(session, self._forgotten_until)
            self._forgotten_until = time.time() - 60  # clocks differ a little
            for key in keys:
                retention.forget_caches(self.folder, key)
                if isinstance(self.blobs, RemoteBlobs):
                    self.blobs.forget(key)

    def _work(self, claim: Claim, stopping: Callable[[], bool]) -> bool:
        kind = KINDS.get(claim.kind)
        if kind is None:
            raise InvalidInput(
                f"this version knows no jobs of the kind {claim.kind!r}; work it with a newer one"
            )
        return kind.run(self, claim, stopping)
