"""Which document a job has stored a part of, so that what is deleted meanwhile stays deleted"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job_inputs", sa.Column("begun", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("job_inputs", "begun")
