"""The files that a job is to read, and how far it has come with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session

from rag_owl.rows import JobInputRow, JobRow
from rag_owl.store.claims import Claim


@dataclass(frozen=True, slots=True)
class JobInput:
    position: int
    name: str
    path: str
    companion: str | None
    companion_name: str = ""
    next_row: int = 0  # below 0: of a file without rows, how many documents are stored
    attempts: int = 0  # interruptions since anything of it was stored
    origin: str | None = None  # of what was uploaded; None: its path
    deleted: str | None = None  # SHA-256 of what was deleted while a part of it was stored


def add(session: Session, claim: Claim, inputs: Sequence[JobInput]) -> None:
    if inputs:
        session.execute(
            insert(JobInputRow),
            [
                {
                    "job_id": claim.job_id,
                    "position": i.position,
                    "name": i.name,
                    "path": i.path,
                    "companion": i.companion,
                    "companion_name": i.companion_name,
                    "origin": i.origin,
                    "done": False,
                    "next_row": 0,
                }
                for i in inputs
            ],
        )


def waiting(session: Session, claim: Claim, limit: int = 1_000) -> list[JobInput]:
    rows = session.scalars(
        select(JobInputRow)
        .where(JobInputRow.job_id == claim.job_id, ~JobInputRow.done)
        .order_by(JobInputRow.position)
        .limit(limit)
    )
    return [
        JobInput(
            r.position,
            r.name,
            r.path,
            r.companion,
            r.companion_name,
            r.next_row,
            r.attempts,
            r.origin,
            r.deleted,
        )
        for r in rows
    ]


def holds(origin: str) -> ColumnElement[bool]:
    """Whether an input is the file that a document's origin is of: wholly, of a row of it (`#`), of
    a file in it (an archive's, `/`), or of the text beside it."""
    file = func.coalesce(JobInputRow.origin, JobInputRow.path)
    inside = func.substr(literal(origin), 1, func.length(file) + 1)
    beside = func.replace(JobInputRow.origin, JobInputRow.name, JobInputRow.companion_name)
    return or_(
        file == origin,
        inside == file + "#",
        inside == file + "/",
        and_(JobInputRow.companion_name != "", beside == origin),
    )


def say_deleted(session: Session, collection_key: int, origin: str, sha256: str) -> None:
    """A half-read document of this origin is deleted: whoever reads on leaves these bytes out."""
    session.execute(
        update(JobInputRow)
        .where(
            ~JobInputRow.done,
            JobInputRow.job_id.in_(
                select(JobRow.id).where(JobRow.collection_key == collection_key)
            ),
            holds(origin),
        )
        .values(deleted=sha256)
    )


def suspect(session: Session, claim: Claim) -> bool:
    """After an interruption: whether it was not the first at this place.

    Then something that is read here may be what ends the process.
    """
    row = session.scalar(
        select(JobInputRow)
        .where(JobInputRow.job_id == claim.job_id, ~JobInputRow.done)
        .order_by(JobInputRow.position)
        .limit(1)
    )
    if row is None or row.attempts:
        return row is not None
    row.attempts = 1
    return False


def begin_attempt(session: Session, claim: Claim, position: int) -> None:
    """Said before an input is read that may end the process."""
    session.execute(
        update(JobInputRow)
        .where(JobInputRow.job_id == claim.job_id, JobInputRow.position == position)
        .values(attempts=JobInputRow.attempts + 1)
    )


def progressed(session: Session, claim: Claim, position: int) -> None:
    """Something of an input was stored: what interruptions there were are not its doing."""
    session.execute(
        update(JobInputRow)
        .where(
            JobInputRow.job_id == claim.job_id,
            JobInputRow.position == position,
            JobInputRow.attempts != 0,
        )
        .values(attempts=0)
    )


def done(session: Session, claim: Claim, positions: Sequence[int]) -> None:
    if positions:
        session.execute(
            update(JobInputRow)
            .where(JobInputRow.job_id == claim.job_id, JobInputRow.position.in_(positions))
            .values(done=True, deleted=None)
        )


def at_row(session: Session, claim: Claim, position: int, next_row: int) -> None:
    """Rows before `next_row` of this file are stored, or that many of its documents (negative)."""
    session.execute(
        update(JobInputRow)
        .where(JobInputRow.job_id == claim.job_id, JobInputRow.position == position)
        .values(next_row=next_row)
    )
