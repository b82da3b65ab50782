"""The tables, on SQLite and PostgreSQL.

Numbers (`key`) join tables and name vectors; strings (`id`) are what users see. Keys are never
reused, because immutable segment files refer to items by key.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "0006"  # the newest migration; a test holds it equal to Alembic's head

_Json = JSON().with_variant(JSONB(), "postgresql")
_NullableJson = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_Key = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER counts up by itself there


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class InstallationRow(Base):
    """One row: which database this is. The folder with its files says the same."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)


class CollectionRow(Base):
    __tablename__ = "collections"
    __table_args__ = {"sqlite_autoincrement": True}

    key: Mapped[int] = mapped_column(_Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    # Grows with everything that changes what a search can find: how other processes notice.
    version: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[float] = mapped_column(Float)


class DocumentRow(Base):
    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("collection_key", "origin"),
        {"sqlite_autoincrement": True},
    )

    key: Mapped[int] = mapped_column(_Key, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    collection_key: Mapped[int] = mapped_column(ForeignKey("collections.key", ondelete="CASCADE"))
    # Where it came from: other bytes from the same origin are a new revision. A file's path, an
    # upload's name; `name` is what people are shown.
    origin: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float)


class RevisionRow(Base):
    __tablename__ = "revisions"
    __table_args__ = (
        UniqueConstraint("document_key", "number"),
        # Looking up bytes that are still growing too, which the next index leaves out.
        Index("ix_revisions_collection_key_sha256", "collection_key", "sha256"),
        # The identity: one current revision per content and collection.
        Index(
            "uq_revisions_content",
            "collection_key",
            "sha256",
            unique=True,
            sqlite_where=text("current"),
            postgresql_where=text("current"),
        ),
        {"sqlite_autoincrement": True},
    )

    key: Mapped[int] = mapped_column(_Key, primary_key=True)
    document_key: Mapped[int] = mapped_column(ForeignKey("documents.key", ondelete="CASCADE"))
    collection_key: Mapped[int] = mapped_column(ForeignKey("collections.key", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(Integer)
    sha256: Mapped[str] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(String(100))
    # "metadata" is taken by SQLAlchemy
    properties: Mapped[dict[str, Any]] = mapped_column("metadata", _Json)
    blob: Mapped[str | None] = mapped_column(String(64), index=True)
    current: Mapped[bool] = mapped_column(Boolean)
    complete: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[float] = mapped_column(Float)


class ItemRow(Base):
    __tablename__ = "items"
    __table_args__ = (
        UniqueConstraint("revision_key", "splitter", "ordinal"),
        {"sqlite_autoincrement": True},
    )

    key: Mapped[int] = mapped_column(_Key, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    revision_key: Mapped[int] = mapped_column(ForeignKey("revisions.key", ondelete="CASCADE"))
    splitter: Mapped[int] = mapped_column(Integer)
    ordinal: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(16))
    text: Mapped[str | None] = mapped_column(Text)
    heading: Mapped[str] = mapped_column(Text)
    location: Mapped[dict[str, Any]] = mapped_column(_Json)
    text_boxes: Mapped[list[Any] | None] = mapped_column(_Json)
    picture: Mapped[str | None] = mapped_column(String(64), index=True)
    # Which indexes hold a vector of it. A picture shared by several items is embedded once.
    in_text: Mapped[bool] = mapped_column(Boolean)
    in_picture: Mapped[bool] = mapped_column(Boolean)


class GenerationRow(Base):
    __tablename__ = "generations"
    __table_args__ = (
        Index(
            "uq_generations_live",
            "collection_key",
            unique=True,
            sqlite_where=text("state = 'live'"),
            postgresql_where=text("state = 'live'"),
        ),
        {"sqlite_autoincrement": True},
    )

    key: Mapped[int] = mapped_column(_Key, primary_key=True)
    collection_key: Mapped[int] = mapped_column(
        ForeignKey("collections.key", ondelete="CASCADE"), index=True
    )
    state: Mapped[str] = mapped_column(String(16))  # as rag_owl.store.generations says
    splitter: Mapped[int] = mapped_column(Integer)
    text_embedder: Mapped[str] = mapped_column(Text)
    text_dimension: Mapped[int] = mapped_column(Integer)
    picture_embedder: Mapped[str] = mapped_column(Text)
    picture_dimension: Mapped[int] = mapped_column(Integer)
    vector_engine: Mapped[str] = mapped_column(String(16))
    index_type: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Float)
    live_since: Mapped[float | None] = mapped_column(Float)
    # It has nearly all vectors: until then no batch of new documents is begun.
    closing_until: Mapped[float | None] = mapped_column(Float)
    comparison: Mapped[dict[str, Any] | None] = mapped_column(_NullableJson)


class SegmentRow(Base):
    __tablename__ = "segments"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # also its folder's name
    generation_key: Mapped[int] = mapped_column(
        ForeignKey("generations.key", ondelete="CASCADE"), index=True
    )
    channel: Mapped[str] = mapped_column(String(16))
    index_type: Mapped[str] = mapped_column(String(16))
    count: Mapped[int] = mapped_column(Integer)
    active: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[float] = mapped_column(Float)
    retired_at: Mapped[float | None] = mapped_column(Float)


class TombstoneRow(Base):
    """A vector that is still in a segment's file and must not be found any more."""

    __tablename__ = "tombstones"

    generation_key: Mapped[int] = mapped_column(
        ForeignKey("generations.key", ondelete="CASCADE"), primary_key=True
    )
    channel: Mapped[str] = mapped_column(String(16), primary_key=True)
    item_key: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # its row may be gone


class JobRow(Base):
    __tablename__ = "jobs"
    __table_args__ = (Index(None, "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    collection_key: Mapped[int | None] = mapped_column(  # None: of the whole installation
        ForeignKey("collections.key", ondelete="CASCADE"), index=True
    )
    state: Mapped[str] = mapped_column(String(16), index=True)
    parameters: Mapped[dict[str, Any]] = mapped_column(_Json)
    # Who works on it: a batch is committed only by the holder of the newest number.
    fence: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None] = mapped_column(Text)
    heartbeat_at: Mapped[float | None] = mapped_column(Float)
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    scanned: Mapped[bool] = mapped_column(Boolean, default=False)
    found: Mapped[int] = mapped_column(Integer, default=0)
    added: Mapped[int] = mapped_column(Integer, default=0)
    updated: Mapped[int] = mapped_column(Integer, default=0)
    unchanged: Mapped[int] = mapped_column(Integer, default=0)
    skipped: Mapped[int] = mapped_column(Integer, default=0)
    items: Mapped[int] = mapped_column(Integer, default=0)
    # What jobs that add no documents have done and could not do.
    done: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    failed: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float)
    finished_at: Mapped[float | None] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float)  # first claimed
    # How it stood when it was claimed last: the rate since then says when it will end.
    claimed_at: Mapped[float | None] = mapped_column(Float)
    claimed_handled: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    # How often in a row its process ended before anything more was done.
    interruptions: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    key_id: Mapped[str | None] = mapped_column(String(32))  # who began it


