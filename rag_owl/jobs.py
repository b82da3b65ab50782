"""Durable jobs: rows are the truth; here is how a claimed one is worked, and how one is waited for.

Who claims them: on SQLite the one process that has the folder's lock (`rag_owl.job_folder`), on
PostgreSQL workers on any number of machines (`rag_owl.job_queue`).
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from rag_owl import db, retention
from rag_owl.errors import (
    Conflict,
    DatabaseUnavailable,
    JobLost,
    RagOwlError,
    StorageUnavailable,
)
from rag_owl.store import claims, jobs
from rag_owl.store.claims import Claim
from rag_owl.types import Job

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Claim, Callable[[], bool]], bool]
"""Works a claimed job until it is done (True), or was asked to stop by the callback (False)."""

LOOK_EVERY = 0.5  # seconds
STORAGE_PATIENCE = 300.0  # seconds of failures until the job fails
BEAT_EVERY = 5.0  # seconds: how often a job says that it is being worked
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
    if state in ("failed", "cancelled") and jobs.is_withdrawn(session, claim.job_id):
        retention.begin(session, claim.collection_key)  # its upload is not kept to be read again


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
