"""Collections and the generations that search them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from rag_owl.db import CollectionRow, GenerationRow, ItemRow, RevisionRow
from rag_owl.errors import InvalidInput, NotFound
from rag_owl.store import names

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


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


def get(session: Session, name: str) -> Collection:
    """Raises `NotFound` that names the collections that exist."""
    names.check("collection", name)
    # Columns, not the entity: every query of every user begins with this one.
    row = session.execute(
        select(CollectionRow.key, CollectionRow.version).where(CollectionRow.name == name)
    ).one_or_none()
    if row is None:
        known = session.scalars(select(CollectionRow.name).order_by(CollectionRow.name)).all()
        there = f"there are: {', '.join(known)}" if known else "there are none yet"
        raise NotFound(f"no collection {name!r}; {there}. `rag-owl ingest {name} PATH` makes one.")
    return Collection(row.key, name, row.version)


def get_or_create(session: Session, name: str) -> Collection:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name a collection: use 1 to 63 of a-z, 0-9, '-' and '_', "
            "beginning with a letter or digit."
        )
    # Two processes may make it at once; neither may fail for that.
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(
        dialect.insert(CollectionRow)
        .values(name=name, version=0, created_at=time.time())
        .on_conflict_do_nothing()
    )
    return get(session, name)


def list_all(session: Session) -> list[CollectionInfo]:
    documents = dict(
        session.execute(
            select(RevisionRow.collection_key, func.count())
            .where(RevisionRow.current)
            .group_by(RevisionRow.collection_key)
        ).all()
    )
    items = dict(
        session.execute(
            select(RevisionRow.collection_key, func.count())
            .join(ItemRow, ItemRow.revision_key == RevisionRow.key)
            .where(RevisionRow.current)
            .group_by(RevisionRow.collection_key)
        ).all()
    )
    found = []
    for row in session.scalars(select(CollectionRow).order_by(CollectionRow.name)):
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


def touch(session: Session, collection_key: int) -> None:
    """Say that what a search can find has changed; every process sees it at its next query."""
    session.execute(
        update(CollectionRow)
        .where(CollectionRow.key == collection_key)
        .values(version=CollectionRow.version + 1)
    )


def live_generation(session: Session, collection_key: int) -> Generation | None:
    row = session.scalar(
        select(GenerationRow).where(
            GenerationRow.collection_key == collection_key, GenerationRow.state == "live"
        )
    )
    return _generation(row) if row else None


def create_generation(session: Session, collection_key: int, wanted: Generation) -> Generation:
    """A first, live generation; `wanted.key` is ignored."""
    row = GenerationRow(
        collection_key=collection_key,
        state="live",
        splitter=wanted.splitter,
        text_embedder=wanted.text_embedder,
        text_dimension=wanted.text_dimension,
        picture_embedder=wanted.picture_embedder,
        picture_dimension=wanted.picture_dimension,
        vector_engine=wanted.vector_engine,
        index_type=wanted.index_type,
        created_at=time.time(),
    )
    session.add(row)
    session.flush()
    return _generation(row)


def _generation(row: GenerationRow) -> Generation:
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
