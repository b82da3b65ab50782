"""The whole system in one object, for Python users and the command line."""

from __future__ import annotations

import copy
import logging
import os
import reprlib
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from sqlalchemy import Engine

from rag_owl import conversation, db, media, operations, own_video, reindexing, retention
from rag_owl import jobs as job_runner
from rag_owl import paths as stored_paths
from rag_owl.ask import Parts, answer_question, check, check_form
from rag_owl.asked_media import Intake, PictureInput
from rag_owl.backup import BackupReport, Watch
from rag_owl.errors import (
    DataFolderError,
    InvalidInput,
    InvalidQuestion,
    RagOwlError,
)
from rag_owl.indexer.loaders.apart_pool import Allowance, Pool, sweep
from rag_owl.indexer.merge import remove_orphans
from rag_owl.indexer.pipeline import Workshop
from rag_owl.indexer.search import HybridRetriever
from rag_owl.job_kinds import KINDS
from rag_owl.models import Models
from rag_owl.ports import Answerer
from rag_owl.remote_blobs import RemoteBlobs
from rag_owl.restore import RestoreReport
from rag_owl.schedules import Schedules
from rag_owl.schema import (
    bind_folder,
    bind_store,
    prepare_schema,
    stored_schema,
)
from rag_owl.settings import Settings, read_settings
from rag_owl.storage import Storage
from rag_owl.store import (
    answers,
    collections,
    condemned,
    documents,
    generations,
    items,
    names,
)
from rag_owl.store import jobs as job_rows
from rag_owl.store.claims import Claim
from rag_owl.store.collections import CollectionInfo, Generation
from rag_owl.store.generations import GenerationInfo
from rag_owl.types import Answer, Channel, Document, Item, Job, Question, Retrieved, Turn, Verify
from rag_owl.visibility import limited

log = logging.getLogger(__name__)

_REFRESH_EVERY = 0.5  # seconds


