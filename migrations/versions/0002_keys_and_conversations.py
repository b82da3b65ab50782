"""Keys, who asked and began what, conversations, ratings, and where uploads come from"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("collections", JSON, nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.Column("last_used_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_keys_hash")),
    )
    # One statement each: SQLite adds a column in place, without copying the table.
    op.add_column("answers", sa.Column("conversation_id", sa.String(length=32), nullable=True))
    op.add_column("answers", sa.Column("rating", sa.Integer(), nullable=True))
    op.add_column("answers", sa.Column("rating_comment", sa.Text(), nullable=True))
    op.add_column("answers", sa.Column("key_id", sa.String(length=32), nullable=True))
    op.create_index("ix_answers_conversation_id", "answers", ["conversation_id"], unique=False)
    op.create_index("ix_answers_created_at_id", "answers", ["created_at", "id"], unique=False)

    op.add_column("jobs", sa.Column("key_id", sa.String(length=32), nullable=True))
    op.create_index("ix_jobs_created_at_id", "jobs", ["created_at", "id"], unique=False)

    op.add_column(
        "job_inputs", sa.Column("attempts", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("job_inputs", sa.Column("origin", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("job_inputs", "origin")
    op.drop_column("job_inputs", "attempts")
    op.drop_index("ix_jobs_created_at_id", table_name="jobs")
    op.drop_column("jobs", "key_id")
    op.drop_index("ix_answers_created_at_id", table_name="answers")
    op.drop_index("ix_answers_conversation_id", table_name="answers")
    op.drop_column("answers", "key_id")
    op.drop_column("answers", "rating_comment")
    op.drop_column("answers", "rating")
    op.drop_column("answers", "conversation_id")
    op.drop_table("keys")
