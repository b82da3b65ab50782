"""How much a collection holds, and may hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rag_owl.errors import QuotaExceeded
from rag_owl.rows import DocumentRow, ItemRow, RevisionRow
from rag_owl.settings import Quota
from rag_owl.store.collections import Collection


@dataclass(slots=True)
class Holding:
    """What there is; whoever adds counts on from here."""

    documents: int = 0
    items: int = 0


def holding(session: Session, collection_key: int, quota: Quota) -> Holding:
    """Only what the quota bounds is counted."""
    found, here = Holding(), RevisionRow.collection_key == collection_key
    if quota.documents is not None:
        found.documents = session.scalar(
            # not those that another took the origin of: nobody sees them any more
            select(func.count()).where(here, RevisionRow.current)
        ) or 0  # fmt: skip
        current = select(RevisionRow.document_key).where(here, RevisionRow.current)
        found.documents += session.scalar(
            select(func.count(RevisionRow.document_key.distinct())).where(
                here, ~RevisionRow.complete, RevisionRow.document_key.not_in(current)
            )
        ) or 0  # fmt: skip
    if quota.items is not None:
        found.items = session.scalar(
            select(func.count())
            .select_from(ItemRow)
            .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
            .where(RevisionRow.collection_key == collection_key, RevisionRow.current)
        ) or 0  # fmt: skip
    return found


def excess(collection: str, quota: Quota, held: Holding, known: bool = False) -> str | None:
    """Why nothing more may be added; None: it may. known: another revision of what is there."""
    for kind, most, now in _bounds(quota, held):
        if now >= most and not (known and kind == "documents"):
            return (
                f"the collection {collection!r} is full: its quota is {most:,} {kind} "
                "(RAG_OWL_QUOTAS); delete some, or ask the operator for more"
            )
    return None


def _bounds(quota: Quota, held: Holding) -> Iterator[tuple[str, int, int]]:
    if quota.documents is not None:
        yield "documents", quota.documents, held.documents
    if quota.items is not None:
        yield "items", quota.items, held.items


def check(session: Session, collection: Collection, quota: Quota) -> None:
    """Before anything is sent or read. Raises `QuotaExceeded`."""
    why = excess(collection.name, quota, holding(session, collection.key, quota))
    if why is not None:
        raise QuotaExceeded(why)


def is_known_origin(session: Session, collection_key: int, origin: str) -> bool:
    return (
        session.scalar(
            select(DocumentRow.key).where(
                DocumentRow.collection_key == collection_key, DocumentRow.origin == origin
            )
        )
        is not None
    )
