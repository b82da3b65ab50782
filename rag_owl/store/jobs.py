"""The rows that are the truth about jobs: state, counters, checkpoint, fence."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, true, update
from sqlalchemy.orm import Session

from rag_owl.db import CollectionRow, JobInputRow, JobRow, SkippedRow
from rag_owl.errors import Conflict, NotFound
from rag_owl.store import names
from rag_owl.types import Job, Skipped

STATES = ("queued", "running", "done", "failed", "cancelled")
UPLOAD_KEPT = 24 * 3_600.0  # seconds after its job failed or was cancelled, to be tried again
SKIPPED_SHOWN = 1_000  # of a job's skipped files in one `Job`; `skipped_page` has them all
SKIPPED_LISTED = 10  # of each job's, where many jobs are listed


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job, until somebody claims it with a higher fence."""

    job_id: str
    fence: int
    kind: str
    collection: str
    collection_key: int
    parameters: Mapping[str, Any]
    scanned: bool
    interrupted: bool = False  # who had it before did not let go of it: killed, or no power


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


def create(
    session: Session,
    collection_key: int,
    kind: str,
    parameters: Mapping[str, Any],
    key_id: str | None = None,
) -> tuple[str, bool]:
    """(job id, whether it is new): asked again while the same job is unfinished, one joins it.

    key_id: of the key that begins it over HTTP.
    """
    # One at a time for each collection, so that two who ask at once share one job.
    session.execute(
        select(CollectionRow.key).where(CollectionRow.key == collection_key).with_for_update()
    )
    for row in session.scalars(
        select(JobRow).where(
            JobRow.collection_key == collection_key,
            JobRow.kind == kind,
            JobRow.state.in_(("queued", "running")),
        )
    ):
        if row.parameters == dict(parameters) and not row.cancel_requested:
            return row.id, False
    row = JobRow(
        id=uuid.uuid4().hex,
        kind=kind,
        collection_key=collection_key,
        state="queued",
        parameters=dict(parameters),
        created_at=time.time(),
        key_id=key_id,
    )
    session.add(row)
    session.flush()
    return row.id, True


def has_unfinished(session: Session) -> bool:
    return (
        session.scalar(select(JobRow.id).where(JobRow.state.in_(("queued", "running"))).limit(1))
        is not None
    )


def claim_next(session: Session, worker: str) -> Claim | None:
    """Take the oldest unfinished job. The caller holds the lock that makes it the only worker."""
    row = session.scalar(
        select(JobRow)
        .where(JobRow.state.in_(("queued", "running")))
        .order_by(JobRow.created_at, JobRow.id)
        .limit(1)
    )
    if row is None:
        return None
    interrupted = row.state == "running"
    row.state, row.worker, row.heartbeat_at = "running", worker, time.time()
    row.fence += 1
    collection = session.get_one(CollectionRow, row.collection_key)
    return Claim(
        row.id,
        row.fence,
        row.kind,
        collection.name,
        row.collection_key,
        row.parameters,
        row.scanned,
        interrupted,
    )


def release(session: Session, claim: Claim) -> None:
    """Let go of a job that is not finished; whoever claims it next goes on with it."""
    _update(session, claim, state="queued")


def advance(session: Session, claim: Claim, **counters: int) -> bool:
    """Add to the counters and beat the heart; returns whether the job was asked to stop.

    Raises `Conflict` when somebody else has claimed the job since: nothing may be committed then.
    """
    changes: dict[str, Any] = {
        name: getattr(JobRow, name) + number for name, number in counters.items() if number
    }
    _update(session, claim, heartbeat_at=time.time(), **changes)
    return bool(session.scalar(select(JobRow.cancel_requested).where(JobRow.id == claim.job_id)))


def _update(session: Session, claim: Claim, **values: Any) -> None:
    found = session.execute(
        update(JobRow)
        .where(JobRow.id == claim.job_id, JobRow.fence == claim.fence, JobRow.state == "running")
        .values(**values)
    )
    if found.rowcount != 1:  # type: ignore[attr-defined]
        raise Conflict(f"job {claim.job_id} was taken over by another worker")


