"""The rows that are the truth about jobs: state, counters, checkpoint. Workers use `claims`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    case,
    delete,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session

from rag_owl.errors import Conflict, NotFound
from rag_owl.rows import CollectionRow, InstallationRow, JobInputRow, JobRow, SkippedRow
from rag_owl.store import names
from rag_owl.types import Job, Skipped

STATES = ("queued", "running", "done", "failed", "cancelled")
UNFINISHED = ("queued", "running")
UPLOAD_KEPT = 24 * 3_600.0  # seconds after its job failed or was cancelled, to be tried again
MOST_ATTEMPTS = 3  # to read what may be the end of the process each time
DELETED = "was deleted while it was being ingested; ingest it again if that was not meant"
DEADLY = (
    f"each of the {MOST_ATTEMPTS} times it was read the process ended: "
    "remove it, or ingest it alone to see why"
)
SKIPPED_SHOWN = 1_000  # of a job's skipped files in one `Job`; `skipped_page` has them all
SKIPPED_LISTED = 10  # of each job's, where many jobs are listed


def create(
    session: Session,
    collection_key: int | None,
    kind: str,
    parameters: Mapping[str, Any],
    key_id: str | None = None,
) -> tuple[str, bool]:
    """(job id, whether it is new): asked again while the same job is unfinished, one joins it.

    collection_key: None for what concerns the whole installation. key_id: of the key that begins
    it over HTTP.
    """
    _one_at_a_time(session, collection_key)
    for row in session.scalars(
        select(JobRow).where(
            JobRow.collection_key == collection_key,
            JobRow.kind == kind,
            JobRow.state.in_(UNFINISHED),
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


def create_since(
    session: Session,
    collection_key: int | None,
    kind: str,
    parameters: Mapping[str, Any],
    since: float,
) -> bool:
    """Create it unless the same job was created since then, or is not finished yet."""
    _one_at_a_time(session, collection_key)
    begun = session.scalars(
        select(JobRow.parameters).where(
            JobRow.collection_key == collection_key, JobRow.kind == kind, JobRow.created_at >= since
        )
    )
    if any(each == dict(parameters) for each in begun):
        return False
    return create(session, collection_key, kind, parameters)[1]


def _one_at_a_time(session: Session, collection_key: int | None) -> None:
    """For each collection, so that two who ask at once share one job."""
    whose: Select[Any] = select(InstallationRow.id)
    if collection_key is not None:
        whose = select(CollectionRow.key).where(CollectionRow.key == collection_key)
    session.execute(whose.with_for_update())


def has_unfinished(session: Session) -> bool:
    found = session.scalar(select(JobRow.id).where(JobRow.state.in_(UNFINISHED)).limit(1))
    return found is not None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that is not finished, whoever may be working on it."""

    id: str
    kind: str
    collection_key: int | None


def unfinished(session: Session) -> list[Waiting]:
    """The oldest first."""
    rows = session.execute(
        select(JobRow.id, JobRow.kind, JobRow.collection_key)
        .where(JobRow.state.in_(UNFINISHED))
        .order_by(JobRow.created_at, JobRow.id)
    )
    return [Waiting(*row) for row in rows]


def request_cancel(session: Session, job_id: str) -> None:
    """At once where nobody works on it, else when its worker looks. Raises `NotFound`."""
    get(session, job_id)
    session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.state.in_(UNFINISHED))
        .values(
            cancel_requested=True,
            state=case((JobRow.state == "queued", "cancelled"), else_=JobRow.state),
            finished_at=case((JobRow.state == "queued", time.time()), else_=None),
        )
    )


