"""Jobs of every kind: without a collection, with counters of their own, and a rate"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NUMBERS = ("done", "failed", "claimed_handled", "interruptions")
_CHILDREN = ("job_inputs", "skipped")


def upgrade() -> None:
    for name in _NUMBERS:
        column = sa.Column(name, sa.Integer(), server_default="0", nullable=False)
        op.add_column("jobs", column)
    for name in ("started_at", "claimed_at"):
        op.add_column("jobs", sa.Column(name, sa.Float(), nullable=True))
    _allow_no_collection(True)


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE collection_key IS NULL")
    _allow_no_collection(False)
    for name in ("claimed_at", "started_at", *reversed(_NUMBERS)):
        op.drop_column("jobs", name)


def _allow_no_collection(nullable: bool) -> None:
    key = sa.BigInteger()
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column("jobs", "collection_key", existing_type=key, nullable=nullable)
        return
    # SQLite can only write the table anew; dropping the old one takes along what refers to it.
    for child in _CHILDREN:
        op.execute(f"CREATE TEMPORARY TABLE kept_{child} AS SELECT * FROM {child}")
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("collection_key", existing_type=key, nullable=nullable)
    for child in _CHILDREN:
        op.execute(f"DELETE FROM {child}")
        op.execute(f"INSERT INTO {child} SELECT * FROM kept_{child}")
        op.execute(f"DROP TABLE kept_{child}")
