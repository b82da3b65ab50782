"""New databases for the tests, quickly: what migrating makes is made once per process and copied.

`tests/rag_owl/test_schema.py` migrates for real, and so does every command that a test starts.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, make_url, text, update

from rag_owl import db, schema
from rag_owl.job_queue import prepare_queue
from rag_owl.rows import InstallationRow
from rag_owl.settings import Settings

migrate = schema.prepare_schema  # the real one
_PLAIN: property = Settings.database  # type: ignore[assignment]


def prepare_schema(engine: Engine) -> Path | None:
    """As the real one; what it makes of an empty SQLite database is copied."""
    if engine.dialect.name != "sqlite" or schema.stored_schema(engine) is not None:
        return migrate(engine)
    with closing(sqlite3.connect(_sqlite_template())) as template, engine.connect() as connection:
        template.backup(connection.connection.driver_connection)  # type: ignore[arg-type]
    _name_anew(engine)
    return None


@cache
def _sqlite_template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rag-owl-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    engine = db.connect(f"sqlite:///{folder / 'template.db'}")
    migrate(engine)
    engine.dispose()
    return folder / "template.db"


def _name_anew(engine: Engine) -> None:
    """Every database is one of its own, and says so."""
    with db.writing(engine) as session:
        session.execute(update(InstallationRow).values(id=uuid.uuid4().hex))


@contextmanager
def new_postgres(server: str, *, empty: bool = False) -> Iterator[str]:
    """The URL of a database with the newest schema; empty: without any."""
    url = _create(server) if empty else _prepared(server)
    yield url
    _drop(url, server)


_empty: set[Path] = set()


def to_restore_into(folder: Path) -> Path:
    """The folder; if it has a database of its own, that one will be empty."""
    _empty.add(folder.resolve())
    return folder


@contextmanager
def on_postgres(server: str) -> Iterator[None]:
    """Every data folder that is opened in this process has a PostgreSQL database of its own."""
    made: dict[Path, str] = {}

    def database(settings: Settings) -> str:
        if settings.database_url:
            return settings.database_url
        folder = settings.data.expanduser().resolve()
        if folder not in made:
            made[folder] = _create(server) if folder in _empty else _prepared(server)
        return made[folder]

    try:
        with _answering(property(database)):
            yield
    finally:
        for url in made.values():
            _drop(url, server)


def environment(data: Path) -> dict[str, str]:
    """Of a process that opens the folder as this one does."""
    found = dict(os.environ)
    if not (database := Settings(data=data).database).startswith("sqlite"):
        found["RAG_OWL_DATABASE_URL"] = database
    return found


def on_sqlite() -> AbstractContextManager[None]:
    """Data folders are as they are for everybody, also within `on_postgres`."""
    return _answering(_PLAIN)


@contextmanager
def _answering(database: property) -> Iterator[None]:
    before = Settings.database
    Settings.database = database  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Settings.database = before  # type: ignore[method-assign]


def _prepared(server: str) -> str:
    url = _create(server, _postgres_template(server))
    engine = db.connect(url)
    _name_anew(engine)
    engine.dispose()
    return url


@cache
def _postgres_template(server: str) -> str:
    url = _create(server)
    engine = db.connect(url)
    migrate(engine)
    prepare_queue(engine)
    engine.dispose()  # who is connected to a template keeps it from being copied
    return str(make_url(url).database)


def leave(server: str) -> None:
    """Nothing of ours stays on a server that others use."""
    if _postgres_template.cache_info().currsize:
        _execute(server, f"DROP DATABASE {_postgres_template(server)}")
        _postgres_template.cache_clear()


def _create(server: str, template: str | None = None) -> str:
    name = f"test_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _drop(url: str, server: str) -> None:
    _execute(server, f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


def _execute(server: str, statement: str) -> None:
    with _admin(server).connect() as connection:
        connection.execute(text(statement))


@cache
def _admin(server: str) -> Engine:
    return db.connect(server).execution_options(isolation_level="AUTOCOMMIT")