def finish(session: Session, claim: Claim, state: str, error: str | None = None) -> None:
    _update(session, claim, state=state, error=error, finished_at=time.time())


def mark_scanned(session: Session, claim: Claim) -> None:
    _update(session, claim, scanned=True)


def request_cancel(session: Session, job_id: str) -> None:
    get(session, job_id)
    session.execute(update(JobRow).where(JobRow.id == job_id).values(cancel_requested=True))


def restart_scan(session: Session, claim: Claim) -> None:
    """A scan that was interrupted begins again: nothing of it has been worked on yet."""
    session.execute(delete(JobInputRow).where(JobInputRow.job_id == claim.job_id))
    session.execute(delete(SkippedRow).where(SkippedRow.job_id == claim.job_id))
    _update(session, claim, found=0, skipped=0)


def add_inputs(session: Session, claim: Claim, inputs: Sequence[JobInput]) -> None:
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


def waiting_inputs(session: Session, claim: Claim, limit: int = 1_000) -> list[JobInput]:
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
        )
        for r in rows
    ]


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


def input_done(session: Session, claim: Claim, positions: Sequence[int]) -> None:
    if positions:
        session.execute(
            update(JobInputRow)
            .where(JobInputRow.job_id == claim.job_id, JobInputRow.position.in_(positions))
            .values(done=True)
        )


def input_at_row(session: Session, claim: Claim, position: int, next_row: int) -> None:
    """Rows before `next_row` of this file are stored, or that many of its documents (negative)."""
    session.execute(
        update(JobInputRow)
        .where(JobInputRow.job_id == claim.job_id, JobInputRow.position == position)
        .values(next_row=next_row)
    )


def add_skipped(session: Session, claim: Claim, skipped: Sequence[Skipped]) -> None:
    if skipped:
        session.execute(
            insert(SkippedRow),
            [{"job_id": claim.job_id, "name": s.name, "reason": s.reason} for s in skipped],
        )


def get(session: Session, job_id: str) -> Job:
    names.check("job", job_id)
    found = list(_jobs(session, JobRow.id == job_id))
    if not found:
        raise NotFound(f"no job {job_id!r}")
    return found[0]


def recent(session: Session, limit: int = 50) -> list[Job]:
    """Newest first."""
    return list(_jobs(session, JobRow.id.is_not(None), limit))


def list_page(
    session: Session,
    collection: str | None = None,
    states: Sequence[str] = (),
    before: tuple[float, str] | None = None,
    limit: int = 50,
) -> list[Job]:
    """Newest first, with few of the skipped; `before`: (created_at, id) that the last page ended
    with; `states`: these alone; none: all."""
    conditions: list[ColumnElement[bool]] = [true()]
    if collection is not None:
        conditions.append(CollectionRow.name == collection)
    if states:
        conditions.append(JobRow.state.in_(states))
    if before is not None:
        at, job_id = before
        earlier = and_(JobRow.created_at == at, JobRow.id < job_id)
        conditions.append(or_(JobRow.created_at < at, earlier))
    return list(_jobs(session, and_(*conditions), limit, shown=SKIPPED_LISTED))


def count_by_state(session: Session) -> dict[str, int]:
    rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
    return dict.fromkeys(STATES, 0) | {row.state: row[1] for row in rows}


def unfinished_documents(session: Session) -> tuple[int, int]:
    """(found, handled) of the jobs that are not finished."""
    handled = JobRow.added + JobRow.updated + JobRow.unchanged + JobRow.skipped
    found, done = session.execute(
        select(func.sum(JobRow.found), func.sum(handled)).where(
            JobRow.state.in_(("queued", "running"))
        )
    ).one()
    return int(found or 0), int(done or 0)


