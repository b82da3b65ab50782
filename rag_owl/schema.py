"""Bringing a database to this version's schema: created, migrated, or refused."""

from __future__ import annotations

import io
import sqlite3
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, insert, inspect, select, text

from rag_owl import db
from rag_owl.errors import Conflict, DataFolderError
from rag_owl.rows import SCHEMA, InstallationRow, SegmentRow

if TYPE_CHECKING:
    from alembic.config import Config

    from rag_owl.object_store import ObjectStore

SCRIPTS = Path(__file__).parent / "migrations"
MARK = "database-id"  # of whose files those are


def alembic_config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config(stdout=io.StringIO())  # standard output is the command line's
    # Alembic reads "%" in a path as interpolation.
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def stored_schema(engine: Engine) -> str | None:
    """The migration that the database is at; None for an empty database."""
    with db.reading(engine) as session:
        connection = session.connection()
        if not inspect(connection).has_table("alembic_version"):
            return None
        return session.execute(text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(connection: Connection, revision: str) -> None:
    """Bring the database to a migration, within the connection's transaction."""
    from alembic import command

    command.upgrade(alembic_config(connection), revision)


def known() -> set[str]:
    """Every migration that this version knows."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()}


def prepare_schema(engine: Engine) -> Path | None:
    """Bring the database to `SCHEMA`; the caller holds the data folder's lock.

    An SQLite database of an older schema is copied first; returns the copy's path.
    Raises `DataFolderError` for a newer schema, having changed nothing.
    """
    stored = stored_schema(engine)
    if stored == SCHEMA:
        return None
    if stored is not None and stored > SCHEMA:
        raise DataFolderError(
            f"{engine.url.render_as_string(hide_password=True)} has schema {stored}, newer than "
            f"{SCHEMA} that this version knows. Install a newer rag-owl; nothing was changed."
        )
    copy = _copy(engine, stored) if stored is not None else None
    with engine.execution_options(writes=True).begin() as connection:
        if engine.dialect.name == "postgresql":  # one process at a time, the others wait
            connection.execute(text("SELECT pg_advisory_xact_lock(7236452)"))
        upgrade(connection, SCHEMA)
        if connection.execute(select(InstallationRow.id)).first() is None:
            connection.execute(insert(InstallationRow).values(id=uuid.uuid4().hex))
    return copy


def bind_folder(engine: Engine, folder: Path) -> None:
    """Tie a folder of segments and blobs to its database, at the first opening, for good.

    Raises `DataFolderError` for the files of another database: its segments would look like
    nobody's, and be removed.
    """
    with db.reading(engine) as session:
        database = session.scalars(select(InstallationRow.id)).one()
        has_segments = session.scalars(select(SegmentRow.id).limit(1)).first() is not None
    mark = folder / MARK
    where = engine.url.render_as_string(hide_password=True)
    try:
        if not mark.exists():
            if has_segments:
                raise DataFolderError(
                    f"{where} has its files in another folder, not in {folder}; name that folder "
                    "with --data or RAG_OWL_DATA, or their store with RAG_OWL_STORAGE_URL"
                )
            with suppress(FileExistsError), mark.open("x") as file:  # another may be faster
                file.write(database)
        if (stored := mark.read_text().strip()) not in (database, ""):
            raise DataFolderError(
                f"{folder} holds the files of another database ({stored}) than {where}; use that "
                "database, or another folder"
            )
    except OSError as error:
        raise DataFolderError(f"cannot use {mark}: {error.strerror or error}") from error


def bind_store(engine: Engine, store: ObjectStore) -> None:
    """As `bind_folder`, for the object store that holds a database's files.

    Raises `StorageUnavailable` too.
    """
    with db.reading(engine) as session:
        database = session.scalars(select(InstallationRow.id)).one()
        has_segments = session.scalars(select(SegmentRow.id).limit(1)).first() is not None
    where = engine.url.render_as_string(hide_password=True)
    if store.find(MARK) is None:
        if has_segments:
            raise DataFolderError(
                f"{where} has its files elsewhere, not at {store.url}; name that place with "
                "RAG_OWL_STORAGE_URL, or copy the files there first (docs/operations.md)"
            )
        store.put_bytes(MARK, database.encode())
    stored = store.get_bytes(MARK).decode("utf-8", "replace").strip()
    if stored != database:
        raise DataFolderError(
            f"{store.url} holds the files of another database ({stored}) than {where}; use that "
            "database, or another place"
        )


def check_store_is_free(store: ObjectStore) -> None:
    """Raises `Conflict` for a store that holds files of a database already."""
    if store.find(MARK) is not None:
        raise Conflict(f"{store.url} is not empty; name another place with RAG_OWL_STORAGE_URL")


def mark_files(folder: Path, store: ObjectStore | None, identity: str) -> None:
    """Say of new files which database they belong to."""
    if store is None:
        (folder / MARK).write_text(identity)
    else:
        store.put_bytes(MARK, identity.encode())


def _copy(engine: Engine, stored: str) -> Path | None:
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    source = Path(engine.url.database)
    target = source.with_name(f"{source.name}.{stored}.{time.strftime('%Y%m%dT%H%M%S')}.backup")
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)  # consistent whoever writes meanwhile, unlike a copy of the file
    return target
