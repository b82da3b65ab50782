"""Every migration up, down and up, on both databases; older and newer data folders."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, select, text

from rag_owl import db
from rag_owl.errors import DataFolderError
from rag_owl.rows import SCHEMA, InstallationRow
from rag_owl.schema import alembic_config, prepare_schema, stored_schema
from tests import databases


def test_schema_constant_is_the_newest_migration(empty_engine: Engine) -> None:
    with empty_engine.connect() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
    assert script.get_heads() == [SCHEMA]


def test_every_migration_up_down_up(empty_engine: Engine) -> None:
    with empty_engine.connect() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
    revisions = [step.revision for step in reversed(list(script.walk_revisions()))]

    def to(move: str, revision: str) -> None:
        with empty_engine.begin() as connection:
            getattr(command, move)(alembic_config(connection), revision)

    below = "base"
    for revision in revisions:
        to("upgrade", revision)
        to("downgrade", below)
        if below == "base":
            tables = set(inspect(empty_engine).get_table_names()) - {"alembic_version"}
            assert not tables
        to("upgrade", revision)
        below = revision
    with empty_engine.begin() as connection:
        command.check(alembic_config(connection))  # the tables are those that rows.py describes


def test_the_copies_that_other_tests_get_are_what_migrating_makes(
    tmp_path: Path, request: pytest.FixtureRequest, empty_engine: Engine
) -> None:
    prepare_schema(empty_engine)
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'copy.db'}"
        if empty_engine.dialect.name == "postgresql":
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(databases.new_postgres(server))
        copied = db.connect(url)
        stack.callback(copied.dispose)
        databases.prepare_schema(copied)
        assert described(copied) == described(empty_engine)
        named = select(InstallationRow.id)
        with db.reading(copied) as one, db.reading(empty_engine) as other:
            assert one.scalars(named).one() != other.scalars(named).one()


def described(engine: Engine) -> set[tuple[str, ...]]:
    """Everything but the rows."""
    asked = {
        "sqlite": "SELECT type, name, coalesce(sql, '') FROM sqlite_master",
        "postgresql": (
            "SELECT table_name || column_name, data_type,"
            " coalesce(column_default, '') || is_nullable"
            " FROM information_schema.columns WHERE table_schema = 'public'"
            " UNION SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
        ),
    }
    with engine.connect() as connection:
        return {tuple(row) for row in connection.execute(text(asked[engine.dialect.name]))}


def test_preparing_twice_changes_nothing(engine: Engine) -> None:
    assert stored_schema(engine) == SCHEMA
    assert prepare_schema(engine) is None


def test_a_newer_schema_is_refused_untouched(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DataFolderError, match=r"schema 9999.*Install a newer rag-owl"):
        prepare_schema(engine)
    assert stored_schema(engine) == "9999"


def test_an_older_sqlite_database_is_copied_before_it_is_migrated(tmp_path: Path) -> None:
    engine = db.connect(f"sqlite:///{tmp_path / 'old.db'}")
    prepare_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (word TEXT)"))
        connection.execute(text("INSERT INTO kept VALUES ('owl')"))
        command.downgrade(alembic_config(connection), "base")
        connection.execute(text("INSERT INTO alembic_version VALUES ('0000')"))
        connection.execute(text("DELETE FROM alembic_version WHERE version_num <> '0000'"))
    with pytest.raises(Exception, match="0000"):  # Alembic does not know such a step ...
        prepare_schema(engine)
    copies = list(tmp_path.glob("old.db.0000.*.backup"))  # ... but the copy was made first
    assert len(copies) == 1
    copied = db.connect(f"sqlite:///{copies[0]}")
    with copied.connect() as connection:
        assert connection.execute(text("SELECT word FROM kept")).scalar() == "owl"
    copied.dispose()
    engine.dispose()


def test_jobs_keep_their_inputs_when_their_table_is_written_anew(empty_engine: Engine) -> None:
    def run(statement: str) -> list[tuple[object, ...]]:
        with empty_engine.begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    with empty_engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0002")
    run("INSERT INTO collections (key, name, version, created_at) VALUES (7, 'c', 0, 0)")
    run(
        "INSERT INTO jobs (id, kind, collection_key, state, parameters, fence, cancel_requested, "
        "scanned, found, added, updated, unchanged, skipped, items, created_at) "
        "VALUES ('j', 'ingest', 7, 'queued', '{}', 3, false, true, 2, 1, 0, 0, 1, 5, 1.5)"
    )
    run(
        "INSERT INTO job_inputs (job_id, position, name, path, companion_name, done, next_row) "
        "VALUES ('j', 0, 'a', '/a', '', false, 0)"
    )
    run("INSERT INTO skipped (key, job_id, name, reason) VALUES (9, 'j', 'b', 'broken')")
    for move, revision in (("upgrade", "0003"), ("downgrade", "0002"), ("upgrade", "0003")):
        with empty_engine.begin() as connection:
            getattr(command, move)(alembic_config(connection), revision)
    assert run("SELECT id, fence, found, done, failed FROM jobs") == [("j", 3, 2, 0, 0)]
    assert run("SELECT job_id, name, path FROM job_inputs") == [("j", "a", "/a")]
    assert run("SELECT key, job_id, reason FROM skipped") == [(9, "j", "broken")]
    if empty_engine.dialect.name == "sqlite":
        assert run("PRAGMA foreign_key_check") == []
    run("UPDATE jobs SET collection_key = NULL")
    run("DELETE FROM jobs")
    assert run("SELECT name FROM job_inputs") == run("SELECT name FROM skipped") == []
