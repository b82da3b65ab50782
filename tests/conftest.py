"""Databases for the tests: real SQLite and real PostgreSQL, a new one for every test."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from rag_owl import db
from rag_owl.schema import prepare_schema
from rag_owl.settings import Settings

# The tests say themselves what is set.
for name in [name for name in os.environ if name.startswith("RAG_OWL_")]:
    if name not in ("RAG_OWL_GOLDEN", "RAG_OWL_QWEN2_TOKENIZER") and "_TEST_" not in name:
        del os.environ[name]
# The quick one, whose words are known; what tests owl-nano names it.
os.environ["RAG_OWL_MODEL"] = "sentences"
# Test processes side by side, of one thread each: with more they would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """A command or a service sets how much is said; in a process of its own that ends with it."""
    loggers = [logging.getLogger(name) for name in (None, "rag_owl", "uvicorn.access", "httpx")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server: the one that RAG_OWL_TEST_POSTGRES names, or one out of a wheel."""
    given = os.environ.get("RAG_OWL_TEST_POSTGRES")
    if given:
        yield given
        return
    import pgserver

    # Not below pytest's own folder: another run would take its permissions from the server's user.
    folder = tempfile.mkdtemp(prefix="rag-owl-postgres-")
    for patience in (True, True, False):  # it waits ten seconds, too few when busy
        try:
            server = pgserver.get_server(folder)
            break
        except subprocess.TimeoutExpired:
            if not patience:
                raise
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        server.psql(f"ALTER SYSTEM SET {setting} = off")  # nothing here must survive a power cut
    server.psql("SELECT pg_reload_conf()")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_postgres_database(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database."""
    name = f"test_{uuid.uuid4().hex}"
    admin = db.connect(postgres_server)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty database of its own."""
    with new_postgres_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def on_each_database(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Whatever data folder a test opens in this process: once on SQLite, once on PostgreSQL."""
    if request.param == "sqlite":
        yield
        return
    server: str = request.getfixturevalue("postgres_server")
    admin = db.connect(server).execution_options(isolation_level="AUTOCOMMIT")
    made: dict[Path, str] = {}

    def database(settings: Settings) -> str:
        folder = settings.data.expanduser().resolve()
        if folder not in made:
            made[folder] = f"test_{uuid.uuid4().hex}"
            with admin.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {made[folder]}"))
        return make_url(server).set(database=made[folder]).render_as_string(hide_password=False)

    monkeypatch.setattr(Settings, "database", property(database))
    yield
    with admin.connect() as connection:
        for name in made.values():
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def empty_engine(database_url: str) -> Iterator[Engine]:
    engine = db.connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(empty_engine: Engine) -> Engine:
    """A database of the newest schema."""
    prepare_schema(empty_engine)
    return empty_engine
