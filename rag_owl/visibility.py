"""Which collections somebody may see, kept by the database session itself.

A route or a method cannot forget the check: on a limited engine, whatever a query of the store
selects, counts, changes or deletes, rows of other collections are not there. What is forbidden is
therefore exactly like what does not exist, down to the wording of the error.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Engine, event, select
from sqlalchemy.orm import LoaderCriteriaOption, ORMExecuteState, Session, with_loader_criteria

from rag_owl.rows import (
    AnswerRow,
    Base,
    CitationRow,
    CollectionRow,
    DocumentRow,
    GenerationRow,
    ItemRow,
    JobInputRow,
    JobRow,
    RevisionRow,
    SkippedRow,
)

_OF_A_COLLECTION = (DocumentRow, RevisionRow, GenerationRow, JobRow, AnswerRow)


def limited(engine: Engine, collections: Iterable[str] | None) -> Engine:
    """The same database and connections, where only these collections exist; None: all of them."""
    if collections is None:
        return engine
    return engine.execution_options(visible_collections=tuple(sorted(set(collections))))


def visible(session: Session) -> tuple[str, ...] | None:
    """The only collections that this session's user may see, make or change; None: all."""
    bind = session.get_bind()
    found: tuple[str, ...] | None = bind.get_execution_options().get("visible_collections")
    return found


class LimitedSession(Session):
    """What `db.reading` and `db.writing` give for a limited engine."""


@event.listens_for(LimitedSession, "do_orm_execute")
def _limit(state: ORMExecuteState) -> None:
    names = visible(state.session)
    if names is None or not (state.is_select or state.is_update or state.is_delete):
        return
    # Plain tables within the conditions: they are not limited once more.
    collections, jobs = CollectionRow.__table__.c, JobRow.__table__.c
    answers, revisions = AnswerRow.__table__.c, RevisionRow.__table__.c
    mine = select(collections.key).where(collections.name.in_(names))
    my_jobs = select(jobs.id).where(jobs.collection_key.in_(mine))
    my_answers = select(answers.id).where(answers.collection_key.in_(mine))
    my_revisions = select(revisions.key).where(revisions.collection_key.in_(mine))
    state.statement = state.statement.options(
        _only(CollectionRow, CollectionRow.name.in_(names)),
        *(_only(table, table.collection_key.in_(mine)) for table in _OF_A_COLLECTION),
        _only(ItemRow, ItemRow.revision_key.in_(my_revisions)),
        _only(JobInputRow, JobInputRow.job_id.in_(my_jobs)),
        _only(SkippedRow, SkippedRow.job_id.in_(my_jobs)),
        _only(CitationRow, CitationRow.answer_id.in_(my_answers)),
    )


def _only(table: type[Base], condition: ColumnElement[bool]) -> LoaderCriteriaOption:
    return with_loader_criteria(table, condition, include_aliases=True)
