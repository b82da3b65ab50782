"""Revisions of documents: what is stored of some bytes, and how another takes its place."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import and_, bindparam, func, or_, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from rag_owl.rows import DocumentRow, ItemRow, RevisionRow
from rag_owl.store import condemned, segments, words

Outcome = Literal["added", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class NewDocument:
    """What a loader found, before anything is stored of it."""

    origin: str  # other bytes from here are a new revision of what came from here before
    name: str
    title: str
    sha256: str
    media_type: str
    metadata: Mapping[str, Any]
    blob: str | None = None


@dataclass(frozen=True, slots=True)
class OpenRevision:
    """A revision that items are being added to."""

    key: int
    document_id: str
    number: int
    current: bool
    outcome: Outcome


# Core and prepared once: through the ORM this would cost a fifth of embedding the text.
_revisions, _owners = RevisionRow.__table__, DocumentRow.__table__
_FIND = (
    select(
        _revisions.c.key,
        _revisions.c.complete,
        _revisions.c.title,
        _revisions.c.media_type,
        _revisions.c.metadata,
        _owners.c.origin,
        _owners.c.name,
    )
    .join_from(_revisions, _owners, _owners.c.key == _revisions.c.document_key)
    .where(
        _revisions.c.collection_key == bindparam("collection"),
        _revisions.c.sha256 == bindparam("sha256"),
        or_(
            and_(_revisions.c.current, _revisions.c.complete),
            and_(~_revisions.c.complete, _owners.c.origin == bindparam("origin")),
        ),
    )
    .order_by(_revisions.c.complete.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of some bytes already."""

    complete: bool
    items: int  # stored so far, where it is not complete
    document: NewDocument  # as it was stored; `blob` is left out


def find(
    session: Session, collection_key: int, sha256: str, origin: str, splitter: int
) -> Known | None:
    """What is stored of these bytes: wholly, from wherever; or partly, from this origin.

    Asked for every document.
    """
    row = (
        session.connection()
        .execute(_FIND, {"collection": collection_key, "sha256": sha256, "origin": origin})
        .first()
    )
    if row is None:
        return None
    stored = 0 if row.complete else _count_items(session, row.key, splitter)
    return Known(
        row.complete,
        stored,
        NewDocument(row.origin, row.name, row.title, sha256, row.media_type, row.metadata),
    )


def _count_items(session: Session, revision_key: int, splitter: int) -> int:
    return session.scalar(
        select(func.count()).where(
            ItemRow.revision_key == revision_key, ItemRow.splitter == splitter
        )
    ) or 0  # fmt: skip


def abandon(session: Session, collection_key: int, sha256: str) -> None:
    """Take back a revision that was begun and cannot be completed."""
    _take_back(session, collection_key, sha256, None)


def _take_back(session: Session, collection_key: int, sha256: str, origin: str | None) -> None:
    """origin: where the bytes are read from now; None: from nowhere.

    A document that was nothing else goes on there, where nothing is yet: what cites it, and is to
    be cleared when it is deleted, knows it by its id.
    """
    row = session.scalar(
        select(RevisionRow).where(
            RevisionRow.collection_key == collection_key,
            RevisionRow.sha256 == sha256,
            ~RevisionRow.complete,
        )
    )
    if row is None:
        return
    document = session.get_one(DocumentRow, row.document_key)
    _throw_away(session, row)
    session.flush()
    others = select(RevisionRow.key).where(RevisionRow.document_key == document.key)
    if session.scalar(others.limit(1)) is not None:
        return
    there = select(DocumentRow.key).where(
        DocumentRow.collection_key == collection_key, DocumentRow.origin == origin
    )
    if origin is not None and session.scalar(there) is None:
        document.origin = origin
    elif document.origin != origin:
        session.execute(sql_delete(DocumentRow).where(DocumentRow.key == document.key))
    session.flush()


def _throw_away(session: Session, row: RevisionRow) -> None:
    """Its items go with it; its bytes with the next deletion."""
    retire(session, row)
    condemned.condemn(session, [row.blob] if row.blob else [])
    condemned.condemn(session, select(ItemRow.picture).where(ItemRow.revision_key == row.key))
    session.delete(row)


def move(session: Session, collection_key: int, seen: Sequence[NewDocument]) -> None:
    """Known bytes again, under names, titles, metadata or origins that may be new.

    All at once, because files may have changed places: nothing is searched under an origin that
    now holds something else, and nothing is lost that is only somewhere else. Bytes that were
    deleted since they were looked up stay deleted.
    """
    by_content = {document.sha256: document for document in seen}  # of equal ones the last
    moved = []
    for document in by_content.values():
        revision = _complete_revision(session, collection_key, document.sha256)
        if revision is None:
            continue
        revision.title, revision.properties = document.title, dict(document.metadata)
        owner = session.get_one(DocumentRow, revision.document_key)
        owner.name = document.name
        if owner.origin != document.origin:
            owner.origin = f"moving {uuid.uuid4().hex}"
            moved.append((owner, document.origin))
    session.flush()
    for owner, origin in moved:
        _free_origin(session, collection_key, origin)
        owner.origin = origin
        session.flush()


