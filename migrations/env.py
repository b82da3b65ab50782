"""Run by Alembic with a connection that `rag_owl.schema` hands over."""

from alembic import context

from rag_owl.rows import Base

# What the words channel creates beside the mapped tables; see versions/0001.
_LEXICAL = ("item_words",)


def _is_ours(_object: object, name: str | None, *_: object) -> bool:
    return not (name or "").startswith(_LEXICAL)


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    include_object=_is_ours,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
