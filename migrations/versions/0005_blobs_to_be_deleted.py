"""Which blobs a deletion is to collect, and which it has collected"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "condemned",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("gone_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_condemned")),
    )
    op.create_index("ix_condemned_gone_at", "condemned", ["gone_at"], unique=False)
    op.create_index("ix_revisions_blob", "revisions", ["blob"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_revisions_blob", table_name="revisions")
    op.drop_index("ix_condemned_gone_at", table_name="condemned")
    op.drop_table("condemned")