def uploads_in_use(session: Session) -> set[str]:
    """Of uploads that a job reads, or would read if it was tried again."""
    oldest = time.time() - UPLOAD_KEPT - 3_600.0  # nobody who may still try again comes too late
    again = and_(JobRow.state != "done", JobRow.finished_at >= oldest)
    parameters = session.scalars(
        select(JobRow.parameters).where(
            JobRow.kind == "ingest", or_(JobRow.state.in_(("queued", "running")), again)
        )
    )
    return {str(each["upload"]) for each in parameters if "upload" in each}


def several(session: Session, ids: Sequence[str]) -> dict[str, Job]:
    """Those of the jobs that exist, with few of the skipped."""
    found = _jobs(session, JobRow.id.in_(ids), len(ids), shown=SKIPPED_LISTED)
    return {job.id: job for job in found}


def skipped_page(
    session: Session, job_id: str, after: int = 0, limit: int = 100
) -> list[tuple[int, Skipped]]:
    """(key, what was skipped), in order; `after`: the key that the page before ended with.

    Raises `NotFound` for an unknown job.
    """
    names.check("job", job_id)
    if session.scalar(select(JobRow.id).where(JobRow.id == job_id)) is None:
        raise NotFound(f"no job {job_id!r}")
    rows = session.execute(
        select(SkippedRow.key, SkippedRow.name, SkippedRow.reason)
        .where(SkippedRow.job_id == job_id, SkippedRow.key > after)
        .order_by(SkippedRow.key)
        .limit(limit)
    )
    return [(key, Skipped(name, reason)) for key, name, reason in rows]


def retry(session: Session, job_id: str) -> str:
    """The id of the job that does it again: itself where it goes on from where it stopped.

    A job that was done begins anew as another, over the same paths; an upload is not kept for that.
    Raises `NotFound`, `Conflict`.
    """
    names.check("job", job_id)
    row = session.scalar(select(JobRow).where(JobRow.id == job_id).with_for_update())
    if row is None:
        raise NotFound(f"no job {job_id!r}")
    if row.state in ("queued", "running"):
        raise Conflict(f"job {job_id} is not finished; wait for it or cancel it")
    if row.state == "done":
        if "upload" in row.parameters:
            raise Conflict(f"job {job_id} is done; upload again what it skipped")
        return create(session, row.collection_key, row.kind, row.parameters, row.key_id)[0]
    if "upload" in row.parameters and (row.finished_at or 0) < time.time() - UPLOAD_KEPT:
        raise Conflict(f"job {job_id} ended long ago, its files are not kept; upload them again")
    row.state, row.error, row.finished_at = "queued", None, None
    row.cancel_requested = False
    session.execute(
        update(JobInputRow)
        .where(JobInputRow.job_id == job_id, ~JobInputRow.done)
        .values(attempts=0)
    )
    session.flush()
    return row.id


def _jobs(
    session: Session, condition: ColumnElement[bool], limit: int = 1, shown: int = SKIPPED_SHOWN
) -> Iterator[Job]:
    rows = session.execute(
        select(JobRow, CollectionRow.name)
        .join(CollectionRow, CollectionRow.key == JobRow.collection_key)
        .where(condition)
        .order_by(JobRow.created_at.desc(), JobRow.id.desc())
        .limit(limit)
    ).all()
    for row, collection in rows:
        skipped = session.execute(
            select(SkippedRow.name, SkippedRow.reason)
            .where(SkippedRow.job_id == row.id)
            .order_by(SkippedRow.key)
            .limit(shown)
        ) if row.skipped else ()  # fmt: skip
        yield Job(
            id=row.id,
            kind=row.kind,
            collection=collection,
            state=row.state,  # type: ignore[arg-type]
            found=row.found,
            added=row.added,
            updated=row.updated,
            unchanged=row.unchanged,
            skipped=[Skipped(name, reason) for name, reason in skipped],
            skipped_count=row.skipped,
            items=row.items,
            error=row.error,
            created_at=row.created_at,
            finished_at=row.finished_at,
        )
