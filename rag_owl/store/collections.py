"""Collections and the generations that search them."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from rag_owl.errors import InvalidInput, NotFound
from rag_owl.rows import CollectionRow, GenerationRow, ItemRow, RevisionRow
from rag_owl.store import names
from rag_owl.visibility import visible

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# What a collection is called from its deletion until the last of it is gone: nobody can ask for it.
DELETED = re.compile(r"~[0-9a-f]{32}")
_THERE = ~CollectionRow.name.startswith("~")


@dataclass(frozen=True, slots=True)
class Collection:
    key: int
    name: str
    version: int  # grows with everything that changes what a search can find


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    name: str
    documents: int
    items: int
    text_embedder: str | None  # None: nothing was ingested yet
    picture_embedder: str | None


@dataclass(frozen=True, slots=True)
class Generation:
    """What a collection's vectors were made with."""

    key: int
    splitter: int
    text_embedder: str
    text_dimension: int
    picture_embedder: str
    picture_dimension: int
    vector_engine: str = "faiss"
    index_type: str = "auto"

    def same_as(self, other: Generation) -> bool:
        """Whether vectors of the one are vectors of the other."""
        return replace(self, key=0) == replace(other, key=0)


def get(session: Session, name: str) -> Collection:
    """Raises `NotFound` that names the collections that exist."""
    names.check("collection", name)
    # Columns, not the entity: every query of every user begins with this one.
    row = session.execute(
        select(CollectionRow.key, CollectionRow.version).where(CollectionRow.name == name)
    ).one_or_none()
    if row is None or name.startswith("~"):
        known = session.scalars(
            select(CollectionRow.name).where(_THERE).order_by(CollectionRow.name)
        ).all()
        there = f"there are: {', '.join(known)}" if known else "there are none yet"
        raise NotFound(f"no collection {name!r}; {there}")
    return Collection(row.key, name, row.version)


def of_keys(session: Session, keys: Sequence[int]) -> list[Collection]:
    rows = session.execute(
        select(CollectionRow.key, CollectionRow.name, CollectionRow.version).where(
            CollectionRow.key.in_(keys)
        )
    )
    return [Collection(*row) for row in rows]


def can_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def check_name(name: str, field: str = "name") -> None:
    """Raises `InvalidInput` for what cannot name a collection."""
    if not can_name(name):
        raise InvalidInput(
            f"{name!r} cannot name a collection: use 1 to 63 of a-z, 0-9, '-' and '_', "
            "beginning with a letter or digit.",
            field,
        )


def check_stored_name(name: object) -> None:
    """As `check_name`, of what a backup says is one. Raises `InvalidInput`."""
    if not isinstance(name, str) or not (_NAME.fullmatch(name) or DELETED.fullmatch(name)):
        raise InvalidInput(f"{name!r:.100} is no collection's name")


def get_or_create(session: Session, name: str) -> Collection:
    """Raises as `check_may_make` does."""
    check_may_make(session, name)
    # Two processes may make it at once; neither may fail for that.
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(
        dialect.insert(CollectionRow)
        .values(name=name, version=0, created_at=time.time())
        .on_conflict_do_nothing()
    )
    return get(session, name)


def check_may_make(session: Session, name: str) -> None:
    """Raises `InvalidInput`, and `NotFound` where the session may not see one of that name."""
    check_name(name)
    allowed = visible(session)
    if allowed is not None and name not in allowed:
        get(session, name)  # which says that there is none, whether there is or not


def exists(session: Session, name: str) -> bool:
    return session.scalar(select(CollectionRow.key).where(CollectionRow.name == name)) is not None


def list_all(session: Session) -> list[CollectionInfo]:
    return list_page(session, limit=None)


def info(session: Session, name: str) -> CollectionInfo:
    """Raises `NotFound`."""
    key = get(session, name).key
    return _infos(session, CollectionRow.key == key, None)[0]


