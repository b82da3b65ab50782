"""Which blobs the database refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from rag_owl.rows import AnswerRow, CitationRow, ItemRow, RevisionRow

_KEY = re.compile(r"[0-9a-f]{64}")


def used(session: Session) -> set[bytes]:
    """The sha256 of every blob that a document, an item, an answer or its evidence needs."""
    found: set[bytes] = set()
    for column in (ItemRow.picture, RevisionRow.blob):
        for key in session.scalars(select(column).where(column.is_not(None)).distinct()):
            found.update(bytes.fromhex(key) for key in _keys(key))
    for request in session.scalars(select(AnswerRow.request).execution_options(yield_per=1_000)):
        found.update(bytes.fromhex(key) for key in of_row("answers", {"request": request}))
    for citation in session.scalars(
        select(CitationRow.citation).execution_options(yield_per=1_000)
    ):
        found.update(bytes.fromhex(key) for key in of_row("citations", {"citation": citation}))
    return found


def of_row(table: str, row: Mapping[str, Any]) -> Iterator[str]:
    """The keys of the blobs that a row of that table refers to."""
    if table == "items":
        yield from _keys(row["picture"])
    elif table == "revisions":
        yield from _keys(row["blob"])
    elif table == "answers":
        yield from _keys(*row["request"].get("pictures", ()), row["request"].get("video"))
    elif table == "citations":
        yield from _keys(row["citation"].get("picture"))


def _keys(*values: object) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and _KEY.fullmatch(value):
            yield value
