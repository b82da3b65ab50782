"""Which half-read document of a job's file was deleted, so that it stays deleted"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job_inputs", sa.Column("deleted", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("job_inputs", "deleted")
