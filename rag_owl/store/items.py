"""Items: what is retrieved and cited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from rag_owl.db import DocumentRow, ItemRow, RevisionRow
from rag_owl.errors import NotFound
from rag_owl.store import locations, segments, words
from rag_owl.store.documents import OpenRevision
from rag_owl.types import Item, ItemKind, Location, TextBox


@dataclass(frozen=True, slots=True)
class NewItem:
    kind: ItemKind
    text: str | None
    heading: str
    location: Location
    text_boxes: tuple[TextBox, ...] = ()
    picture: str | None = None  # blob key
    in_text: bool = True  # whether the text index gets a vector of it
    in_picture: bool = False


def add(
    session: Session,
    collection_key: int,
    revision: OpenRevision,
    splitter: int,
    items: Sequence[NewItem],
    first_ordinal: int,
) -> list[int]:
    """Store the items and index their words; their keys, in order."""
    return add_to(session, collection_key, splitter, [(revision, items, first_ordinal)])[0]


def add_to(
    session: Session,
    collection_key: int,
    splitter: int,
    additions: Sequence[tuple[OpenRevision, Sequence[NewItem], int]],
) -> list[list[int]]:
    """As `add`, for many revisions at once: (revision, its items, ordinal of the first)."""
    rows = [
        _row(revision, splitter, ordinal, item)
        for revision, items, first in additions
        for ordinal, item in enumerate(items, first)
    ]
    if not rows:
        return [[] for _ in additions]
    keys = iter(
        session.scalars(
            insert(ItemRow).returning(ItemRow.key, sort_by_parameter_order=True), rows
        ).all()
    )
    keyed = [[(next(keys), item) for item in items] for _, items, _ in additions]
    searched = [
        pair
        for (revision, _, _), pairs in zip(additions, keyed, strict=True)
        if revision.current
        for pair in pairs
    ]
    words.add(
        session,
        collection_key,
        ((key, f"{item.heading}\n{item.text or ''}") for key, item in searched),
    )
    for revision, _, _ in additions:
        if not revision.current:  # found only when it takes its predecessor's place
            segments.bury(session, collection_key, revision.key)
    return [[key for key, _ in pairs] for pairs in keyed]


def _row(revision: OpenRevision, splitter: int, ordinal: int, item: NewItem) -> dict[str, Any]:
    version = "" if splitter == 1 else f"s{splitter}."
    return {
        "id": f"{revision.document_id}.{revision.number}.{version}{ordinal}",
        "revision_key": revision.key,
        "splitter": splitter,
        "ordinal": ordinal,
        "kind": item.kind,
        "text": item.text,
        "heading": item.heading,
        "location": locations.dump(item.location),
        "text_boxes": locations.dump_boxes(item.text_boxes),
        "picture": item.picture,
        "in_text": item.in_text,
        "in_picture": item.in_picture,
    }


_COLUMNS = (
    select(
        ItemRow.key,
        ItemRow.id,
        DocumentRow.id,
        DocumentRow.name,
        RevisionRow.number,
        ItemRow.ordinal,
        ItemRow.kind,
        RevisionRow.title,
        ItemRow.location,
        ItemRow.text,
        ItemRow.heading,
        ItemRow.picture,
        ItemRow.text_boxes,
        RevisionRow.properties,
    )
    .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
    .join(DocumentRow, DocumentRow.key == RevisionRow.document_key)
)


def _item(row: Any) -> Item:
    return Item(
        id=row[1],
        document_id=row[2],
        document_name=row[3],
        revision=row[4],
        ordinal=row[5],
        kind=row[6],
        title=row[7],
        location=locations.load(row[8]),
        text=row[9],
        heading=row[10],
        picture=row[11],
        text_boxes=locations.load_boxes(row[12]),
        metadata=row[13],
    )


def load(session: Session, keys: Sequence[int]) -> dict[int, Item]:
    """Those of the items that are still searched (a deletion may be newer than the search)."""
    rows = session.execute(_COLUMNS.where(ItemRow.key.in_(list(keys)), RevisionRow.current))
    return {row[0]: _item(row) for row in rows}


def get(session: Session, collection_key: int, item_id: str) -> Item:
    """Any item of the collection, also of an older revision: citations stay valid."""
    row = session.execute(
        _COLUMNS.where(ItemRow.id == item_id, RevisionRow.collection_key == collection_key)
    ).one_or_none()
    if row is None:
        raise NotFound(f"no item {item_id!r} in this collection")
    return _item(row)


def siblings(session: Session, key: int) -> list[int]:
    """The items of the same revision that share the item's picture, itself among them."""
    row = session.execute(
        select(ItemRow.revision_key, ItemRow.splitter, ItemRow.picture).where(ItemRow.key == key)
    ).one_or_none()
    if row is None or row.picture is None:
        return [key]
    return list(
        session.scalars(
            select(ItemRow.key)
            .where(
                ItemRow.revision_key == row.revision_key,
                ItemRow.splitter == row.splitter,
                ItemRow.picture == row.picture,
            )
            .order_by(ItemRow.ordinal)
        )
    )