def list_page(session: Session, after: str = "", limit: int | None = 100) -> list[CollectionInfo]:
    """By name; `after`: the name that the page before ended with."""
    return _infos(session, CollectionRow.name > after, limit)


def names_page(session: Session, after: str, limit: int) -> list[str]:
    """As `list_page`, the names alone."""
    chosen = select(CollectionRow.name).where(CollectionRow.name > after, _THERE)
    return list(session.scalars(chosen.order_by(CollectionRow.name).limit(limit)))


def _infos(
    session: Session, condition: ColumnElement[bool], limit: int | None
) -> list[CollectionInfo]:
    rows = session.scalars(
        select(CollectionRow).where(condition, _THERE).order_by(CollectionRow.name).limit(limit)
    ).all()
    keys = [row.key for row in rows]
    of_these = RevisionRow.collection_key.in_(keys)
    documents = dict(
        session.execute(
            select(RevisionRow.collection_key, func.count())
            .where(RevisionRow.current, of_these)
            .group_by(RevisionRow.collection_key)
        ).all()
    )
    items = dict(
        session.execute(
            select(RevisionRow.collection_key, func.count())
            .join(ItemRow, ItemRow.revision_key == RevisionRow.key)
            .where(RevisionRow.current, of_these)
            .group_by(RevisionRow.collection_key)
        ).all()
    )
    found = []
    for row in rows:
        generation = live_generation(session, row.key)
        found.append(
            CollectionInfo(
                name=row.name,
                documents=documents.get(row.key, 0),
                items=items.get(row.key, 0),
                text_embedder=generation.text_embedder if generation else None,
                picture_embedder=generation.picture_embedder if generation else None,
            )
        )
    return found


def bury(session: Session, collection_key: int) -> None:
    """It has no name any more: nobody finds it, and another may be called so at once."""
    session.execute(
        update(CollectionRow)
        .where(CollectionRow.key == collection_key)
        .values(name=f"~{uuid.uuid4().hex}", version=CollectionRow.version + 1)
    )


def buried() -> Select[int]:
    """Keys of collections that are being deleted."""
    return select(CollectionRow.key).where(CollectionRow.name.startswith("~"))


def touch(session: Session, collection_key: int) -> None:
    """Say that what a search can find has changed; every process sees it at its next query."""
    session.execute(
        update(CollectionRow)
        .where(CollectionRow.key == collection_key)
        .values(version=CollectionRow.version + 1)
    )


def version(session: Session, key: int) -> int:
    """As `Collection.version`, of a collection that is there."""
    return session.execute(
        select(CollectionRow.version).where(CollectionRow.key == key)
    ).scalar_one()


def live_generation(session: Session, collection_key: int) -> Generation | None:
    row = session.scalar(
        select(GenerationRow).where(
            GenerationRow.collection_key == collection_key, GenerationRow.state == "live"
        )
    )
    return from_row(row) if row else None


def create_generation(
    session: Session, collection_key: int, wanted: Generation, state: str = "live"
) -> Generation:
    """`wanted.key` is ignored."""
    now = time.time()
    row = GenerationRow(
        collection_key=collection_key,
        state=state,
        splitter=wanted.splitter,
        text_embedder=wanted.text_embedder,
        text_dimension=wanted.text_dimension,
        picture_embedder=wanted.picture_embedder,
        picture_dimension=wanted.picture_dimension,
        vector_engine=wanted.vector_engine,
        index_type=wanted.index_type,
        created_at=now,
        live_since=now if state == "live" else None,
    )
    session.add(row)
    session.flush()
    return from_row(row)


def from_row(row: GenerationRow) -> Generation:
    return Generation(
        row.key,
        row.splitter,
        row.text_embedder,
        row.text_dimension,
        row.picture_embedder,
        row.picture_dimension,
        row.vector_engine,
        row.index_type,
    )


def touch_generation(session: Session, generation_key: int) -> None:
    """As `touch`, for the collection of a generation."""
    generation = session.get_one(GenerationRow, generation_key)
    touch(session, generation.collection_key)
