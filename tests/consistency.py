"""Whether a data folder and its database are of one piece: rows, words, vectors, blobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rag_owl import db
from rag_owl.settings import Settings

Rows = Callable[..., list[Any]]


@contextmanager
def _sqlite(file: Path) -> Iterator[Rows]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        yield lambda statement, *values: connection.execute(statement, values).fetchall()


@contextmanager
def _postgresql(url: str) -> Iterator[Rows]:
    engine = db.connect(url)
    with engine.connect() as connection:
        yield lambda statement, *values: [
            tuple(row)
            for row in connection.exec_driver_sql(statement.replace("?", "%s"), values or None)
        ]
    engine.dispose()


def problems(data: Path, url: str = "") -> list[str]:
    """What is wrong; empty for a sound folder without unfinished jobs. url: of a PostgreSQL."""
    if not url and not (database := Settings(data=data).database).startswith("sqlite"):
        url = database  # as the tests say
    with _postgresql(url) if url else _sqlite(data / "rag_owl.db") as rows:
        found = []
        if not url and (
            rows("PRAGMA integrity_check") != [("ok",)] or rows("PRAGMA foreign_key_check")
        ):
            found.append("SQLite is not sound")
        if names := rows(
            "SELECT d.name FROM revisions r JOIN documents d ON d.key = r.document_key "
            "WHERE NOT r.complete"
        ):
            found.append(f"half-read: {names[:5]} ({len(names)})")
        if names := rows(
            "SELECT d.name FROM documents d JOIN revisions r ON r.document_key = d.key "
            "WHERE r.current GROUP BY d.key HAVING count(*) > 1"
        ):
            found.append(f"two current revisions: {names[:5]}")
        if names := rows(
            "SELECT d.name FROM revisions r JOIN documents d ON d.key = r.document_key "
            "WHERE r.current AND NOT EXISTS (SELECT 1 FROM items i WHERE i.revision_key = r.key)"
        ):
            found.append(f"current without items: {names[:5]} ({len(names)})")
        if rows(
            "SELECT revision_key FROM items GROUP BY revision_key, splitter "
            "HAVING max(ordinal) + 1 <> count(*)"
        ):
            found.append("a revision has a gap between its items")
        current = {
            key
            for (key,) in rows(
                "SELECT i.key FROM items i JOIN revisions r ON r.key = i.revision_key "
                "WHERE r.current"
            )
        }
        in_words = {
            key for (key,) in rows(f"SELECT {'item_key' if url else 'rowid'} FROM item_words")
        }
        if current != in_words:
            found.append(f"words: {len(current - in_words)} lack, {len(in_words - current)} extra")
        known = {name for (name,) in rows("SELECT id FROM segments")}
        files = {path.name for path in (data / "segments").iterdir() if path.is_dir()}
        if files - known:
            found.append(f"{len(files - known)} segment folders without a row")
        for (generation,) in rows("SELECT key FROM generations WHERE state = 'live'"):
            for channel in ("text", "picture"):
                found += _vectors(data, rows, generation, channel)
        for found_, handled in rows(
            "SELECT found, added + updated + unchanged + done + skipped + failed FROM jobs "
            "WHERE state = 'done'"
        ):
            if found_ != handled:
                found.append(f"a job found {found_} and handled {handled}")
        for (key,) in rows(
            "SELECT picture FROM items WHERE picture IS NOT NULL "
            "UNION SELECT blob FROM revisions WHERE blob IS NOT NULL"
        ):
            if not (data / "blobs" / key[:2] / key[2:]).is_file():
                found.append(f"blob {key} is missing")
    return found


def _vectors(data: Path, rows: Any, generation: int, channel: str) -> list[str]:
    found = []
    keys: list[int] = []
    for name, count in rows(
        "SELECT id, count FROM segments WHERE active AND generation_key = ? AND channel = ?",
        generation,
        channel,
    ):
        ids = np.load(data / "segments" / name / "ids.npy")
        if len(ids) != count:
            found.append(f"segment {name} has {len(ids)} vectors, its row says {count}")
        keys += ids.tolist()
    if len(keys) != len(set(keys)):
        found.append(f"{channel}: {len(keys) - len(set(keys))} vectors twice")
    dead = {
        key
        for (key,) in rows(
            "SELECT item_key FROM tombstones WHERE generation_key = ? AND channel = ?",
            generation,
            channel,
        )
    }
    wanted = {
        key
        for (key,) in rows(
            "SELECT i.key FROM items i JOIN revisions r ON r.key = i.revision_key "
            "JOIN generations g ON g.collection_key = r.collection_key "
            f"WHERE g.key = ? AND r.current AND i.in_{channel}",
            generation,
        )
    }
    live = set(keys) - dead
    if live != wanted:
        found.append(f"{channel}: {len(wanted - live)} lack, {len(live - wanted)} should be dead")
    if dead - set(keys):
        found.append(f"{channel}: {len(dead - set(keys))} tombstones of no vector")
    return found
