"""Jobs on PostgreSQL: Procrastinate carries them to workers on any number of machines.

The rows of `jobs` stay the truth: a task of the queue carries a job's id alone, and whoever gets it
claims the row. The queue's own tables are in a schema of their own and can be thrown away at any
time: a sweep defers every unfinished job that is not in the queue.

A worker says every few seconds that it lives. When it has been silent for `stalled_seconds`, its
jobs go back into the queue; if it was only suspended, it finds its claim outdone when it wants to
commit something (`store.claims.advance`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from procrastinate import App, BaseRetryStrategy, JobContext, PsycopgConnector, RetryDecision, sql
from procrastinate import __version__ as procrastinate_version
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job as Task
from procrastinate.schema import SchemaManager
from procrastinate.sync_psycopg_connector import SyncPsycopgConnector
from sqlalchemy import Connection, Engine, make_url, text

from rag_owl import db
from rag_owl.errors import DatabaseUnavailable, DataFolderError, RagOwlError
from rag_owl.job_kinds import LANES, lane_of
from rag_owl.jobs import LOOK_EVERY, Work, wait_for_database, work_through, worker_name
from rag_owl.schedules import Schedules
from rag_owl.store import claims
from rag_owl.store.claims import Claim
from rag_owl.work_lock import among_others

log = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA = "procrastinate"
_TASK = "rag_owl.work"
_POLL = 2.0  # seconds: a task that came back is not announced
_AFTER_TROUBLE = 5  # seconds until a storage that failed is tried again
_PREPARING, _DEFERRING = 7_236_456, 7_236_457  # advisory locks; no other has these numbers


class _Again(Exception):
    """The job is to be gone on with, here or elsewhere."""


class _Return(BaseRetryStrategy):
    """Back into the queue: at once what was let go of, later what met with trouble."""

    def get_retry_decision(self, *, exception: BaseException, job: Task) -> RetryDecision:
        return RetryDecision(
            retry_in={"seconds": 0 if isinstance(exception, _Again) else _AFTER_TROUBLE}
        )


class _Patient(PsycopgConnector):
    """Waits for a database that goes away, so that nothing of the worker ends for that."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gives_up = False
        self.lost: set[int] = set()  # tasks that other workers have by now: not ours to finish

    async def _wait(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except ConnectorException as error:
                if self.gives_up or not isinstance(
                    error.__cause__, psycopg.OperationalError | psycopg.InterfaceError
                ):
                    raise
                await asyncio.sleep(LOOK_EVERY)

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        if query == sql.queries["finish_job"] and arguments.get("job_id") in self.lost:
            self.lost.discard(arguments["job_id"])
            return
        ask = super().execute_query_async
        await self._wait(lambda: ask(query, **arguments))

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:
        ask = super().execute_query_one_async
        if query == sql.queries["fetch_job"]:
            # A task may be ours although the answer did not arrive: the worker is begun anew under
            # another number, and what the old one had goes back.
            fetched: dict[str, Any] = await ask(query, **arguments)
            return fetched
        return await self._wait(lambda: ask(query, **arguments))

    async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[dict[str, Any]]:
        ask = super().execute_query_all_async
        return await self._wait(lambda: ask(query, **arguments))

    async def listen_notify(self, on_notification: Any, channels: Iterable[str]) -> None:
        listen, names = super().listen_notify, list(channels)
        await self._wait(lambda: listen(on_notification, names))


class QueueRunner:
    """Puts jobs into the queue and, once started, works them: one at a time of each lane."""

    def __init__(
        self,
        engine: Engine,
        work: Work,
        tidy: Callable[[], None],
        schedules: Schedules,
        stalled_seconds: float,
    ) -> None:
        """tidy: called while no job runs anywhere, to remove what dead ones left."""
        self._engine = engine
        self._work = work
        self._tidy = tidy
        self._schedules = schedules
        self._stalled = stalled_seconds
        self._prepared = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connector = self._new_connector()
        self._ended: asyncio.Event | None = None
        self._working: set[str] = set()  # jobs that are worked here now
        self.trouble: RagOwlError | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="rag-owl-jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._connector.gives_up = True
        if self._loop is not None and self._ended is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._ended.set)
        if self._thread is not None:
            self._thread.join()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def wake(self) -> None:
        """Put new jobs into the queue now. Where that fails, a worker's sweep does it."""
        try:
            self._defer_waiting()
        except RagOwlError as error:
            log.warning("a job waits for the next sweep: %s", error)

    # --- into the queue ---------------------------------------------------------------------------

    def _defer_waiting(self) -> None:
        if not self._prepared:
            prepare_queue(self._engine)
            self._prepared = True
        app = App(connector=SyncPsycopgConnector())
        with _connection(self._engine) as connection:
            _lock(connection, _DEFERRING)
            waiting = connection.execute(text(_UNDEFERRED), {"stalled": self._stalled}).all()
            if not waiting:
                return
            connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))
            for job_id, kind, collection_key in waiting:
                lane = lane_of(kind)
                # Ingests of one collection work side by side, whatever else there is does not.
                alone = f"job {job_id}" if lane == "ingest" else f"{lane} {collection_key or 0}"
                app.configure_task(
                    _TASK,
                    queue=lane,
                    lock=alone,
                    queueing_lock=f"job {job_id}",
                    connection=connection.connection.driver_connection,
                ).defer(job_id=job_id)

    # --- out of it --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not wait_for_database(self._engine, self._stop.is_set):
                    return
                prepare_queue(self._engine)
                self._prepared = True
                with among_others(self._engine, alone=True) as alone:
                    if alone:
                        self._tidy()
                asyncio.run(self._main())
            except Exception as error:
                self._be_troubled(error)
                self._stop.wait(_AFTER_TROUBLE)

    def _be_troubled(self, error: Exception) -> None:
        if isinstance(error, RagOwlError):
            self.trouble = error
            log.error("jobs cannot be worked: %s", error)
        else:
            self.trouble = DataFolderError(f"jobs cannot be worked: {error}")
            log.exception("the job runner failed; it tries again", exc_info=error)

    def _new_connector(self) -> _Patient:
        url = make_url(self._engine.url).set(drivername="postgresql")
        options = f"-c search_path={SCHEMA}"
        if isinstance(given := url.query.get("options"), str):
            options = f"{given} {options}"
            url = url.difference_update_query(["options"])
        return _Patient(
            conninfo=url.render_as_string(hide_password=False),
            kwargs={"options": options, "connect_timeout": 5},
            min_size=1,
            max_size=4,
            timeout=5,
            reconnect_timeout=5,
        )

    async def _main(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        if self._stop.is_set():
            return
        self._connector = self._new_connector()
        self._connector.gives_up = self._stop.is_set()
        app = App(connector=self._connector)
        app.task(name=_TASK, pass_context=True, retry=_Return())(self._work_task)
        async with app.open_async():
            workers = [asyncio.create_task(self._keep_working(app, lane)) for lane in LANES]
            workers.append(asyncio.create_task(self._keep_sweeping(app)))
            await self._ended.wait()
            left = set(workers)
            for each in left:
                each.cancel()
            while left:
                _, left = await asyncio.wait(left, timeout=1)
                # Who comes to an end at that very moment may overhear it (`asyncio.wait_for` before
                # Python 3.12): it is said again, but to nobody who works.
                for each in left if not self._working else ():
                    each.cancel()

    async def _keep_working(self, app: App, lane: str) -> None:
        """A worker that is begun again when it was taken for dead, or could not ask for work."""
        while not self._stop.is_set():
            try:
                await app.run_worker_async(
                    queues=[lane],
                    name=f"{worker_name()}:{lane}",
                    concurrency=1,
                    fetch_job_polling_interval=_POLL,
                    delete_jobs="always",
                    install_signal_handlers=False,
                    update_heartbeat_interval=self._stalled / 6,
                    stalled_worker_timeout=self._stalled,
                )
            except Exception as error:
                log.warning("the queue's worker for %s is begun again: %s", lane, error)
            await asyncio.sleep(LOOK_EVERY)

    async def _keep_sweeping(self, app: App) -> None:
        """Into the queue what is not in it, and back into it what dead workers had."""
        while not self._stop.is_set():
            try:
                await asyncio.to_thread(self._schedules.begin_due)
                await asyncio.to_thread(self._defer_waiting)
                stalled = await app.job_manager.get_stalled_jobs(
                    seconds_since_heartbeat=self._stalled
                )
                for task in stalled:
                    log.warning("job %s: its worker is silent", task.task_kwargs.get("job_id"))
                    with suppress(ConnectorException):  # another worker was faster
                        await app.job_manager.retry_job(task)
            except Exception as error:
                log.warning("the queue cannot be swept: %s", error)
            await asyncio.sleep(max(self._stalled / 6, LOOK_EVERY))

    def _work_task(self, context: JobContext, job_id: str) -> None:
        """A task of the queue: claim the job and work it. Raises `_Again` to give it back."""
        self._working.add(job_id)
        try:
            # Claimed within the lock: what waits for it is nobody's yet, and not silent.
            with among_others(self._engine, stopping=self._stop.is_set) as may:
                if not may:
                    raise _Again
                claim = self._claim(job_id)
                if claim is None:
                    return
                ended = work_through(self._engine, claim, self._work, self._stop.is_set)
            self.trouble = None
        except (_Again, DatabaseUnavailable) as error:
            wait_for_database(self._engine, self._stop.is_set)
            raise _Again from error
        except Exception as error:
            self._be_troubled(error)
            raise
        finally:
            self._working.discard(job_id)
        if ended == "lost" and context.job.id is not None:
            self._connector.lost.add(context.job.id)
        if ended == "left":
            raise _Again

    def _claim(self, job_id: str) -> Claim | None:
        with db.writing(self._engine) as session:
            return claims.claim(session, job_id, worker_name())


# Finished tasks are deleted, so any that is there stands for a job that is waiting or being worked.
# A job that is worked although its task is gone still beats its heart.
_UNDEFERRED = f"""
    SELECT j.id, j.kind, j.collection_key FROM jobs j
    WHERE j.state IN ('queued', 'running')
    AND NOT EXISTS (
        SELECT 1 FROM {SCHEMA}.procrastinate_jobs q
        WHERE q.queueing_lock = 'job ' || j.id AND q.status IN ('todo', 'doing')
    )
    AND (
        j.state = 'queued' OR j.heartbeat_at IS NULL
        OR j.heartbeat_at < extract(epoch FROM now()) - :stalled
    )
    ORDER BY j.created_at, j.id
"""


@contextmanager
def _connection(engine: Engine) -> Iterator[Connection]:
    """One transaction."""
    with db.storage_errors(engine), engine.begin() as connection:
        yield connection


def _lock(connection: Connection, number: int) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def prepare_queue(engine: Engine) -> None:
    """Make the queue's tables, and make them anew when Procrastinate is a newer one.

    What was in them is deferred again by the next sweep. Tables of a newer version stay.
    """
    wanted = SchemaManager.get_schema()
    made_for = f"{wanted}{LANES}"  # tasks of a lane that is no more would be fetched by nobody
    mark = f"{procrastinate_version} {hashlib.sha256(made_for.encode()).hexdigest()[:16]}"
    # From the tables themselves: what functions look up may be what this connection saw before it
    # waited for the lock.
    ask = text(
        "SELECT coalesce(description, '') FROM pg_namespace LEFT JOIN pg_description"
        " ON objoid = oid AND classoid = 'pg_namespace'::regclass AND objsubid = 0"
        f" WHERE nspname = '{SCHEMA}'"
    )
    with _connection(engine) as connection:
        found = connection.scalar(ask)
        if found == mark:
            return
        _lock(connection, _PREPARING)
        found = connection.scalar(ask)
        if found is not None and _is_as_new(found, mark):
            return
        connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))
        # Past SQLAlchemy: many statements at once, and percent signs that are none of its own.
        driver = connection.connection.cursor()
        driver.execute(wanted)
        driver.close()
        connection.exec_driver_sql(f"COMMENT ON SCHEMA {SCHEMA} IS '{mark}'")


def _is_as_new(found: str, mark: str) -> bool:
    """Whether tables of that mark will do: the same ones, or those of a newer version."""
    from packaging.version import InvalidVersion, Version

    version, _, digest = found.partition(" ")
    wanted, _, mine = mark.partition(" ")
    try:
        return digest == mine or Version(version) > Version(wanted)
    except InvalidVersion:
        return False
