"""Generations beside each other: one is live, and what they were found to differ in"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("generations", sa.Column("live_since", sa.Float(), nullable=True))
    op.add_column("generations", sa.Column("closing_until", sa.Float(), nullable=True))
    op.add_column(
        "generations",
        sa.Column(
            "comparison", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True
        ),
    )
    op.execute("UPDATE generations SET live_since = created_at WHERE state = 'live'")
    op.create_index(
        "uq_generations_live",
        "generations",
        ["collection_key"],
        unique=True,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )


def downgrade() -> None:
    op.drop_index("uq_generations_live", table_name="generations")
    for name in ("comparison", "closing_until", "live_since"):
        op.drop_column("generations", name)