class RagOwl:
    """A data folder, opened. Safe for many threads; use it in a `with`, or call `close()`.

    owl = RagOwl.open("./owl-data")
    job = owl.ingest("flags", ["./flags"])
    answer = owl.ask("flags", "What is the capital of this country?", images=["flag.png"])
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """Use `RagOwl.open`."""
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

    def _make_runner(self, schedules: Schedules) -> job_runner.Runner:
        if self.engine.dialect.name == "postgresql":
            from rag_owl.job_queue import QueueRunner

            return QueueRunner(
                self.engine, self._work, self._tidy, schedules, self.settings.stalled_seconds
            )
        return job_runner.FolderRunner(self.engine, self.folder, self._work, self._tidy, schedules)

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
            if stored_schema(engine) != db.SCHEMA:
                with job_runner.exclusively(folder, seconds=60):
                    prepare_schema(engine)
            owl = cls(chosen, engine)
            if owl.storage.objects is None:
                bind_folder(engine, folder)
            else:
                bind_store(engine, owl.storage.objects)
                threading.Thread(
                    target=owl._keep_fresh, name="rag-owl-segments", daemon=True
                ).start()
        except BaseException:
            engine.dispose()
            raise
        owl._forget_collected()
        if work_jobs:
            owl._runner.start()
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

    def warm_up(self) -> None:
        """Load the models that the first question would wait for. Raises `ModelError`."""
        self.models.warm_up()

    def _keep_fresh(self) -> None:
        """Fetch new segments from the object store before a question needs them."""
        while not self._closing.wait(_REFRESH_EVERY):
            try:
                self._retriever.refresh()
            except RagOwlError as error:  # the question that needs them will say so
                log.debug("new segments cannot be fetched: %s", error)

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

    # --- knowledge ------------------------------------------------------------------------------

    def ingest(
        self,
        collection: str,
        paths: Sequence[str | os.PathLike[str]],
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
        follow_links: bool = False,
    ) -> Job:
        """Add files and folders to a collection, made where it does not exist.

        Asked again while the same job is unfinished, this joins it. What cannot be read is in
        `job.skipped`; the rest goes on. follow_links: also read what symbolic links in the folders
        lead to outside of them, and linked folders. Raises `InvalidInput` for a bad name or no
        path at all, `DataFolderError` when nothing can be written.
        """
        if not isinstance(collection, str):
            raise InvalidInput(f"a collection's name is a text, not a {type(collection).__name__}")
        if isinstance(paths, str | bytes | os.PathLike) or not isinstance(paths, Iterable):
            raise InvalidInput("give a list of at least one file or folder to ingest")
        absolute = [stored_paths.dump(_absolute(path)) for path in paths]
        if not absolute:
            raise InvalidInput("give a list of at least one file or folder to ingest")
        with db.writing(self.engine) as session:
            target = collections.get_or_create(session, collection)
            parameters = {"paths": absolute} | ({"follow_links": True} if follow_links else {})
            job_id, _ = job_rows.create(session, target.key, "ingest", parameters)
        self.work_soon()
        if wait:
            return job_runner.wait_for(self.engine, self._runner, job_id, on_progress)
        return self.job(job_id)

    def reindex(
        self,
        collection: str,
        *,
        text_embedder: str | None = None,
        picture_embedder: str | None = None,
        index_type: str | None = None,
        vector_engine: str | None = None,
        answerer: str | None = None,
        hold: bool = False,
        action: reindexing.Action = "build",
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
    ) -> Job:
        """Make a collection's vectors anew beside those that are searched, and switch to them.

        Questions and ingestion go on. What is not given stays, with embedders as they are
        installed now; where nothing would change, lost vectors are made again. Before the switch
        both generations are compared (`generations`); with hold, it is left to a later call.
        answerer: also have that model look at every picture now, where it remembers them.
        action: "build" as above; "switch" to what was held; "rollback" to what was live before;
        "drop" all but the live generation. Asked again while it is unfinished, this joins it.
        Raises `NotFound`, `InvalidInput`, `ModelError` for an embedder that cannot be loaded, and
        `Conflict` where the collection is reindexed otherwise at the moment, or there is nothing
        to switch to, to go back to or to drop.
        """
        if text_embedder:
            self.models.text_embedder(text_embedder)  # a name that means nothing is told at once
        if picture_embedder:
            self.models.picture_embedder(picture_embedder)
        with db.writing(self.engine) as session:
            job_id = reindexing.begin(
                session,
                collection,
                action,
                text_embedder=text_embedder,
                picture_embedder=picture_embedder,
                index_type=index_type,
                vector_engine=vector_engine,
                answerer=answerer,
                hold=hold,
            )
        self.work_soon()
        if wait:
            return job_runner.wait_for(self.engine, self._runner, job_id, on_progress)
        return self.job(job_id)

    def generations(self, collection: str) -> list[GenerationInfo]:
        """What its vectors were made with: the live ones, those before and those being made.

        The newest first. Raises `NotFound`.
        """
        with db.reading(self.engine) as session:
            return generations.infos(session, collections.get(session, collection).key)

    def pinned(
        self, collection: str, generation: Generation
    ) -> Callable[[Question], list[Retrieved]]:
        """Searches that one generation of a collection, as it is now."""
        return self._retriever.pinned(collection, generation)

    def collections(self) -> list[CollectionInfo]:
        with db.reading(self.engine) as session:
            return collections.list_all(session)

    def documents(self, collection: str) -> Iterator[Document]:
        """All documents, oldest first, read page by page. Raises `NotFound`."""
        with db.reading(self.engine) as session:
            key = collections.get(session, collection).key

        def pages() -> Iterator[Document]:
            last = 0
            while page := self._documents_after(key, last):
                yield from (document for _, document in page)
                last = page[-1][0]

        return pages()

    def _documents_after(self, collection_key: int, last: int) -> list[tuple[int, Document]]:
        with db.reading(self.engine) as session:
            return documents.list_page(session, collection_key, after=last)

    def item(self, collection: str, item_id: str) -> Item:
        """Any item, also of an older revision. Raises `NotFound`."""
        with db.reading(self.engine) as session:
            return items.get(session, collections.get(session, collection).key, item_id)

    def delete_document(self, collection: str, document_id: str, wait: bool = False) -> Job:
        """From now on nothing of it is found, and stored answers say nothing of it any more.

        The job removes its vectors, files and bytes; wait: until that is done. Backups that were
        made before keep it. Raises `NotFound`.
        """
        with db.writing(self.engine) as session:
            key = collections.get(session, collection).key
            collections.touch(session, key)  # held first, as by those who add: no deadlock
            documents.delete(session, key, document_id)
            job_id = retention.begin(session, key)
        return self._begun(job_id, wait)

    def delete_collection(self, collection: str, wait: bool = False) -> Job:
        """From now on there is none of that name; as `delete_document`, of all that it held."""
        with db.writing(self.engine) as session:
            job_id = retention.delete_collection(session, collection)
        return self._begun(job_id, wait)

    def _begun(self, job_id: str, wait: bool) -> Job:
        self.work_soon()
        # A deleted collection is nobody's any more: only the whole system sees its job.
        whole = copy.copy(self)
        whole.engine = self._unlimited
        return whole.wait_for_job(job_id) if wait else whole.job(job_id)

    def expire(self, wait: bool = True) -> Job:
        """Delete what is older than the settings keep; by the clock it happens every hour."""
        with db.writing(self.engine) as session:
            job_id, _ = job_rows.create(session, None, "expire", {})
        return self._begun(job_id, wait)

    # --- questions ------------------------------------------------------------------------------

    def ask(
        self,
        collection: str,
        question: str,
        images: Sequence[PictureInput] = (),
        filters: Mapping[str, Any] | None = None,
        k: int | None = None,
        model: str | None = None,
        on_text: Callable[[str], None] | None = None,
        video: PictureInput | None = None,
        *,
        conversation_id: str | None = None,
        exclude_items: Sequence[str] = (),
        max_tokens: int | None = None,
        seed: int | None = None,
        budget: int | None = None,
        on_sources: Callable[[Sequence[Retrieved]], None] | None = None,
        asked_by: str | None = None,
        history: Sequence[Turn] = (),
        wrap: Callable[[Answerer], Answerer] | None = None,
        verify: Verify = "default",
        require_support: bool = False,
    ) -> Answer:
        """Answer from the collection alone, with the exact evidence.

        images: files or bytes, shown to the model with the question. filters: DESIGN's metadata
        filters, as in `{"field": "year", "op": ">=", "value": 1990}`. on_text: gets the answer's
        text as it comes. video: a file or bytes, shown as frames with their times; a model that
        watches no videos gets four pictures of it, and the answer says so. conversation_id: that of
        an earlier answer, to go on from it. exclude_items: ids of items that the model must not be
        shown. max_tokens: of the answer; seed: for models that draw. budget: characters of text
        that the model is shown, instead of the setting `context_characters`. on_sources: gets what
        the model is shown, before its text. asked_by: id of the key that asks. history: turns that
        are not stored here, instead of a conversation's. wrap: put around the answerer. verify:
        "full" also says what each statement loses without each cited item (`ablation_drop`).
        require_support: statements that no item bears out are left out, and text comes sentence
        by sentence.
        Raises `InvalidQuestion`, `InvalidFilter`, `NotFound`, `ModelError`.
        """
        if isinstance(exclude_items, str) or not isinstance(exclude_items, Iterable):
            raise InvalidQuestion("exclude_items is a list of item ids")
        asked = self._question(
            collection,
            question,
            images,
            filters,
            k,
            conversation_id=conversation_id or uuid.uuid4().hex,
            exclude_items=tuple(exclude_items),
            max_tokens=max_tokens,
            seed=seed,
            budget=budget,
            model=model,
            asked_by=asked_by,
            verify=verify,
            require_support=require_support,
        )
        if video is not None:
            asked = replace(asked, video=self._intake.video(video))
        if conversation_id is not None:
            history = self._history(collection, conversation_id)
        asked = conversation.with_history(asked, history)
        parts = self._parts(model)
        if wrap is not None:
            parts = replace(parts, answerer=wrap(parts.answerer))
        return answer_question(asked, parts, on_text, on_sources)

    def replay(
        self,
        answer_id: str,
        *,
        exclude_items: Sequence[str] | None = None,
        model: str | None = None,
        on_text: Callable[[str], None] | None = None,
        on_sources: Callable[[Sequence[Retrieved]], None] | None = None,
        asked_by: str | None = None,
    ) -> Answer:
        """Ask again what an answer was given to: a new answer, from what is stored now.

        exclude_items, model: instead of those of the first time. Raises as `ask` does.
        """
        with db.reading(self.engine) as session:
            asked = answers.question_of(session, answer_id)
        asked = replace(asked, asked_by=asked_by, model=model or asked.model)
        if exclude_items is not None:
            asked = replace(asked, exclude_items=tuple(exclude_items))
        return answer_question(asked, self._parts(asked.model), on_text, on_sources)

    def _parts(self, model: str | None) -> Parts:
        return Parts(
            self.engine,
            self._retriever,
            self.models.answerer(model),
            self.settings.context_characters,
            lambda key: own_video.stills(self.blobs, key, self.limits),
            self.models.judge,
        )

    def _history(self, collection: str, conversation_id: str) -> list[Turn]:
        with db.reading(self.engine) as session:
            key = collections.get(session, collection).key
            return answers.history(session, key, conversation_id)

    def search(
        self,
        collection: str,
        query: str,
        images: Sequence[PictureInput] = (),
        filters: Mapping[str, Any] | None = None,
        k: int | None = None,
        channels: Sequence[Channel] | None = None,
        on_note: Callable[[str], None] = log.warning,
    ) -> list[Retrieved]:
        """The k best items for words, pictures or both, best first. Raises as `ask` does.

        channels: only these searches; None: all that fit. on_note: told in a sentence of each
        search that was left out because the collection's embedder for it is gone.
        """
        asked = self._question(collection, query, images, filters, k)
        asked = replace(asked, channels=tuple(channels) if channels is not None else None)
        check(asked, needs_text=False)
        return self._retriever.retrieve(asked, on_note)

    def answer(self, answer_id: str) -> Answer:
        """An answer as it was given. Raises `NotFound`."""
        with db.reading(self.engine) as session:
            return answers.get(session, answer_id)

    def sources(self, answer_id: str) -> list[Retrieved | None]:
        """What the model was shown, in the order of its markers; None: deleted since then.

        Raises `NotFound`.
        """
        with db.reading(self.engine) as session:
            return answers.sources(session, answer_id)

    def rate(self, answer_id: str, rating: int, comment: str | None = None) -> Answer:
        """rating: -1, 0 or 1. Raises `NotFound`, `InvalidInput`."""
        if isinstance(rating, bool) or rating not in (-1, 0, 1):
            raise InvalidInput("a rating is -1, 0 or 1")
        if comment is not None and not names.is_storable(comment):
            raise InvalidInput("the comment holds a NUL or a lone surrogate; leave it out")
        with db.writing(self.engine) as session:
            answers.rate(session, answer_id, rating, comment)
            return answers.get(session, answer_id)

    def _question(
        self,
        collection: str,
        text: str,
        images: Sequence[PictureInput],
        filters: Mapping[str, Any] | None,
        k: int | None,
        **more: Any,
    ) -> Question:
        k = k if k is not None else self.settings.k
        asked = Question(collection, text, (), filters, k, **more)
        check_form(asked)
        with db.reading(self.engine) as session:
            collections.get(session, collection)  # before anything is stored of a stranger's input
        return replace(asked, pictures=self.keep_pictures(images))

    def keep_pictures(self, images: Sequence[PictureInput]) -> tuple[str, ...]:
        """Store a question's pictures; their blob keys. Raises `InvalidQuestion`."""
        return self._intake.pictures(images)

    # --- backups --------------------------------------------------------------------------------

    def backup(
        self, file: str | os.PathLike[str], watch: Watch = lambda found, done: False
    ) -> BackupReport:
        """Write everything into one new file, while everything else goes on.

        The file is whole or not there. It holds all documents, and the hashes of the service's
        keys: keep it as safe as the data folder. watch: told how many files there are and how many
        are in it; where it returns True, `backup.Stopped` is raised. Raises `Conflict` where the
        file exists already, `DataFolderError` when it cannot be written, `DataFolderBusy` during
        another backup.
        """
        return operations.backup(self, _absolute(file), watch)

    @classmethod
    def restore(
        cls,
        file: str | os.PathLike[str],
        data: str | os.PathLike[str] | None = None,
        with_keys: bool = True,
        **settings: Any,
    ) -> RestoreReport:
        """Restore a backup into an empty or new data folder, and an empty database.

        The database may be of another kind than the backup's. Nothing counts before every
        checksum was compared; when anything fails, nothing is left. with_keys: False leaves the
        service's keys out. Raises `Conflict` for a place that is not empty, `InvalidInput` for
        what is no backup, `CorruptData` for a damaged one, `DataFolderError` for a full disk.
        """
        return operations.restore(read_settings(data=data, **settings), _absolute(file), with_keys)

    # --- jobs -----------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        with db.reading(self.engine) as session:
            return job_rows.get(session, job_id)

    def jobs(self) -> list[Job]:
        """The newest first."""
        with db.reading(self.engine) as session:
            return job_rows.recent(session)

    def cancel_job(self, job_id: str) -> None:
        """It stops after the batch at hand; what it has added stays."""
        with db.writing(self.engine) as session:
            job_rows.request_cancel(session, job_id)

    def retry_job(self, job_id: str) -> Job:
        """Do it again: a failed or cancelled job goes on where it stopped, a done one begins anew.

        Raises `NotFound`, and `Conflict` while it is not finished and nobody has cancelled it.
        """
        with db.writing(self.engine) as session:
            again = job_rows.retry(session, job_id)
        self.work_soon()
        return self.job(again)

    def begin_upkeep(self, kind: Literal["merge", "verify"], collection: str | None = None) -> Job:
        """Begin to merge segments, or to compare every stored byte with its checksum.

        collection: of it alone; None: all. Asked again while it is unfinished, this joins it.
        Raises `NotFound`.
        """
        with db.writing(self.engine) as session:
            key = collections.get(session, collection).key if collection is not None else None
            job_id, _ = job_rows.create(session, key, kind, {})
        self.work_soon()
        return self.job(job_id)

    def wait_for_job(self, job_id: str, on_progress: Callable[[Job], None] | None = None) -> Job:
        return job_runner.wait_for(self.engine, self._runner, job_id, on_progress)

    def repair(self) -> int:
        """Make damaged segments again from the database; how many there were.

        Raises `DataFolderBusy` while a job runs, and `CorruptData` when a picture is lost too.
        """
        return operations.repair(self)

    def repair_files(self) -> tuple[set[str], dict[str, str]]:
        """Compare every stored file with its checksum, and make again what can be.

        (blobs that were made again, those that stay lost with what is wrong and what to do).
        """
        return operations.repair_files(self)

    def remove_orphans(self) -> int:
        """Delete files that nothing refers to, as killed processes leave them; how many.

        Blobs of the last hour stay: a question that is being answered may need them. Raises
        `DataFolderBusy` while a job runs.
        """
        return operations.remove_orphans(self)

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


def _absolute(path: str | os.PathLike[str]) -> Path:
    try:
        absolute = os.path.abspath(os.fspath(path))
        # In what was given: on the way to an absolute path "a\0/.." is gone.
        well = "\0" not in os.fspath(path) and bool(os.fsencode(absolute))
    except (TypeError, ValueError):  # no path, bytes, or characters that no file name can have
        well = False
    if not well:
        raise InvalidInput(f"{reprlib.repr(path)} is no path; give files or folders as texts")
    return Path(absolute)
