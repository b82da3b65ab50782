"""The first schema"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

# The words channel. Its terms are made by rag_owl.terms, not by the database: both index the same.
LEXICAL = {
    "sqlite": [
        "CREATE VIRTUAL TABLE item_words USING fts5("
        "words, tokenize = 'unicode61 remove_diacritics 0 categories ''L* N* M*''')",
        "CREATE VIRTUAL TABLE item_words_terms USING fts5vocab(item_words, 'row')",
    ],
    "postgresql": [
        "CREATE TABLE item_words ("
        "item_key BIGINT PRIMARY KEY REFERENCES items (key) ON DELETE CASCADE, "
        "words TSVECTOR NOT NULL)",
        "CREATE INDEX ix_item_words_words ON item_words USING gin (words)",
    ],
}


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "collections",
        sa.Column("key", KEY, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_collections")),
        sa.UniqueConstraint("name", name=op.f("uq_collections_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "answers",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("collection_key", KEY, nullable=False),
        sa.Column("generation_key", sa.BigInteger(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("sources", JSON, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("short", sa.Text(), nullable=True),
        sa.Column("abstained", sa.Boolean(), nullable=False),
        sa.Column("answerable", sa.Float(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("dangling_markers", JSON, nullable=False),
        sa.Column("left_out", JSON, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_key"],
            ["collections.key"],
            name=op.f("fk_answers_collection_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answers")),
    )
    op.create_index("ix_answers_collection_key", "answers", ["collection_key"], unique=False)

    op.create_table(
        "documents",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("collection_key", KEY, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_key"],
            ["collections.key"],
            name=op.f("fk_documents_collection_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_documents")),
        sa.UniqueConstraint(
            "collection_key", "origin", name=op.f("uq_documents_collection_key_origin")
        ),
        sa.UniqueConstraint("id", name=op.f("uq_documents_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "generations",
        sa.Column("key", KEY, nullable=False),
        sa.Column("collection_key", KEY, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("splitter", sa.Integer(), nullable=False),
        sa.Column("text_embedder", sa.Text(), nullable=False),
        sa.Column("text_dimension", sa.Integer(), nullable=False),
        sa.Column("picture_embedder", sa.Text(), nullable=False),
        sa.Column("picture_dimension", sa.Integer(), nullable=False),
        sa.Column("vector_engine", sa.String(length=16), nullable=False),
        sa.Column("index_type", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_key"],
            ["collections.key"],
            name=op.f("fk_generations_collection_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_generations")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_generations_collection_key", "generations", ["collection_key"], unique=False
    )

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("collection_key", KEY, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("heartbeat_at", sa.Float(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("scanned", sa.Boolean(), nullable=False),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.Column("added", sa.Integer(), nullable=False),
        sa.Column("updated", sa.Integer(), nullable=False),
        sa.Column("unchanged", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_key"],
            ["collections.key"],
            name=op.f("fk_jobs_collection_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_collection_key", "jobs", ["collection_key"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state"], unique=False)

    op.create_table(
        "citations",
        sa.Column("answer_id", sa.String(length=32), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.String(length=64), nullable=False),
        sa.Column("document_id", sa.String(length=32), nullable=False),
        sa.Column("citation", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["answer_id"], ["answers.id"], name=op.f("fk_citations_answer_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("answer_id", "ordinal", name=op.f("pk_citations")),
    )
    op.create_index("ix_citations_document_id", "citations", ["document_id"], unique=False)
    op.create_index("ix_citations_item_id", "citations", ["item_id"], unique=False)

    op.create_table(
        "job_inputs",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("companion", sa.Text(), nullable=True),
        sa.Column("companion_name", sa.Text(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("next_row", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_inputs_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_job_inputs")),
    )
    op.create_table(
        "revisions",
        sa.Column("key", KEY, nullable=False),
        sa.Column("document_key", KEY, nullable=False),
        sa.Column("collection_key", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("media_type", sa.String(length=100), nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("blob", sa.String(length=64), nullable=True),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_key"],
            ["collections.key"],
            name=op.f("fk_revisions_collection_key"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["document_key"],
            ["documents.key"],
            name=op.f("fk_revisions_document_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_revisions")),
        sa.UniqueConstraint(
            "document_key", "number", name=op.f("uq_revisions_document_key_number")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_revisions_collection_key_sha256",
        "revisions",
        ["collection_key", "sha256"],
        unique=False,
    )
    op.create_index(
        "uq_revisions_content",
        "revisions",
        ["collection_key", "sha256"],
        unique=True,
        sqlite_where=sa.text("current"),
        postgresql_where=sa.text("current"),
    )

    op.create_table(
        "segments",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("generation_key", KEY, nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("index_type", sa.String(length=16), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("retired_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["generation_key"],
            ["generations.key"],
            name=op.f("fk_segments_generation_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segments")),
    )
    op.create_index("ix_segments_generation_key", "segments", ["generation_key"], unique=False)

    op.create_table(
        "skipped",
        sa.Column("key", KEY, nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_skipped_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_skipped")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_skipped_job_id", "skipped", ["job_id"], unique=False)

    op.create_table(
        "tombstones",
        sa.Column("generation_key", KEY, nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("item_key", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_key"],
            ["generations.key"],
            name=op.f("fk_tombstones_generation_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "generation_key", "channel", "item_key", name=op.f("pk_tombstones")
        ),
    )
    op.create_table(
        "items",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("revision_key", KEY, nullable=False),
        sa.Column("splitter", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("heading", sa.Text(), nullable=False),
        sa.Column("location", JSON, nullable=False),
        sa.Column("text_boxes", JSON, nullable=True),
        sa.Column("picture", sa.String(length=64), nullable=True),
        sa.Column("in_text", sa.Boolean(), nullable=False),
        sa.Column("in_picture", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_key"],
            ["revisions.key"],
            name=op.f("fk_items_revision_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_items")),
        sa.UniqueConstraint("id", name=op.f("uq_items_id")),
        sa.UniqueConstraint(
            "revision_key",
            "splitter",
            "ordinal",
            name=op.f("uq_items_revision_key_splitter_ordinal"),
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_items_picture", "items", ["picture"], unique=False)

    for statement in LEXICAL[op.get_context().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TABLE item_words_terms")
    op.execute("DROP TABLE item_words")
    op.drop_index("ix_items_picture", table_name="items")

    op.drop_table("items")
    op.drop_table("tombstones")
    op.drop_index("ix_skipped_job_id", table_name="skipped")

    op.drop_table("skipped")
    op.drop_index("ix_segments_generation_key", table_name="segments")

    op.drop_table("segments")
    op.drop_index("ix_revisions_collection_key_sha256", table_name="revisions")
    op.drop_index(
        "uq_revisions_content",
        table_name="revisions",
        sqlite_where=sa.text("current"),
        postgresql_where=sa.text("current"),
    )

    op.drop_table("revisions")
    op.drop_table("job_inputs")
    op.drop_index("ix_citations_item_id", table_name="citations")
    op.drop_index("ix_citations_document_id", table_name="citations")

    op.drop_table("citations")
    op.drop_index("ix_jobs_state", table_name="jobs")
    op.drop_index("ix_jobs_collection_key", table_name="jobs")

    op.drop_table("jobs")
    op.drop_index("ix_generations_collection_key", table_name="generations")

    op.drop_table("generations")
    op.drop_table("documents")
    op.drop_index("ix_answers_collection_key", table_name="answers")

    op.drop_table("answers")
    op.drop_table("collections")
    op.drop_table("installation")
