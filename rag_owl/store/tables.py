"""All rows of the database as JSON, from one kind of database into another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import Session

from rag_owl.errors import InvalidInput
from rag_owl.rows import Base, InstallationRow, ItemRow, RevisionRow, SegmentRow
from rag_owl.store import names, words

_LEFT_OUT = {InstallationRow.__tablename__}  # a restored database is another one
_AT_ONCE = 1_000  # rows
_PART = 4 << 20  # bytes of JSON, or one row
_LARGEST = 2**63 - 1

Row = dict[str, Any]


def dump(connection: Connection) -> Iterator[tuple[str, Row]]:
    """(table, row), tables and rows so that what is referred to comes first."""
    for table in Base.metadata.sorted_tables:
        if table.name in _LEFT_OUT:
            continue
        chosen = select(table).order_by(*table.primary_key.columns)
        if table.name == SegmentRow.__tablename__:  # of the others the files may be gone
            chosen = chosen.where(table.c.active)
        rows = connection.execution_options(yield_per=_AT_ONCE).execute(chosen)
        for row in rows.mappings():
            yield table.name, dict(row)


def parts(rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, int, bytes]]:
    """(table, number from 0, lines of JSON): no more of it in memory than one part."""
    current, number, lines = "", 0, bytearray()
    for name, row in rows:
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if lines and (name != current or len(lines) + len(line) > _PART):
            yield current, number, bytes(lines)
            number += 1
            lines.clear()
        if name != current:
            current, number = name, 0
        lines += line
    if lines:
        yield current, number, bytes(lines)


def sequences(connection: Connection) -> dict[str, int]:
    """The last key that each table gave away: keys are never given twice, as segments hold them."""
    found = {}
    for table in _counted(Base.metadata):
        if connection.dialect.name == "sqlite":
            value = connection.execute(
                text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name}
            ).scalar()
        else:
            sequence = connection.execute(
                text("SELECT pg_get_serial_sequence(:name, 'key')"), {"name": table.name}
            ).scalar_one()
            value = connection.execute(text(f"SELECT last_value FROM {sequence}")).scalar_one()
        found[table.name] = int(value or 0)
    return found


class Loader:
    """Puts rows of a backup, which may be a stranger's, into the tables as they are there now."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._metadata = MetaData()
        self._metadata.reflect(connection)
        for table in self._metadata.tables.values():
            for column in table.columns:
                if isinstance(column.type, JSON):
                    column.type.none_as_null = True
        ours = {table.name for table in Base.metadata.sorted_tables}
        left_out = _LEFT_OUT | {"alembic_version"}
        self._tables = {
            name: table
            for name, table in self._metadata.tables.items()
            if name not in left_out and not (name not in ours and name.startswith("item_words"))
        }

    def add(self, name: str, rows: Sequence[Any]) -> None:
        """Raises `InvalidInput` for rows that cannot have come from such a table."""
        table = self._tables.get(name)
        if table is None:
            raise InvalidInput(f"there is no table {name!r}")
        for row in rows:
            _check(table, row)
        try:
            if rows:
                self._connection.execute(insert(table), list(rows))
        except (DBAPIError, StatementError) as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            reason = str(error.orig).splitlines()[0]
            raise InvalidInput(f"rows of the table {name} do not fit ({reason})") from error

    def set_sequences(self, wanted: Mapping[str, Any]) -> None:
        """The next key of each table is larger than any that it has or had."""
        for table in _counted(self._metadata):
            if table.name not in self._tables:
                continue
            given = wanted.get(table.name, 0)
            if not isinstance(given, int) or isinstance(given, bool) or given > _LARGEST // 2:
                raise InvalidInput(f"the table {table.name} cannot have given away {given!r} keys")
            largest = self._connection.execute(select(func.max(table.c.key))).scalar() or 0
            last = max(int(largest), given)
            if not last:
                continue
            if self._connection.dialect.name == "sqlite":
                values = {"name": table.name, "last": last}
                for statement in (
                    "DELETE FROM sqlite_sequence WHERE name = :name",
                    "INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)",
                ):
                    self._connection.execute(text(statement), values)
            else:
                self._connection.execute(
                    text("SELECT setval(pg_get_serial_sequence(:name, 'key'), :last)"),
                    {"name": table.name, "last": last},
                )


def index_words(session: Session) -> None:
    """Make the words channel anew, from the items that are searched."""
    session.execute(text("DELETE FROM item_words"))
    rows = session.execute(
        select(RevisionRow.collection_key, ItemRow.key, ItemRow.heading, ItemRow.text)
        .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
        .where(RevisionRow.current)
        .order_by(ItemRow.key)
        .execution_options(yield_per=_AT_ONCE)
    )
    for part in rows.partitions():
        by_collection: dict[int, list[tuple[int, str]]] = {}
        for collection, key, heading, body in part:
            by_collection.setdefault(collection, []).append((key, f"{heading}\n{body or ''}"))
        for collection, pairs in by_collection.items():
            words.add(session, collection, pairs)


def _counted(metadata: MetaData) -> list[Table]:
    """Tables that count their keys up by themselves."""
    return [
        table
        for table in metadata.tables.values()
        if "key" in table.c and table.c.key.primary_key and isinstance(table.c.key.type, Integer)
    ]


def _check(table: Table, row: Any) -> None:
    """SQLite would take a text for a number, and a row without what an older one did not need."""
    if not isinstance(row, dict) or set(row) != {column.name for column in table.columns}:
        raise InvalidInput(f"a row of the table {table.name} has other columns than the table")
    for column in table.columns:
        value = row[column.name]
        if value is None:
            well = bool(column.nullable)
        elif isinstance(column.type, Boolean):
            well = isinstance(value, bool)
        elif isinstance(column.type, Integer):
            well = type(value) is int and abs(value) <= _LARGEST
        elif isinstance(column.type, Float):
            well = type(value) in (int, float) and abs(value) < 1e300
        elif isinstance(column.type, JSON):
            well = _is_storable(value)
        elif isinstance(column.type, String | Text):
            length = column.type.length
            well = (
                isinstance(value, str)
                and names.is_storable(value)
                and (length is None or len(value) <= length)
            )
        else:
            well = False
        if not well:
            raise InvalidInput(f"the table {table.name} cannot hold {column.name} {value!r:.100}")


def _is_storable(value: Any) -> bool:
    """Of JSON: no text in it that PostgreSQL would refuse."""
    if isinstance(value, str):
        return names.is_storable(value)
    if isinstance(value, dict):
        return all(_is_storable(key) and _is_storable(each) for key, each in value.items())
    return all(map(_is_storable, value)) if isinstance(value, list) else True
