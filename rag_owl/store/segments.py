"""Which segment files are searched, and which of their vectors are dead."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, literal, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from rag_owl.errors import Conflict
from rag_owl.rows import Base, GenerationRow, ItemRow, RevisionRow, SegmentRow, TombstoneRow

_AT_ONCE = 10_000  # values in one IN


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    id: str  # also its folder's name
    channel: str
    index_type: str
    count: int


def active(session: Session, generation_key: int) -> list[SegmentInfo]:
    rows = session.execute(
        select(SegmentRow.id, SegmentRow.channel, SegmentRow.index_type, SegmentRow.count)
        .where(SegmentRow.generation_key == generation_key, SegmentRow.active)
        .order_by(SegmentRow.created_at, SegmentRow.id)
    )
    return [SegmentInfo(*row) for row in rows]


def is_active(session: Session, name: str) -> bool:
    return bool(session.scalar(select(SegmentRow.active).where(SegmentRow.id == name)))


def activate(session: Session, generation_key: int, segment: SegmentInfo) -> None:
    """From now on it is searched; one that is searched already has got so many more vectors."""
    row = session.get(SegmentRow, segment.id, populate_existing=True)
    if row is not None:
        row.count = segment.count + (row.count if row.active else 0)
        row.active, row.retired_at = True, None
        return
    session.add(
        SegmentRow(
            id=segment.id,
            generation_key=generation_key,
            channel=segment.channel,
            index_type=segment.index_type,
            count=segment.count,
            active=True,
            created_at=time.time(),
        )
    )


def replace(
    session: Session,
    generation_key: int,
    old: Sequence[SegmentInfo],
    new: SegmentInfo | None,
    dropped: Sequence[int],
) -> None:
    """Put a merged segment in the place of `old`; `dropped`: the dead it left out.

    Raises `Conflict` where one of the old is not searched any more: somebody else was faster, and
    its vectors would be there twice.
    """
    if drop(session, [segment.id for segment in old]) != len(old):
        raise Conflict("segments were replaced by somebody else meanwhile")
    if new is not None:
        activate(session, generation_key, new)
    clear_tombstones(session, generation_key, old[0].channel, dropped)


def set_count(session: Session, name: str, count: int) -> None:
    """So many vectors are in a segment that can be changed."""
    session.execute(update(SegmentRow).where(SegmentRow.id == name).values(count=count))


def retired(session: Session, before: float) -> list[str]:
    """Ids of segments whose files no reader needs any more."""
    return list(
        session.scalars(
            select(SegmentRow.id).where(~SegmentRow.active, SegmentRow.retired_at < before)
        )
    )


def known(session: Session) -> set[str]:
    return set(session.scalars(select(SegmentRow.id)))


def forget(session: Session, ids: Sequence[str]) -> None:
    session.execute(delete(SegmentRow).where(SegmentRow.id.in_(ids)))


def tombstones(
    session: Session, generation_key: int, channel: str, for_good: bool = False
) -> list[int]:
    """Sorted item keys. `for_good`: not those of a revision that is still growing."""
    query = (
        select(TombstoneRow.item_key)
        .where(TombstoneRow.generation_key == generation_key, TombstoneRow.channel == channel)
        .order_by(TombstoneRow.item_key)
    )
    if for_good:
        query = (
            query.outerjoin(ItemRow, ItemRow.key == TombstoneRow.item_key)
            .outerjoin(RevisionRow, RevisionRow.key == ItemRow.revision_key)
            .where(or_(RevisionRow.key.is_(None), RevisionRow.complete))
        )
    return list(session.scalars(query))


def bury(session: Session, collection_key: int, revision_key: int) -> None:
    """No vector of the revision's items may be found, in any generation of the collection."""
    raise_up(session, revision_key)
    _bury(session, collection_key, ItemRow.revision_key == revision_key)


def bury_items(session: Session, collection_key: int, keys: Sequence[int]) -> None:
    """As `bury`, for single items that are new."""
    for at in range(0, len(keys), 1_000):
        _bury(session, collection_key, ItemRow.key.in_(list(keys[at : at + 1_000])))


def _bury(session: Session, collection_key: int, which: ColumnElement[bool]) -> None:
    for channel, flag in (("text", ItemRow.in_text), ("picture", ItemRow.in_picture)):
        dead = select(GenerationRow.key, literal(channel), ItemRow.key).where(
            GenerationRow.collection_key == collection_key,
            GenerationRow.state != "retired",
            which,
            ItemRow.splitter == GenerationRow.splitter,
            flag,
        )
        columns = ["generation_key", "channel", "item_key"]
        # What is being built may bury the same at the same time.
        session.execute(
            _insert(session, TombstoneRow).from_select(columns, dead).on_conflict_do_nothing()
        )


def _insert(session: Session, table: type[Base]) -> Any:
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(table)


def raise_up(session: Session, revision_key: int) -> None:
    """Undo `bury`."""
    items = select(ItemRow.key).where(ItemRow.revision_key == revision_key)
    session.execute(delete(TombstoneRow).where(TombstoneRow.item_key.in_(items)))


def bury_unsearched(
    session: Session, generation_key: int, channel: str, keys: Sequence[int]
) -> None:
    """Of vectors that were just made: those of items that are gone, or not searched (yet), are
    dead. The caller holds the collection's lock."""
    for at in range(0, len(keys), _AT_ONCE):
        part = list(keys[at : at + _AT_ONCE])
        searched = session.scalars(
            select(ItemRow.key)
            .join(RevisionRow, RevisionRow.key == ItemRow.revision_key)
            .where(ItemRow.key.in_(part), RevisionRow.current)
        )
        if dead := sorted(set(part) - set(searched)):
            rows = [
                {"generation_key": generation_key, "channel": channel, "item_key": key}
                for key in dead
            ]
            session.execute(_insert(session, TombstoneRow).on_conflict_do_nothing(), rows)


def still_there(session: Session, keys: Sequence[int]) -> list[int]:
    """Those of the items that were not deleted. The caller holds the collection's lock."""
    found: list[int] = []
    for at in range(0, len(keys), _AT_ONCE):
        part = list(keys[at : at + _AT_ONCE])
        found += session.scalars(select(ItemRow.key).where(ItemRow.key.in_(part)))
    return found


def clear_tombstones(
    session: Session, generation_key: int, channel: str, keys: Sequence[int]
) -> None:
    for at in range(0, len(keys), _AT_ONCE):
        session.execute(
            delete(TombstoneRow).where(
                TombstoneRow.generation_key == generation_key,
                TombstoneRow.channel == channel,
                TombstoneRow.item_key.in_(keys[at : at + _AT_ONCE]),
            )
        )


def drop(session: Session, ids: Sequence[str]) -> int:
    """Search these segments no more; their files go when no search can be reading them.

    Returns how many of them were searched until now.
    """
    found = session.execute(
        update(SegmentRow)
        .where(SegmentRow.id.in_(ids), SegmentRow.active)
        .values(active=False, retired_at=time.time())
    )
    return int(found.rowcount)  # type: ignore[attr-defined]
