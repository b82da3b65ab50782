"""Items: what is retrieved and cited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from rag_owl.db import insert_keyed
from rag_owl.errors import NotFound
from rag_owl.rows import DocumentRow, ItemRow, RevisionRow
from rag_owl.store import locations, names, segments, words
from rag_owl.store.revisions import OpenRevision
from rag_owl.types import Item, ItemKind, Location, TextBox, TextTime

_AT_ONCE = 1_000  # keys in one IN


@dataclass(frozen=True, slots=True)
class NewItem:
    kind: ItemKind
    text: str | None
    heading: str
    location: Location
    text_boxes: tuple[TextBox, ...] = ()
    text_times: tuple[TextTime, ...] = ()
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
    keys = iter(insert_keyed(session, ItemRow, rows))
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
    for (revision, _, _), pairs in zip(additions, keyed, strict=True):
        if not revision.current:  # found only when it takes its predecessor's place
            segments.bury_items(session, collection_key, [key for key, _ in pairs])
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
        "text_boxes": locations.dump_boxes(item.text_boxes)
        or locations.dump_times(item.text_times),
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
        RevisionRow.blob,
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
        text_times=locations.load_times(row[12]),
        metadata=row[13],
        video=row[14] if row[6] == "video" else None,
    )


def load(session: Session, keys: Sequence[int]) -> dict[int, Item]:
    """Those of the items that are still searched (a deletion may be newer than the search)."""
    return _load(session, keys, RevisionRow.current)


def load_any(session: Session, keys: Sequence[int]) -> dict[int, Item]:
    """The items of any revision, those that still grow among them."""
    return _load(session, keys, true())


def _load(
    session: Session,
    keys: Sequence[int],
    condition: ColumnElement[bool] | InstrumentedAttribute[bool],
) -> dict[int, Item]:
    found = {}
    for at in range(0, len(keys), _AT_ONCE):
        part = list(keys[at : at + _AT_ONCE])
        for row in session.execute(_COLUMNS.where(ItemRow.key.in_(part), condition)):
            found[row[0]] = _item(row)
    return found


def with_vector(
    session: Session, collection_key: int, splitter: int, channel: str
) -> Iterator[int]:
    """Keys of the items that a channel's index must hold: searched ones and growing ones."""
    flag = ItemRow.in_text if channel == "text" else ItemRow.in_picture
    yield from session.scalars(
        select(ItemRow.key)
        .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
        .where(
            RevisionRow.collection_key == collection_key,
            or_(RevisionRow.current, ~RevisionRow.complete),
            ItemRow.splitter == splitter,
            flag,
        )
        .execution_options(yield_per=10_000)
    )


def having_vector(session: Session, keys: Sequence[int], splitter: int, channel: str) -> set[int]:
    """Those of the keys whose items exist and are in a channel's index."""
    flag = ItemRow.in_text if channel == "text" else ItemRow.in_picture
    return set(
        session.scalars(
            select(ItemRow.key).where(ItemRow.key.in_(keys), ItemRow.splitter == splitter, flag)
        )
    )


def sample(session: Session, collection_key: int, splitter: int, count: int) -> list[Item]:
    """Up to `count` searched items, spread evenly over the collection."""
    keys = session.scalars(
        select(ItemRow.key)
        .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
        .where(
            RevisionRow.collection_key == collection_key,
            RevisionRow.current,
            ItemRow.splitter == splitter,
        )
        .order_by(ItemRow.key)
    ).all()
    chosen = keys[:: max(1, len(keys) // count)][:count]
    return list(load(session, chosen).values())


def pictures_after(session: Session, collection_key: int, after: str, limit: int) -> list[str]:
    """Blob keys of the pictures of searched items, ascending and each once."""
    return list(
        session.scalars(
            select(ItemRow.picture)
            .distinct()
            .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
            .where(
                RevisionRow.collection_key == collection_key,
                RevisionRow.current,
                ItemRow.picture > after,
            )
            .order_by(ItemRow.picture)
            .limit(limit)
        )
    )  # type: ignore[arg-type]


def count_pictures(session: Session, collection_key: int) -> int:
    """How many `pictures_after` gives in all."""
    return (
        session.scalar(
            select(func.count(ItemRow.picture.distinct()))
            .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
            .where(RevisionRow.collection_key == collection_key, RevisionRow.current)
        )
        or 0
    )


def get(session: Session, collection_key: int, item_id: str) -> Item:
    """Any item of the collection, also of an older revision: citations stay valid."""
    names.check("item", item_id)
    row = session.execute(
        _COLUMNS.where(ItemRow.id == item_id, RevisionRow.collection_key == collection_key)
    ).one_or_none()
    if row is None:
        raise NotFound(f"no item {item_id!r} in this collection")
    return _item(row)


def by_id(
    session: Session, collection_key: int, ids: Sequence[str], current: bool = False
) -> dict[str, Item]:
    """Those of the items that the collection has; with `current` only those that are searched."""
    wanted = [name for name in dict.fromkeys(ids) if names.is_storable(name)]
    found = {}
    for at in range(0, len(wanted), _AT_ONCE):
        part = wanted[at : at + _AT_ONCE]
        chosen = _COLUMNS.where(ItemRow.id.in_(part), RevisionRow.collection_key == collection_key)
        if current:
            chosen = chosen.where(RevisionRow.current)
        for row in session.execute(chosen):
            found[row[1]] = _item(row)
    return found


def siblings(session: Session, keys: Sequence[int]) -> dict[int, list[int]]:
    """For each item, those of the same revision that share its picture, itself among them."""
    twin = aliased(ItemRow)
    found: dict[int, list[int]] = {}
    for at in range(0, len(keys), _AT_ONCE):
        rows = session.execute(
            select(ItemRow.key, twin.key)
            .join(
                twin,
                and_(
                    twin.revision_key == ItemRow.revision_key,
                    twin.splitter == ItemRow.splitter,
                    twin.picture == ItemRow.picture,
                ),
            )
            .where(ItemRow.key.in_(list(keys[at : at + _AT_ONCE])))
            .order_by(twin.ordinal)
        )
        for key, other in rows:
            found.setdefault(key, []).append(other)
    return found