class JobInputRow(Base):
    """One file that a job is to read, and how far it has come."""

    __tablename__ = "job_inputs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)  # as rag_owl.paths writes it
    companion: Mapped[str | None] = mapped_column(Text)  # the text beside a picture
    companion_name: Mapped[str] = mapped_column(Text)
    done: Mapped[bool] = mapped_column(Boolean, default=False)
    next_row: Mapped[int] = mapped_column(Integer, default=0)
    # How often it was begun: a file that kills its reader again and again is given up.
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    origin: Mapped[str | None] = mapped_column(Text)  # of an upload; None: the path itself
    # SHA-256 of the document of it that was deleted when only a part of it was stored.
    deleted: Mapped[str | None] = mapped_column(String(64))


class SkippedRow(Base):
    __tablename__ = "skipped"
    __table_args__ = {"sqlite_autoincrement": True}

    key: Mapped[int] = mapped_column(_Key, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)


class AnswerRow(Base):
    __tablename__ = "answers"
    __table_args__ = (Index(None, "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    collection_key: Mapped[int] = mapped_column(
        ForeignKey("collections.key", ondelete="CASCADE"), index=True
    )
    generation_key: Mapped[int] = mapped_column(BigInteger)  # it may be dropped; the answer stays
    question: Mapped[str] = mapped_column(Text)
    request: Mapped[dict[str, Any]] = mapped_column(_Json)  # pictures, filters, k: to ask it again
    sources: Mapped[list[Any]] = mapped_column(_Json)  # item ids shown to the model, in order
    text: Mapped[str] = mapped_column(Text)
    short: Mapped[str | None] = mapped_column(Text)
    abstained: Mapped[bool] = mapped_column(Boolean)
    answerable: Mapped[float | None] = mapped_column(Float)
    model: Mapped[str] = mapped_column(Text)
    dangling_markers: Mapped[list[Any]] = mapped_column(_Json)
    left_out: Mapped[list[Any]] = mapped_column(_Json)
    created_at: Mapped[float] = mapped_column(Float)
    conversation_id: Mapped[str | None] = mapped_column(String(32), index=True)
    rating: Mapped[int | None] = mapped_column(Integer)  # -1, 0 or 1
    rating_comment: Mapped[str | None] = mapped_column(Text)
    key_id: Mapped[str | None] = mapped_column(String(32))  # who asked


class CitationRow(Base):
    """A copy of the evidence as it was shown: it does not change when the document does."""

    __tablename__ = "citations"

    answer_id: Mapped[str] = mapped_column(
        ForeignKey("answers.id", ondelete="CASCADE"), primary_key=True
    )
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    item_id: Mapped[str] = mapped_column(String(64), index=True)
    document_id: Mapped[str] = mapped_column(String(32), index=True)
    citation: Mapped[dict[str, Any]] = mapped_column(_Json)


class CondemnedRow(Base):
    """A blob that something deleted referred to: collected where nothing else does.

    Its row stays for a while after that: who put the same bytes just before sees that they are
    gone again. `rag_owl.store.condemned` says how the two meet.
    """

    __tablename__ = "condemned"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    since: Mapped[float] = mapped_column(Float)
    gone_at: Mapped[float | None] = mapped_column(Float, index=True)


class KeyRow(Base):
    """A key of the HTTP service. The key itself is shown once and never stored."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(String(64), unique=True)  # sha256 of the key
    scopes: Mapped[list[Any]] = mapped_column(_Json)  # of ask, ingest, admin
    collections: Mapped[list[Any] | None] = mapped_column(_NullableJson)  # None: all
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float | None] = mapped_column(Float)
    revoked_at: Mapped[float | None] = mapped_column(Float)
    last_used_at: Mapped[float | None] = mapped_column(Float)
