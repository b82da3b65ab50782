"""Durable jobs: rows are the truth; here is how they are worked, and the runner of one folder.

On SQLite any process that has the folder open may work its jobs. The one that does holds a lock
on the folder, only while there is work; the others look again twice a second. A process that dies
lets go of the lock (the kernel sees to it), and whoever looks next goes on from the last committed
batch. On PostgreSQL a queue carries them to workers on any number of machines:
`rag_owl.job_queue`.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

from filelock import FileLock, Timeout
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from rag_owl import db
from rag_owl.errors import (
    Conflict,
    DatabaseUnavailable,
    DataFolderBusy,
    DataFolderError,
    JobLost,
    RagOwlError,
    StorageUnavailable,
)
from rag_owl.job_kinds import Lane, lane_of
from rag_owl.schedules import Schedules
from rag_owl.store import claims, jobs
from rag_owl.store.claims import Claim
from rag_owl.store.jobs import Waiting
from rag_owl.types import Job

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Claim, Callable[[], bool]], bool]
"""Works a claimed job until it is done (True), or was asked to stop by the callback (False)."""

LOOK_EVERY = 0.5  # seconds
STORAGE_PATIENCE = 300.0  # seconds of failures until the job fails
BEAT_EVERY = 5.0  # seconds: how often a job says that it is being worked
_AFTER_TROUBLE = 5.0  # seconds until a storage that failed is tried again
MOST_INTERRUPTIONS = 10  # in a row, of which an ingest's files account for a few (`pipeline`)


class Runner(Protocol):
    """What works jobs in this process, or sees to it that others do."""

    trouble: RagOwlError | None
    """Why the last attempt could not even be written down (a full disk); None: all is well."""

    @property
    def stopping(self) -> bool: ...

    def start(self) -> None:
        """Begin to work jobs here, in the background."""

    def stop(self) -> None:
        """Stop at the next batch. An unfinished job stays, and others go on with it."""

    def wake(self) -> None:
        """There is a new job."""


# --- working one job ------------------------------------------------------------------------------


def work_through(
    engine: Engine, claim: Claim, work: Work, stopping: Callable[[], bool]
) -> Literal["ended", "left", "lost"]:
    """Work a claimed job to its end and write that down.

    "left": it is to be gone on with; "lost": another worker has it by now. A database that goes
    away is waited for, and the job goes on from its last batch; an object store as well, for
    `STORAGE_PATIENCE`. Raises `DataFolderError` where the end cannot be written down.
    """
    outcome: tuple[str, str | None] | None = None
    failing = _Failing()
    with _Keeper(engine, claim) as keeper:
        while True:
            try:
                if outcome is None:
                    with db.writing(engine) as session:
                        claim = claims.renew(session, claim)
                    outcome = _attempt(engine, claim, work, keeper, stopping)
                with db.writing(engine) as session:
                    _write_down(session, claim, *outcome)
                return "left" if outcome[0] == "left" else "ended"
            except JobLost as lost:
                log.warning("%s", lost)
                return "lost"
            except StorageUnavailable as error:
                log.warning("job %s waits for its files: %s", claim.job_id, error)
                if failing.too_long():
                    outcome = "failed", str(error)
                else:
                    keeper.pause(LOOK_EVERY * 4, stopping)
            except DatabaseUnavailable as error:
                log.warning("job %s waits for the database: %s", claim.job_id, error)
                if not wait_for_database(engine, stopping):
                    return "left"


def _attempt(
    engine: Engine, claim: Claim, work: Work, keeper: _Keeper, stopping: Callable[[], bool]
) -> tuple[str, str | None]:
    """(how it ended, why)."""
    if claim.interruptions >= MOST_INTERRUPTIONS:
        return "failed", (
            f"the process that worked it ended {claim.interruptions} times in a row with nothing "
            "done; see its log, then retry the job"
        )
    try:
        with db.storage_errors(engine):
            if work(claim, lambda: stopping() or keeper.stop):
                return "done", None
    except (JobLost, DatabaseUnavailable, StorageUnavailable):
        raise
    except RagOwlError as failure:
        return "failed", str(failure)
    except Exception as failure:
        log.exception("job %s failed", claim.job_id)
        return "failed", f"{type(failure).__name__}: {failure}"
    with db.reading(engine) as session:
        cancelled = claims.standing(session, claim) == "cancelled"
    return ("cancelled" if cancelled else "left"), None


def _write_down(session: Session, claim: Claim, state: str, error: str | None) -> None:
    if state == "left":
        claims.release(session, claim)
    elif state == "cancelled":
        claims.finish_cancelled(session, claim)
    else:
        claims.finish(session, claim, state, error)


def wait_for_database(engine: Engine, stopping: Callable[[], bool]) -> bool:
    """Until it can be reached again; False: asked to stop before that."""
    while not stopping():
        try:
            with db.reading(engine) as session:
                session.execute(text("SELECT 1"))
            return True
        except DatabaseUnavailable:
            time.sleep(LOOK_EVERY)
    return False


class _Failing:
    """How long an object store has failed without a pause of as long."""

    def __init__(self) -> None:
        self._since = self._last = -math.inf

    def too_long(self) -> bool:
        """It has failed just now."""
        now = time.monotonic()
        if now - self._last > STORAGE_PATIENCE:
            self._since = now
        self._last = now
        return now - self._since > STORAGE_PATIENCE


class _Keeper:
    """Looks after a job that is being worked: beats its heart, notices that it is to stop."""

    def __init__(self, engine: Engine, claim: Claim) -> None:
        self._engine = engine
        self._claim = claim
        self._end = threading.Event()
        self.stop = False  # cancelled, or somebody else's by now
        self._thread = threading.Thread(target=self._keep, name="rag-owl-keeper", daemon=True)

    def __enter__(self) -> _Keeper:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def pause(self, seconds: float, stopping: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stop and not stopping():
            time.sleep(LOOK_EVERY / 4)

    def _keep(self) -> None:
        beaten = time.monotonic()
        while not self._end.wait(LOOK_EVERY):
            try:
                with db.reading(self._engine) as session:
                    self.stop = claims.standing(session, self._claim) != "ours"
                if not self.stop and time.monotonic() - beaten > BEAT_EVERY:
                    with db.writing(self._engine) as session:
                        claims.beat(session, self._claim)
                    beaten = time.monotonic()
            except JobLost:
                self.stop = True
            except Exception as error:  # the job itself meets it too, and says so
                log.debug("a job's row cannot be looked at: %s", error)


# --- the runner of one folder ---------------------------------------------------------------------


def folder_lock(folder: Path) -> FileLock:
    """The lock of whoever changes the folder's segments or schema. Not inherited by children."""
    return FileLock(folder / "work.lock", thread_local=False)


