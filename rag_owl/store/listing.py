"""The items of a collection, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from rag_owl.errors import NotFound
from rag_owl.rows import DocumentRow, ItemRow, RevisionRow
from rag_owl.store import collections, filters, items, names
from rag_owl.types import Item


def item_page(
    session: Session,
    collection_key: int,
    document_id: str | None = None,
    wanted: Mapping[str, Any] | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[tuple[int, Item]]:
    """(key, item) of what is searched now, oldest first; `after`: the key the last page ended with.

    document_id: of this document alone; `wanted`: a metadata filter.
    Raises `InvalidFilter`, and `NotFound` for an unknown document.
    """
    matches = filters.condition(session, wanted)
    if document_id is not None:
        names.check("document", document_id)
        document = session.scalar(
            select(DocumentRow.key).where(
                DocumentRow.collection_key == collection_key, DocumentRow.id == document_id
            )
        )
        if document is None:
            raise NotFound(f"no document {document_id!r} in this collection")
        matches = matches & (RevisionRow.document_key == document)
    generation = collections.live_generation(session, collection_key)
    if generation is None:
        return []
    keys = list(
        session.scalars(
            select(ItemRow.key)
            .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
            .where(
                RevisionRow.collection_key == collection_key,
                RevisionRow.current,
                ItemRow.splitter == generation.splitter,
                ItemRow.key > after,
                matches,
            )
            .order_by(ItemRow.key)
            .limit(limit)
        )
    )
    found = items.load_any(session, keys)
    return [(key, found[key]) for key in keys if key in found]
