"""No file goes while a backup copies it: one lock for backups and for whoever removes files.

On SQLite a lock file beside the database, on PostgreSQL an advisory lock, which holds for every
machine. Both are let go of when the process that has them dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Engine, text

from rag_owl.errors import DataFolderBusy, DataFolderError

_ADVISORY = 7_236_453
LOOKS_EVERY = 0.2  # seconds; who removes file after file rests longer between them
_PATIENCE = 600.0  # seconds that a backup waits for another, or for files to be removed


@contextmanager
def keeping_files(
    engine: Engine, seconds: float = _PATIENCE, look: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """No file is removed meanwhile. Raises `DataFolderBusy` when another does not let go.

    look: called while it is waited for; what it raises ends that.
    """
    until = time.monotonic() + seconds
    while True:
        with _held(engine) as mine:
            if mine:
                yield
                return
        if time.monotonic() > until:
            raise DataFolderBusy(
                "another backup of this data is being made, or deleted files are being removed; "
                "wait until that is done"
            )
        look()
        time.sleep(LOOKS_EVERY)


@contextmanager
def removing_files(engine: Engine) -> Iterator[bool]:
    """Whether files may be removed now; False: a backup is being made, come back later."""
    with _held(engine) as mine:
        yield mine


@contextmanager
def soon_removing_files(engine: Engine, seconds: float = 2.0) -> Iterator[bool]:
    """As `removing_files`, where another who removes files is waited for so long."""
    until = time.monotonic() + seconds
    while True:
        with _held(engine) as mine:
            if mine or time.monotonic() > until:
                yield mine
                return
        time.sleep(LOOKS_EVERY)


@contextmanager
def _held(engine: Engine) -> Iterator[bool]:
    """Whether the lock is ours within the block."""
    if engine.dialect.name != "postgresql":
        lock = FileLock(f"{Path(engine.url.database or '')}.files.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise DataFolderError(
                f"cannot lock {lock.lock_file}: {error.strerror or error}; check who owns it"
            ) from error
        try:
            yield True
        finally:
            lock.release()
        return
    # A connection of its own: the lock is let go of when that is closed, however that happens.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        key = {"key": _ADVISORY}
        mine = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar_one())
        try:
            yield mine
        finally:
            if mine:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
