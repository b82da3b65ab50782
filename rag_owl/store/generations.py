"""Generations: what a collection's vectors were made with, and which of them is searched.

building → ready → live → kept → retired. Of a collection one is live. `building` gets its vectors
beside it, `ready` has them and was compared; `kept` was live before and can be again. Deletions
reach all of these at once; new documents reach the others when they are filled, before the switch.
A retired one has no vectors any more; its row stays, because answers name it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from rag_owl.errors import Conflict
from rag_owl.rows import CollectionRow, GenerationRow, JobRow, SegmentRow, TombstoneRow
from rag_owl.store.collections import Generation, create_generation, from_row, live_generation

State: TypeAlias = Literal["building", "ready", "live", "kept", "retired"]


@dataclass(frozen=True, slots=True)
class GenerationInfo:
    generation: Generation
    state: State
    vectors: int  # in active segments, the dead among them
    created_at: float
    live_since: float | None
    comparison: Mapping[str, Any] | None  # with the one that was live when it was made


def lock(session: Session, collection_key: int) -> int:
    """Hold the collection for the rest of the transaction; its version.

    Whoever makes vectors findable does so first: what is current, what is live and which vectors
    are dead then change for one at a time, also where several processes share a PostgreSQL.
    """
    return session.execute(
        select(CollectionRow.version).where(CollectionRow.key == collection_key).with_for_update()
    ).scalar_one()


def hold(session: Session, key: int) -> State | None:
    """As `lock`, of a generation's collection; the generation's state then, None: there is none."""
    collection = session.scalar(
        select(GenerationRow.collection_key).where(GenerationRow.key == key)
    )
    row = select(CollectionRow.key).where(CollectionRow.key == collection).with_for_update()
    return None if session.scalar(row) is None else state_of(session, key)


def of_state(session: Session, collection_key: int, *states: State) -> list[Generation]:
    """The newest first."""
    rows = session.scalars(
        select(GenerationRow)
        .where(GenerationRow.collection_key == collection_key, GenerationRow.state.in_(states))
        .order_by(GenerationRow.key.desc())
    )
    return [from_row(row) for row in rows]


def state_of(session: Session, key: int) -> State | None:
    """None: there is no such generation."""
    found: State | None = session.scalar(
        select(GenerationRow.state).where(GenerationRow.key == key)
    )
    return found


def infos(session: Session, collection_key: int) -> list[GenerationInfo]:
    """Those that have vectors, the newest first."""
    counts = dict(
        session.execute(
            select(SegmentRow.generation_key, func.sum(SegmentRow.count))
            .where(SegmentRow.active)
            .group_by(SegmentRow.generation_key)
        ).all()
    )
    rows = session.scalars(
        select(GenerationRow)
        .where(GenerationRow.collection_key == collection_key, GenerationRow.state != "retired")
        .order_by(GenerationRow.key.desc())
    )
    return [
        GenerationInfo(
            from_row(row),
            row.state,  # type: ignore[arg-type]
            int(counts.get(row.key, 0)),
            row.created_at,
            row.live_since,
            row.comparison,
        )
        for row in rows
    ]


def create_first(session: Session, collection_key: int, wanted: Generation) -> Generation:
    """The live one: what is there, or `wanted`. Two that ask at once get the same."""
    lock(session, collection_key)
    found = live_generation(session, collection_key)
    return found or create_generation(session, collection_key, wanted)


def set_state(session: Session, key: int, state: State) -> None:
    session.execute(update(GenerationRow).where(GenerationRow.key == key).values(state=state))


def close_until(session: Session, key: int, until: float | None) -> None:
    """Ask that no batch of new documents is begun before: it has nearly all that it lacks."""
    session.execute(
        update(GenerationRow).where(GenerationRow.key == key).values(closing_until=until)
    )


def embedders_in_use(session: Session, collection_key: int) -> set[str]:
    """Of any of its generations, as they have them: with their revisions."""
    rows = session.execute(
        select(GenerationRow.text_embedder, GenerationRow.picture_embedder)
        .where(GenerationRow.collection_key == collection_key)
        .distinct()
    )
    return {name for row in rows for name in row}


def is_closing(session: Session, collection_key: int) -> bool:
    return (
        session.scalar(
            select(GenerationRow.key).where(
                GenerationRow.collection_key == collection_key,
                GenerationRow.state != "retired",
                GenerationRow.closing_until > time.time(),
            )
        )
        is not None
    )


def set_comparison(session: Session, key: int, comparison: Mapping[str, Any] | None) -> None:
    session.execute(
        update(GenerationRow)
        .where(GenerationRow.key == key)
        .values(comparison=dict(comparison) if comparison is not None else None)
    )


def switch(session: Session, collection_key: int, key: int) -> None:
    """Search this generation from now on, and keep the one that was live; of those kept before,
    and of others that were being built, nothing is left.

    The caller holds the lock and has seen that nothing lacks. Raises `Conflict` where it was
    dropped meanwhile.
    """
    if state_of(session, key) not in ("building", "ready", "kept", "live"):
        raise Conflict("what was to be searched was dropped meanwhile; reindex again")
    if state_of(session, key) == "live":
        return
    others = of_state(session, collection_key, "building", "ready", "kept")
    retire(session, [other.key for other in others if other.key != key])
    session.execute(
        update(GenerationRow)
        .where(GenerationRow.collection_key == collection_key, GenerationRow.state == "live")
        .values(state="kept", closing_until=None)
    )
    session.execute(
        update(GenerationRow)
        .where(GenerationRow.key == key)
        .values(state="live", live_since=time.time(), closing_until=None)
    )


def retire(session: Session, keys: Sequence[int]) -> None:
    """Their vectors are needed no more: files go when no search can be reading them."""
    session.execute(
        update(GenerationRow).where(GenerationRow.key.in_(keys)).values(state="retired")
    )
    session.execute(
        update(SegmentRow)
        .where(SegmentRow.generation_key.in_(keys), SegmentRow.active)
        .values(active=False, retired_at=time.time())
    )
    session.execute(delete(TombstoneRow).where(TombstoneRow.generation_key.in_(keys)))


def reindexes(session: Session, collection_key: int) -> list[tuple[str, dict[str, Any]]]:
    """(id, parameters) of the collection's reindex jobs that are not finished nor to be stopped."""
    rows = session.execute(
        select(JobRow.id, JobRow.parameters).where(
            JobRow.collection_key == collection_key,
            JobRow.kind == "reindex",
            JobRow.state.in_(("queued", "running")),
            ~JobRow.cancel_requested,
        )
    )
    return [(row.id, row.parameters) for row in rows]