def hold_ingests(session: Session, collection_key: int) -> None:
    """Until the transaction ends, nobody else changes the unfinished ones of a collection."""
    chosen = JobRow.collection_key == collection_key, JobRow.kind == "ingest"
    session.execute(
        select(JobRow.id)
        .where(*chosen, JobRow.state.in_(UNFINISHED))
        .order_by(JobRow.id)
        .with_for_update()
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
    done = JobRow.added + JobRow.updated + JobRow.unchanged + JobRow.done
    handled = done + JobRow.skipped + JobRow.failed
    found, done_ = session.execute(
        select(func.sum(JobRow.found), func.sum(handled)).where(JobRow.state.in_(UNFINISHED))
    ).one()
    return int(found or 0), int(done_ or 0)


def uploads_in_use(session: Session) -> set[str]:
    """Of uploads that a job reads, or would read if it was tried again."""
    return {str(each["upload"]) for each in upload_parameters(session)}


def upload_parameters(session: Session) -> list[dict[str, Any]]:
    """As `uploads_in_use`, the parameters of those jobs."""
    oldest = time.time() - UPLOAD_KEPT - 3_600.0  # nobody who may still try again comes too late
    again = and_(JobRow.state != "done", JobRow.finished_at >= oldest)
    rows = session.execute(
        select(JobRow.parameters, JobRow.state).where(
            JobRow.kind == "ingest", or_(JobRow.state.in_(UNFINISHED), again)
        )
    )
    return [
        row.parameters
        for row in rows
        if "upload" in row.parameters
        and (row.state in UNFINISHED or not row.parameters.get("withdrawn"))
    ]


def withdrawn(session: Session) -> list[dict[str, Any]]:
    """Parameters of jobs whose uploads hold something that was deleted since."""
    parameters = session.scalars(
        select(JobRow.parameters).where(JobRow.state.in_(("failed", "cancelled")))
    )
    return [each for each in parameters if each.get("withdrawn")]


def is_withdrawn(session: Session, job_id: str) -> bool:
    """Whether something that it has stored was deleted since."""
    parameters = session.scalar(select(JobRow.parameters).where(JobRow.id == job_id))
    return bool((parameters or {}).get("withdrawn"))


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


def deadly(session: Session, job_id: str) -> list[str]:
    """Names of the files that were skipped because whoever read them died."""
    chosen = SkippedRow.job_id == job_id, SkippedRow.reason == DEADLY
    return list(session.scalars(select(SkippedRow.name).where(*chosen).order_by(SkippedRow.key)))


def retry(session: Session, job_id: str) -> str:
    """The id of the job that does it again: itself where it goes on from where it stopped.

    A job that was done begins anew as another, over the same paths; an upload is not kept for that.
    One that is still to be cancelled is not cancelled. Files that were skipped because their
    readers died are read again.
    Raises `NotFound`, `Conflict`.
    """
    names.check("job", job_id)
    row = session.scalar(select(JobRow).where(JobRow.id == job_id).with_for_update())
    if row is None:
        raise NotFound(f"no job {job_id!r}")
    if row.state in UNFINISHED and not row.cancel_requested:
        raise Conflict(f"job {job_id} is not finished; wait for it or cancel it")
    if row.state in UNFINISHED:  # it was to be cancelled, and has not stopped yet
        row.cancel_requested = False
        session.flush()
        return row.id
    if row.state == "done":
        if "upload" in row.parameters:
            raise Conflict(f"job {job_id} is done; upload again what it skipped")
        return create(session, row.collection_key, row.kind, row.parameters, row.key_id)[0]
    if "upload" in row.parameters and (row.finished_at or 0) < time.time() - UPLOAD_KEPT:
        raise Conflict(f"job {job_id} ended long ago, its files are not kept; upload them again")
    if row.parameters.get("withdrawn"):
        raise Conflict(
            f"something that job {job_id} has stored was deleted since, and its files with it; "
            "upload again what it skipped"
        )
    row.state, row.error, row.finished_at = "queued", None, None
    row.cancel_requested, row.interruptions = False, 0
    again = deadly(session, job_id)
    row.skipped -= len(again)
    # Of what was stored in part, the rest was counted as found when it was given up.
    row.found -= session.scalar(
        select(func.count()).where(
            JobInputRow.job_id == job_id, JobInputRow.name.in_(again), JobInputRow.next_row != 0
        )
    ) or 0  # fmt: skip
    session.execute(
        delete(SkippedRow).where(SkippedRow.job_id == job_id, SkippedRow.reason == DEADLY)
    )
    session.execute(
        update(JobInputRow)
        .where(JobInputRow.job_id == job_id, or_(~JobInputRow.done, JobInputRow.name.in_(again)))
        .values(attempts=0, done=False)
    )
    session.flush()
    return row.id


def handled(row: JobRow) -> int:
    """How much of what was found is dealt with, whatever became of it."""
    return row.added + row.updated + row.unchanged + row.done + row.skipped + row.failed


def _jobs(
    session: Session, condition: ColumnElement[bool], limit: int = 1, shown: int = SKIPPED_SHOWN
) -> Iterator[Job]:
    rows = session.execute(
        select(JobRow, CollectionRow.name)
        .outerjoin(CollectionRow, CollectionRow.key == JobRow.collection_key)
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
        ) if row.skipped or row.failed else ()  # fmt: skip
        if row.kind == "delete" and "collection" in row.parameters:
            collection = row.parameters["collection"]  # as it was called
        elif collection is not None and collection.startswith("~"):
            collection = ""  # it is being deleted
        yield _job(row, collection, [Skipped(name, reason) for name, reason in skipped])


def _job(row: JobRow, collection: str | None, skipped: list[Skipped]) -> Job:
    left = max(row.found - handled(row), 0)
    rate = _rate(row)
    # While an ingest still looks for files, nobody knows how much there is to do.
    known = row.state == "running" and (row.scanned or row.kind != "ingest")
    return Job(
        id=row.id,
        kind=row.kind,
        collection=collection,
        state=row.state,  # type: ignore[arg-type]
        found=row.found,
        added=row.added,
        updated=row.updated,
        unchanged=row.unchanged,
        skipped=skipped,
        skipped_count=row.skipped,
        items=row.items,
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
        done=row.added + row.updated + row.unchanged + row.done,
        failed=row.failed,
        left=left,
        rate=rate,
        started_at=row.started_at,
        expected_end=(row.heartbeat_at or 0) + left / rate if known and left and rate else None,
        cancelling=row.state == "running" and row.cancel_requested,
    )


def _rate(row: JobRow) -> float | None:
    """Handled per second since it was taken up last."""
    until = row.finished_at or row.heartbeat_at
    if row.claimed_at is None or until is None:
        return None
    seconds, since = until - row.claimed_at, handled(row) - row.claimed_handled
    return since / seconds if seconds > 0 and since > 0 else None
