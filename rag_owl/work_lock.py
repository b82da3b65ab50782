"""Who works jobs keeps out who must not see them half done, and the other way round.

A file is locked by whoever changes a folder's segments or schema; on PostgreSQL, where several
machines work, there is an advisory lock as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from rag_owl import db
from rag_owl.errors import DataFolderBusy, DataFolderError

_LOOK_EVERY = 0.5  # seconds
_WORKING = 7_236_455  # PostgreSQL's advisory lock: shared by jobs, or held alone


@contextmanager
def exclusively(folder: Path, seconds: float, engine: Engine | None = None) -> Iterator[None]:
    """Hold the folder for a change that no job may see half done. Raises `DataFolderBusy`.

    engine: on PostgreSQL, also no job of another machine.
    """
    lock = acquire(folder, seconds)
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
            time.sleep(_LOOK_EVERY)
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
                time.sleep(_LOOK_EVERY)
        yield got
    finally:
        if got:
            with suppress(DBAPIError):
                connection.execute(text(f"SELECT pg_advisory_unlock{shared}({_WORKING})"))
        with suppress(DBAPIError):
            connection.close()


def acquire(folder: Path, seconds: float) -> FileLock:
    """The folder's lock, held, and not inherited by children. Raises `DataFolderBusy`."""
    lock = FileLock(folder / "work.lock", thread_local=False)
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
    return lock
