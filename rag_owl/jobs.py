"""Durable jobs: rows are the truth; here is the runner that works them inside this process.

Any process that has the folder open may work its jobs. The one that does holds a lock on the
folder, only while there is work; the others look again every second. A process that dies lets go
of the lock (the kernel sees to it), and whoever looks next goes on from the last committed batch.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Engine

from rag_owl import db
from rag_owl.errors import Conflict, DataFolderBusy, DataFolderError, RagOwlError
from rag_owl.store import jobs
from rag_owl.store.jobs import Claim
from rag_owl.types import Job

log = logging.getLogger(__name__)

Work = Callable[[Claim, Callable[[], bool]], bool]
"""Works a claimed job until it is done (True), or was asked to stop by the callback (False)."""

_LOOK_EVERY = 0.5  # seconds
_AFTER_TROUBLE = 5.0  # seconds until a storage that failed is tried again


def folder_lock(folder: Path) -> FileLock:
    """The lock of whoever changes the folder's segments or schema. Not inherited by children."""
    return FileLock(folder / "work.lock", thread_local=False)


class Runner:
    """One background thread that works this folder's jobs whenever nobody else does."""

    def __init__(self, engine: Engine, folder: Path, work: Work) -> None:
        self._engine = engine
        self._folder = folder
        self._work = work
        self._name = f"{platform.node()}:{os.getpid()}"
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.trouble: RagOwlError | None = None
        """Why the last attempt could not even be written down (a full disk); None: all is well."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="rag-owl-jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop at the next batch. An unfinished job stays, and is resumed by whoever opens next."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def wake(self) -> None:
        self._wake.set()

    def _loop(self) -> None:
        pause = _LOOK_EVERY
        while not self._stop.is_set():
            try:
                self._work_all()
                self.trouble, pause = None, _LOOK_EVERY
            except RagOwlError as error:
                self.trouble, pause = error, _AFTER_TROUBLE
                log.error("jobs cannot be worked: %s", error)
            except Exception as error:
                self.trouble, pause = (
                    DataFolderError(f"jobs cannot be worked: {error}"),
                    _AFTER_TROUBLE,
                )
                log.exception("the job runner failed; it tries again")
            self._wake.wait(pause)
            self._wake.clear()

    def _work_all(self) -> None:
        with db.reading(self._engine) as session:
            if not jobs.has_unfinished(session):
                return
        lock = folder_lock(self._folder)
        try:
            _acquire(lock, 0)
        except DataFolderBusy:
            return  # another process is at it
        try:
            while not self._stop.is_set() and self._work_one():
                pass
        finally:
            lock.release()

    def _work_one(self) -> bool:
        """The oldest unfinished job; False where there is none or it did not come to its end."""
        with db.writing(self._engine) as session:
            claim = jobs.claim_next(session, self._name)
        if claim is None:
            return False
        state, error = "done", None
        try:
            if not self._work(claim, self._stop.is_set):
                if self._stop.is_set():
                    with db.writing(self._engine) as session:
                        jobs.release(session, claim)
                    return False
                state = "cancelled"
        except Conflict as conflict:
            log.warning("job %s left to another worker: %s", claim.job_id, conflict)
            return True
        except RagOwlError as failure:
            state, error = "failed", str(failure)
        except Exception as failure:
            log.exception("job %s failed", claim.job_id)
            state, error = "failed", f"{type(failure).__name__}: {failure}"
        with db.writing(self._engine) as session:
            jobs.finish(session, claim, state, error)
        return True


def wait_for(
    engine: Engine,
    runner: Runner,
    job_id: str,
    on_progress: Callable[[Job], None] | None = None,
    every: float = 0.1,
) -> Job:
    """Block until the job is finished, whichever process works it.

    on_progress: called with the job's state again and again, the last time when it is finished.
    Raises the runner's trouble when the job's end cannot be written down (a full disk), and
    `Conflict` when the runner is closed meanwhile.
    """
    while True:
        with db.reading(engine) as session:
            job = jobs.get(session, job_id)
        if on_progress:
            on_progress(job)
        if job.finished:
            return job
        if runner.trouble is not None:
            raise runner.trouble
        if runner.stopping:
            raise Conflict(f"closed while job {job_id} ran; the next opening resumes it")
        time.sleep(every)


@contextmanager
def exclusively(folder: Path, seconds: float) -> Iterator[None]:
    """Hold the folder for a change that no job may see half done. Raises `DataFolderBusy`."""
    lock = folder_lock(folder)
    _acquire(lock, seconds)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, seconds: float) -> None:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise DataFolderBusy(
            f"{lock.lock_file} is held by another process; wait until its jobs are done"
        ) from None
    except OSError as error:
        raise DataFolderError(
            f"cannot lock {lock.lock_file}: {error.strerror or error}; check who owns it"
        ) from error