class FolderRunner:
    """Background threads, one for each lane, that work this folder's jobs when nobody else does."""

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        work: Work,
        tidy: Callable[[], None],
        schedules: Schedules,
    ) -> None:
        """tidy: called with the lock held and before any job, to remove what dead ones left."""
        self._engine = engine
        self._folder = folder
        self._work = work
        self._tidy = tidy
        self._schedules = schedules
        self._name = worker_name()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lanes: dict[Lane, threading.Thread] = {}
        self._rest: dict[Lane, float] = {}  # until when, after trouble
        self.trouble: RagOwlError | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="rag-owl-jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
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
        while not self._stop.is_set():
            pause = LOOK_EVERY
            try:
                self._schedules.begin_due()
                self._work_all()
            except Exception as error:
                self._be_troubled(error)
                pause = _AFTER_TROUBLE
            self._wake.wait(pause)
            self._wake.clear()

    def _be_troubled(self, error: Exception) -> None:
        if isinstance(error, RagOwlError):
            self.trouble = error
            log.error("jobs cannot be worked: %s", error)
        else:
            self.trouble = DataFolderError(f"jobs cannot be worked: {error}")
            log.exception("the job runner failed; it tries again", exc_info=error)

    def _unfinished(self) -> list[Waiting]:
        with db.reading(self._engine) as session:
            return jobs.unfinished(session)

    def _work_all(self) -> None:
        """Until nothing is left to do, with the folder's lock; at once where another holds it."""
        if not self._unfinished():
            self.trouble = None
            return
        lock = folder_lock(self._folder)
        try:
            _acquire(lock, 0)
        except DataFolderBusy:
            return  # another process is at it
        try:
            self._tidy()
            while not self._stop.is_set():
                self._schedules.begin_due()
                waiting = self._unfinished()
                now = time.monotonic()
                for lane in {lane_of(each.kind) for each in waiting}:
                    if lane not in self._lanes and self._rest.get(lane, 0) <= now:
                        self._begin(lane)
                if not waiting and not self._lanes:
                    return
                self._wake.wait(LOOK_EVERY)
                self._wake.clear()
        finally:
            for thread in list(self._lanes.values()):
                thread.join()
            lock.release()

    def _begin(self, lane: Lane) -> None:
        thread = threading.Thread(target=self._work_lane, args=(lane,), name=f"rag-owl-{lane}")
        self._lanes[lane] = thread
        thread.start()

    def _work_lane(self, lane: Lane) -> None:
        try:
            while not self._stop.is_set() and self._work_one(lane):
                self.trouble = None
        except Exception as error:
            self._rest[lane] = time.monotonic() + _AFTER_TROUBLE
            self._be_troubled(error)
        finally:
            self._lanes.pop(lane)
            self._wake.set()

    def _work_one(self, lane: Lane) -> bool:
        """The oldest unfinished job; False where there is none or it did not come to its end."""
        mine = (each.id for each in self._unfinished() if lane_of(each.kind) == lane)
        job_id = next(mine, None)
        if job_id is None:
            return False
        with db.writing(self._engine) as session:
            claim = claims.claim(session, job_id, self._name)
        if claim is None:  # cancelled in between
            return True
        return work_through(self._engine, claim, self._work, self._stop.is_set) != "left"


