"""How a database is connected to, read and written. Its tables are in `rag_owl.rows`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Engine, Table, create_engine, event, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from rag_owl.errors import DatabaseUnavailable, DataFolderError
from rag_owl.rows import Base
from rag_owl.visibility import LimitedSession


def connect(url: str) -> Engine:
    """An engine for a database URL. Nothing is opened yet."""
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, see below
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=60000")
    cursor.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    # A transaction that will write takes the lock at once: one that reads first and writes later
    # would fail with "database is locked" instead of waiting its turn.
    kind = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {kind}")


def _session(engine: Engine) -> Session:
    limited = "visible_collections" in engine.get_execution_options()
    return LimitedSession(engine) if limited else Session(engine)


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """One consistent view of the database, as of its first query."""
    if engine.dialect.name == "postgresql":  # where every statement would have a view of its own
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with _session(engine) as session, storage_errors(engine):
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back by any exception."""
    session_engine = engine.execution_options(writes=True)
    with storage_errors(engine), _session(session_engine) as session, session.begin():
        yield session


def insert_keyed(
    session: Session, kind: type[Base], rows: Sequence[Mapping[str, Any]]
) -> Sequence[int]:
    """Insert rows of a table, columns by their names in it; their new keys, in order.

    Past the ORM, whose bookkeeping costs as much as the insertion.
    """
    table = cast(Table, kind.__table__)
    added = insert(table).returning(table.c.key, sort_by_parameter_order=True)
    return session.scalars(added, rows).all()


@contextmanager
def storage_errors(engine: Engine) -> Iterator[None]:
    """What the driver raises as `DataFolderError`s with a remedy."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig)
        remedies = {
            "disk is full": "make space",
            "disk I/O error": "make space or check the disk",
            "readonly database": "check the folder's permissions",
            "unable to open": "check that the folder exists and is writable",
            "database is locked": "another process holds it; try again",
            "malformed": "restore a backup",
            "not a database": "restore a backup",
        }
        for mark, remedy in remedies.items():
            if mark in reason:
                where = engine.url.render_as_string(hide_password=True)
                raise DataFolderError(f"{where}: {reason}; {remedy}.") from error
        passing = (
            "deadlock detected",
            "could not serialize",
            "starting up",
            "shutting down",
            "failed to resolve host",
        )
        if (
            error.connection_invalidated
            or "connection" in reason.lower()
            or any(mark in reason for mark in passing)
        ):
            where = engine.url.render_as_string(hide_password=True)
            first = (reason.splitlines() or ["no reason given"])[0]
            raise DatabaseUnavailable(f"cannot use {where} just now: {first}") from error
        raise
    except PoolTimeout as error:
        where = engine.url.render_as_string(hide_password=True)
        raise DatabaseUnavailable(f"all connections to {where} are in use") from error
