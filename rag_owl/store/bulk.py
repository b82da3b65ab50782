"""Many new documents at once: what an ingest mostly does, in a handful of statements."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from rag_owl.db import insert_keyed
from rag_owl.rows import DocumentRow, RevisionRow
from rag_owl.store import items
from rag_owl.store.items import NewItem
from rag_owl.store.revisions import NewDocument, OpenRevision

_AT_ONCE = 1_000  # values in one IN


def strangers(session: Session, collection_key: int, documents: Sequence[NewDocument]) -> set[int]:
    """Indices of those whose bytes and origin are known neither here nor elsewhere in the list.

    Only they may be added by `add`; the others need `revisions.open_revision`, one by one.
    """
    hashes = Counter(document.sha256 for document in documents)
    origins = Counter(document.origin for document in documents)
    taken: set[str] = set()
    for at in range(0, len(documents), _AT_ONCE):
        part = documents[at : at + _AT_ONCE]
        taken.update(
            session.scalars(
                select(RevisionRow.sha256).where(
                    RevisionRow.collection_key == collection_key,
                    or_(RevisionRow.current, ~RevisionRow.complete),
                    RevisionRow.sha256.in_([document.sha256 for document in part]),
                )
            )
        )
        taken.update(
            session.scalars(
                select(DocumentRow.origin).where(
                    DocumentRow.collection_key == collection_key,
                    DocumentRow.origin.in_([document.origin for document in part]),
                )
            )
        )
    return {
        at
        for at, document in enumerate(documents)
        if hashes[document.sha256] == origins[document.origin] == 1
        and document.sha256 not in taken
        and document.origin not in taken
    }


def add(
    session: Session,
    collection_key: int,
    splitter: int,
    documents: Sequence[tuple[NewDocument, Sequence[NewItem]]],
) -> list[list[int]]:
    """Store complete strangers with all their items; the item keys of each, in order."""
    if not documents:
        return []
    now = time.time()
    ids = [uuid.uuid4().hex for _ in documents]
    document_keys = insert_keyed(
        session,
        DocumentRow,
        [
            {
                "id": document_id,
                "collection_key": collection_key,
                "origin": document.origin,
                "name": document.name,
                "created_at": now,
            }
            for document_id, (document, _) in zip(ids, documents, strict=True)
        ],
    )
    revision_keys = insert_keyed(
        session,
        RevisionRow,
        [
            {
                "document_key": key,
                "collection_key": collection_key,
                "number": 1,
                "sha256": document.sha256,
                "title": document.title,
                "media_type": document.media_type,
                "metadata": dict(document.metadata),
                "blob": document.blob,
                "current": True,
                "complete": True,
                "created_at": now,
            }
            for key, (document, _) in zip(document_keys, documents, strict=True)
        ],
    )
    revisions = [
        OpenRevision(key, document_id, 1, True, "added")
        for key, document_id in zip(revision_keys, ids, strict=True)
    ]
    return items.add_to(
        session,
        collection_key,
        splitter,
        [(revision, new, 0) for revision, (_, new) in zip(revisions, documents, strict=True)],
    )