def _complete_revision(session: Session, collection_key: int, sha256: str) -> RevisionRow | None:
    return session.scalar(
        select(RevisionRow).where(
            RevisionRow.collection_key == collection_key,
            RevisionRow.sha256 == sha256,
            RevisionRow.current,
            RevisionRow.complete,
        )
    )


def is_complete(session: Session, collection_key: int, sha256: str) -> bool:
    """Whether these bytes are wholly stored and searched."""
    return _complete_revision(session, collection_key, sha256) is not None


def _free_origin(session: Session, collection_key: int, origin: str) -> None:
    """What came from `origin` before is no longer there: it is kept, but not searched."""
    row = session.scalar(
        select(DocumentRow).where(
            DocumentRow.collection_key == collection_key, DocumentRow.origin == origin
        )
    )
    if row is None:
        return
    for revision in session.scalars(
        select(RevisionRow).where(RevisionRow.document_key == row.key, RevisionRow.current)
    ).all():
        retire(session, revision)
    row.origin = f"{origin} (until {uuid.uuid4().hex})"
    session.flush()


def retire(session: Session, revision: RevisionRow) -> None:
    """It is kept, but no longer searched."""
    segments.bury(session, revision.collection_key, revision.key)
    words.remove(session, revision.key)
    revision.current = False
    session.flush()


def continue_revision(
    session: Session, collection_key: int, document: NewDocument, splitter: int, ordinal: int
) -> OpenRevision | None:
    """The revision that grows with these bytes, if it has come to just this item.

    None: it was deleted meanwhile, and what is deleted stays deleted.
    """
    row = session.execute(
        select(RevisionRow, DocumentRow.id)
        .join(DocumentRow, DocumentRow.key == RevisionRow.document_key)
        .where(
            RevisionRow.collection_key == collection_key,
            RevisionRow.sha256 == document.sha256,
            DocumentRow.origin == document.origin,
            ~RevisionRow.complete,
        )
    ).one_or_none()
    if row is None or _count_items(session, row[0].key, splitter) != ordinal:
        return None
    revision, document_id = row
    outcome: Outcome = "added" if revision.number == 1 else "updated"
    return OpenRevision(revision.key, document_id, revision.number, revision.current, outcome)


def open_revision(session: Session, collection_key: int, document: NewDocument) -> OpenRevision:
    """Begin the revision that will hold these bytes, which are not stored yet.

    The first revision of a document is searched while it grows; a later one takes its
    predecessor's place when it is complete.
    """
    _take_back(session, collection_key, document.sha256, document.origin)  # half-read
    now = time.time()
    owner_row = session.scalar(
        select(DocumentRow).where(
            DocumentRow.collection_key == collection_key,
            DocumentRow.origin == document.origin,
        )
    )
    if owner_row is None:
        owner_row = DocumentRow(
            id=uuid.uuid4().hex,
            collection_key=collection_key,
            origin=document.origin,
            name=document.name,
            created_at=now,
        )
        session.add(owner_row)
        session.flush()
    owner_row.name = document.name
    newest = session.scalar(
        select(func.max(RevisionRow.number)).where(RevisionRow.document_key == owner_row.key)
    )
    has_current = session.scalar(
        select(RevisionRow.key).where(
            RevisionRow.document_key == owner_row.key, RevisionRow.current
        )
    )
    row = RevisionRow(
        document_key=owner_row.key,
        collection_key=collection_key,
        number=(newest or 0) + 1,
        sha256=document.sha256,
        title=document.title,
        media_type=document.media_type,
        properties=dict(document.metadata),
        blob=document.blob,
        current=has_current is None,
        complete=False,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return OpenRevision(
        row.key, owner_row.id, row.number, row.current, "added" if not newest else "updated"
    )


def complete_revision(session: Session, revision_key: int) -> None:
    """All its items are there: from now on it alone is searched of its document."""
    row = session.get_one(RevisionRow, revision_key)
    row.complete = True
    session.flush()
    for other in session.scalars(
        select(RevisionRow).where(
            RevisionRow.document_key == row.document_key,
            RevisionRow.key != row.key,
            or_(RevisionRow.current, ~RevisionRow.complete),
        )
    ).all():
        if other.complete:
            retire(session, other)
        else:  # begun and left behind
            _throw_away(session, other)
    session.flush()
    if not row.current:
        row.current = True
        session.flush()
        segments.raise_up(session, row.key)
        words.add_revision(session, row.collection_key, row.key)