def worker_name() -> str:
    return f"{platform.node()}:{os.getpid()}"


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
    `Conflict` when the runner is closed meanwhile. A database that goes away is waited for.
    """
    while True:
        try:
            with db.reading(engine) as session:
                job = jobs.get(session, job_id)
        except DatabaseUnavailable:
            if not wait_for_database(engine, lambda: runner.stopping):
                raise
            continue
        if on_progress:
            on_progress(job)
        if job.finished:
            return job
        if runner.trouble is not None and not isinstance(runner.trouble, DatabaseUnavailable):
            raise runner.trouble
        if runner.stopping:
            raise Conflict(f"closed while job {job_id} ran; the next opening resumes it")
        time.sleep(every)


_WORKING = 7_236_455  # PostgreSQL's advisory lock: shared by jobs, or held alone


@contextmanager
def exclusively(folder: Path, seconds: float, engine: Engine | None = None) -> Iterator[None]:
    """Hold the folder for a change that no job may see half done. Raises `DataFolderBusy`.

    engine: on PostgreSQL, also no job of another machine.
    """
    lock = folder_lock(folder)
    _acquire(lock, seconds)
    try:
        if engine is None or engine.dialect.name != "postgresql":
            yield
            return
        until = time.monotonic() + seconds
        while True:
            with among_others(engine, alone=True) as alone:
                if alone:
                    yield
                    return
            if time.monotonic() > until:
                raise DataFolderBusy("jobs are being worked; wait until they are done")
            time.sleep(LOOK_EVERY)
    finally:
        lock.release()


@contextmanager
def among_others(
    engine: Engine, alone: bool = False, stopping: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """On PostgreSQL: while a job is worked. alone: while none is; False: there is one.

    Whoever works a job waits for one who is alone, until it is to stop: then False as well.
    The lock goes with its connection. A job whose connection is gone goes on without: what it
    commits is checked by its fence.
    """
    shared = "" if alone else "_shared"
    with db.storage_errors(engine):
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    got = False
    try:
        with db.storage_errors(engine):
            ask = text(f"SELECT pg_try_advisory_lock{shared}({_WORKING})")
            while not (got := bool(connection.scalar(ask))) and not alone and not stopping():
                time.sleep(LOOK_EVERY)
        yield got
    finally:
        if got:
            with suppress(DBAPIError):
                connection.execute(text(f"SELECT pg_advisory_unlock{shared}({_WORKING})"))
        with suppress(DBAPIError):
            connection.close()


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
