"""Bringing a database to this version's schema: created, migrated, or refused."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from rag_owl import db
from rag_owl.errors import DataFolderError

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).parent / "migrations"


def alembic_config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
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


def prepare_schema(engine: Engine) -> Path | None:
    """Bring the database to `db.SCHEMA`; the caller holds the data folder's lock.

    An SQLite database of an older schema is copied first; returns the copy's path.
    Raises `DataFolderError` for a newer schema, having changed nothing.
    """
    stored = stored_schema(engine)
    if stored == db.SCHEMA:
        return None
    if stored is not None and stored > db.SCHEMA:
        raise DataFolderError(
            f"{engine.url.render_as_string(hide_password=True)} has schema {stored}, newer than "
            f"{db.SCHEMA} that this version knows. Install a newer rag-owl; nothing was changed."
        )
    copy = _copy(engine, stored) if stored is not None else None
    from alembic import command

    with engine.execution_options(writes=True).begin() as connection:
        if engine.dialect.name == "postgresql":  # one process at a time, the others wait
            connection.execute(text("SELECT pg_advisory_xact_lock(7236452)"))
        command.upgrade(alembic_config(connection), db.SCHEMA)
    return copy


def _copy(engine: Engine, stored: str) -> Path | None:
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    source = Path(engine.url.database)
    target = source.with_name(f"{source.name}.{stored}.{time.strftime('%Y%m%dT%H%M%S')}.backup")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # A snapshot of the main file and its write-ahead log together.
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(source, target)
    return target
