"""Which blobs the database refers to."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from rag_owl.db import AnswerRow, CitationRow, ItemRow, RevisionRow


def used(session: Session) -> set[bytes]:
    """The sha256 of every blob that a document, an item, an answer or its evidence needs."""
    found: set[bytes] = set()

    def add(key: object) -> None:
        if isinstance(key, str) and len(key) == 64:
            found.add(bytes.fromhex(key))

    for column in (ItemRow.picture, RevisionRow.blob):
        for key in session.scalars(select(column).where(column.is_not(None)).distinct()):
            add(key)
    for request in session.scalars(select(AnswerRow.request).execution_options(yield_per=1_000)):
        for key in request.get("pictures", ()):
            add(key)
        add(request.get("video"))
    for citation in session.scalars(
        select(CitationRow.citation).execution_options(yield_per=1_000)
    ):
        add(citation.get("picture"))
    return found
