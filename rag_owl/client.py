"""The whole system in one object, for Python users and the command line."""

from __future__ import annotations

import copy
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rag_owl import db, operations, reindexing, retention
from rag_owl import paths as stored_paths
from rag_owl.backup import BackupReport, Watch
from rag_owl.errors import InvalidInput
from rag_owl.jobs import wait_for
from rag_owl.questions import Questions
from rag_owl.restore import RestoreReport
from rag_owl.settings import read_settings
from rag_owl.store import collections, documents, generations, items
from rag_owl.store import jobs as job_rows
from rag_owl.store.collections import CollectionInfo
from rag_owl.store.generations import GenerationInfo
from rag_owl.types import Document, Item, Job


class RagOwl(Questions):
    """A data folder, opened. Safe for many threads; use it in a `with`, or call `close()`.

    owl = RagOwl.open("./owl-data")
    job = owl.ingest("flags", ["./flags"])
    answer = owl.ask("flags", "What is the capital of this country?", images=["flag.png"])
    """

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
        return self._begun(job_id, wait, on_progress)

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
        return self._begun(job_id, wait, on_progress)

    def generations(self, collection: str) -> list[GenerationInfo]:
        """What its vectors were made with: the live ones, those before and those being made.

        The newest first. Raises `NotFound`.
        """
        with db.reading(self.engine) as session:
            return generations.infos(session, collections.get(session, collection).key)

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
            # In the order of those who add, jobs first: no deadlock.
            job_rows.hold_ingests(session, key)
            collections.touch(session, key)
            documents.delete(session, key, document_id)
            job_id = retention.begin(session, key)
        return self._begun(job_id, wait)

    def delete_collection(self, collection: str, wait: bool = False) -> Job:
        """From now on there is none of that name; as `delete_document`, of all that it held."""
        with db.writing(self.engine) as session:
            job_id = retention.delete_collection(session, collection)
        return self._begun(job_id, wait)

    def expire(self, wait: bool = True) -> Job:
        """Delete what is older than the settings keep; by the clock it happens every hour."""
        with db.writing(self.engine) as session:
            job_id, _ = job_rows.create(session, None, "expire", {})
        return self._begun(job_id, wait)

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
        return self._begun(again)

    def begin_upkeep(self, kind: Literal["merge", "verify"], collection: str | None = None) -> Job:
        """Begin to merge segments, or to compare every stored byte with its checksum.

        collection: of it alone; None: all. Asked again while it is unfinished, this joins it.
        Raises `NotFound`.
        """
        with db.writing(self.engine) as session:
            key = collections.get(session, collection).key if collection is not None else None
            job_id, _ = job_rows.create(session, key, kind, {})
        return self._begun(job_id)

    def wait_for_job(self, job_id: str, on_progress: Callable[[Job], None] | None = None) -> Job:
        return wait_for(self.engine, self._runner, job_id, on_progress)

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

    def _begun(
        self, job_id: str, wait: bool = False, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        self.work_soon()
        # A deleted collection is nobody's any more: only the whole system sees its job.
        whole = copy.copy(self)
        whole.engine = self._unlimited
        return whole.wait_for_job(job_id, on_progress) if wait else whole.job(job_id)


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
