"""Jobs on SQLite: any process that has the folder open may work them.

The one that does holds a lock on the folder, only while there is work; the others look again twice
a second. A process that dies lets go of the lock (the kernel sees to it), and whoever looks next
goes on from the last committed batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from rag_owl import db
from rag_owl.errors import DataFolderBusy, DataFolderError, RagOwlError
from rag_owl.job_kinds import Lane, lane_of
from rag_owl.jobs import LOOK_EVERY, Work, work_through, worker_name
from rag_owl.schedules import Schedules
from rag_owl.store import claims, jobs
from rag_owl.store.jobs import Waiting
from rag_owl.work_lock import acquire

log = logging.getLogger(__name__)

_AFTER_TROUBLE = 5.0  # seconds until a storage that failed is tried again


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
        try:
            lock = acquire(self._folder, 0)
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
