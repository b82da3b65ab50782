"""Databases for the tests: real SQLite and real PostgreSQL.

What reaches the database runs on both, in the same run: every function of `rag_owl.store`, every
endpoint, every list with its filters and cursors, keys, quotas, jobs, generations, deletion,
answers, conversations, ratings, replays, uploads, and hostile texts, which databases take
differently. A test asks for that with `engine` (of the store alone), `database_url`,
`on_each_database`, or `module_on_each_database`, for a service that a module's tests share.

Single, on SQLite, stay: what is refused before the database is asked, how the page looks, formats,
models and decoders; processes that are started or killed, for which `test_workers.py`,
`test_reindex_kills.py` and `test_reliability.py` have tests of their own on PostgreSQL; and what
only SQLite needs, such as writing its file anew.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from rag_owl import db, system
from rag_owl.indexer.loaders.apart_pool import Pool
from tests import databases, decoders

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
        databases.leave(given)
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


@pytest.fixture(scope="session", autouse=True)
def _quick_schema() -> Iterator[None]:
    """In this process an empty SQLite database gets a copy of what migrating made of another."""
    system.prepare_schema = databases.prepare_schema
    yield
    system.prepare_schema = databases.migrate


@pytest.fixture(scope="session", autouse=True)
def _shared_decoders() -> Iterator[None]:
    system.Pool = decoders.SharingPool  # type: ignore[misc]
    yield
    system.Pool = Pool  # type: ignore[misc]


@pytest.fixture
def own_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders start and end their decoders themselves, as they do outside of tests."""
    monkeypatch.setattr(system, "Pool", Pool)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty database of its own."""
    with databases.new_postgres(postgres_server, empty=True) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of its own. On PostgreSQL it has the newest schema already."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    with databases.new_postgres(request.getfixturevalue("postgres_server")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def on_each_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever data folder a test opens in this process: once on SQLite, once on PostgreSQL."""
    with _on(request):
        yield


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_on_each_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """As `on_each_database`, for modules whose tests share what they open."""
    with _on(request):
        yield


@pytest.fixture(autouse=True)
def _no_others_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """Who did not ask for each database is on SQLite, whatever its module's others are on."""
    if {"on_each_database", "module_on_each_database"} & set(request.fixturenames):
        yield
        return
    with databases.on_sqlite():
        yield


@contextmanager
def _on(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "sqlite":
        yield
        return
    with databases.on_postgres(request.getfixturevalue("postgres_server")):
        yield


@pytest.fixture
def empty_engine(empty_database_url: str) -> Iterator[Engine]:
    engine = db.connect(empty_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database of the newest schema."""
    engine = db.connect(database_url)
    databases.prepare_schema(engine)
    yield engine
    engine.dispose()
