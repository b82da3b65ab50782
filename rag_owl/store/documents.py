"""Documents: what is listed and deleted of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from rag_owl.errors import NotFound
from rag_owl.rows import CollectionRow, DocumentRow, ItemRow, RevisionRow
from rag_owl.store import condemned, job_inputs, names, redaction, revisions
from rag_owl.store.filters import condition as metadata_matches
from rag_owl.types import Document

_NAMED_AT_ONCE = 400  # each stands twice in a query


def _documents() -> Select[Any]:
    items = (
        select(func.count())
        .where(ItemRow.revision_key == RevisionRow.key)
        .correlate(RevisionRow)
        .scalar_subquery()
    )
    return (
        select(DocumentRow, RevisionRow, CollectionRow.name, items)
        .join(RevisionRow, RevisionRow.document_key == DocumentRow.key)
        .join(CollectionRow, CollectionRow.key == DocumentRow.collection_key)
        .where(RevisionRow.current)
    )


def _document(row: Any) -> Document:
    document, revision, collection, items = row
    return Document(
        id=document.id,
        collection=collection,
        name=document.name,
        title=revision.title,
        revision=revision.number,
        sha256=revision.sha256,
        media_type=revision.media_type,
        metadata=revision.properties,
        items=items,
    )


def get(session: Session, collection_key: int, document_id: str) -> Document:
    names.check("document", document_id)
    row = session.execute(
        _documents().where(
            DocumentRow.collection_key == collection_key, DocumentRow.id == document_id
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"no document {document_id!r} in this collection")
    return _document(row)


def unknown(session: Session, collection_key: int, named: Iterable[str]) -> list[str]:
    """Those that are neither the name nor the id of a document of the collection, in order."""
    asked = list(dict.fromkeys(named))
    wanted = [name for name in asked if names.is_storable(name)]
    found: set[str] = set()
    for at in range(0, len(wanted), _NAMED_AT_ONCE):
        part = wanted[at : at + _NAMED_AT_ONCE]
        rows = session.execute(
            select(DocumentRow.name, DocumentRow.id).where(
                DocumentRow.collection_key == collection_key,
                or_(DocumentRow.name.in_(part), DocumentRow.id.in_(part)),
            )
        )
        found.update(value for row in rows for value in row)
    return [name for name in asked if name not in found]


def content(session: Session, collection_key: int, document_id: str) -> tuple[Document, str | None]:
    """The document and the blob of its file; None: it was a row of one. Raises `NotFound`."""
    found = get(session, collection_key, document_id)
    blob = session.scalar(
        select(RevisionRow.blob)
        .join(DocumentRow, DocumentRow.key == RevisionRow.document_key)
        .where(DocumentRow.id == document_id, RevisionRow.current)
    )
    return found, blob


def origin(session: Session, collection_key: int, document_id: str) -> str:
    """Where it came from: other bytes from there are its next revision. Raises `NotFound`."""
    names.check("document", document_id)
    found = session.scalar(
        select(DocumentRow.origin).where(
            DocumentRow.collection_key == collection_key, DocumentRow.id == document_id
        )
    )
    if found is None:
        raise NotFound(f"no document {document_id!r} in this collection")
    return found


def list_page(
    session: Session,
    collection_key: int,
    after: int = 0,
    limit: int = 100,
    filters: Mapping[str, Any] | None = None,
) -> list[tuple[int, Document]]:
    """(key, document), oldest first; `after`: the key that the page before ended with.

    Raises `InvalidFilter`.
    """
    rows = session.execute(
        _documents()
        .where(
            DocumentRow.collection_key == collection_key,
            DocumentRow.key > after,
            metadata_matches(session, filters),
        )
        .order_by(DocumentRow.key)
        .limit(limit)
    )
    return [(row[0].key, _document(row)) for row in rows]


def delete(session: Session, collection_key: int, document_id: str) -> None:
    """The document with all revisions and items; its vectors are dead at once.

    Stored answers lose its words, and its blobs are condemned; a `delete` job does the rest, which
    the caller begins in the same transaction. Raises `NotFound`.
    """
    names.check("document", document_id)
    row = session.scalar(
        select(DocumentRow)
        .where(DocumentRow.collection_key == collection_key, DocumentRow.id == document_id)
        .with_for_update()
    )
    if row is None:
        raise NotFound(f"no document {document_id!r} in this collection")
    redaction.redact_answers(session, row)
    redaction.forget_inputs(session, row)
    _remove(session, row)


def delete_some(session: Session, collection_key: int, limit: int) -> int:
    """As `delete`, of documents of a collection that goes as a whole, answers too; how many."""
    rows = session.scalars(
        select(DocumentRow)
        .where(DocumentRow.collection_key == collection_key)
        .order_by(DocumentRow.key)
        .limit(limit)
    ).all()
    for row in rows:
        _remove(session, row)
    return len(rows)


def _remove(session: Session, row: DocumentRow) -> None:
    mine = select(RevisionRow.key).where(RevisionRow.document_key == row.key)
    condemned.condemn(session, select(RevisionRow.blob).where(RevisionRow.key.in_(mine)))
    condemned.condemn(session, select(ItemRow.picture).where(ItemRow.revision_key.in_(mine)))
    for revision in session.scalars(
        select(RevisionRow).where(RevisionRow.document_key == row.key)
    ).all():
        if revision.current or not revision.complete:
            revisions.retire(session, revision)
        if not revision.complete:
            job_inputs.say_deleted(session, row.collection_key, row.origin, revision.sha256)
    session.execute(sql_delete(DocumentRow).where(DocumentRow.key == row.key))
