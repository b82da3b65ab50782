"""Working on a job: the claim on it, and what only its holder may write.

Every claim has a higher fence than the one before; who holds an older one writes nothing any more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import case, delete, insert, select, update
from sqlalchemy.orm import Session

from rag_owl.errors import JobLost
from rag_owl.rows import CollectionRow, JobInputRow, JobRow, SkippedRow
from rag_owl.store.jobs import UNFINISHED, handled
from rag_owl.types import Skipped


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job, until somebody claims it with a higher fence."""

    job_id: str
    fence: int
    kind: str
    collection: str  # "": it is of the whole installation
    collection_key: int  # 0: likewise
    parameters: Mapping[str, Any]
    scanned: bool
    interrupted: bool = False  # who had it before did not let go of it: killed, or no power
    interruptions: int = 0  # how often in a row, with nothing done between them


def claim(session: Session, job_id: str, worker: str) -> Claim | None:
    """Take an unfinished job from whoever had it before; None: it is finished, or gone.

    The caller has made sure that nobody else who is well works on it (the folder's lock, the
    queue's): whoever had it loses it, and can activate nothing any more.
    """
    row = session.scalar(
        select(JobRow).where(JobRow.id == job_id, JobRow.state.in_(UNFINISHED)).with_for_update()
    )
    if row is None:
        return None
    now = time.time()
    interrupted = row.state == "running"
    row.state, row.worker, row.heartbeat_at = "running", worker, now
    row.fence += 1
    row.interruptions = row.interruptions + 1 if interrupted else 0
    row.started_at = row.started_at or now
    row.claimed_at, row.claimed_handled = now, handled(row)
    collection = session.get(CollectionRow, row.collection_key) if row.collection_key else None
    return Claim(
        row.id,
        row.fence,
        row.kind,
        collection.name if collection else "",
        row.collection_key or 0,
        row.parameters,
        row.scanned,
        interrupted,
        row.interruptions,
    )


def renew(session: Session, claim: Claim) -> Claim:
    """The same claim, with what was written down since. Raises `JobLost`."""
    row = session.get(JobRow, claim.job_id)
    if row is None or row.fence != claim.fence or row.state != "running":
        raise JobLost(f"job {claim.job_id} was taken over by another worker")
    return replace(claim, scanned=row.scanned)


def release(session: Session, claim: Claim) -> None:
    """Let go of a job that is not finished; whoever claims it next goes on with it."""
    _update(session, claim, state="queued")


def advance(session: Session, claim: Claim, **counters: int) -> bool:
    """Add to the counters and beat the heart; returns whether the job was asked to stop.

    counters: of found, added, updated, unchanged, done, skipped, failed, items. Until the
    transaction ends nobody else can claim the job.
    Raises `JobLost` when somebody else has claimed the job since: nothing may be committed then.
    """
    changes: dict[str, Any] = {
        name: getattr(JobRow, name) + number for name, number in counters.items() if number
    }
    if changes.keys() - {"found"}:
        changes["interruptions"] = 0
    _update(session, claim, heartbeat_at=time.time(), **changes)
    return bool(session.scalar(select(JobRow.cancel_requested).where(JobRow.id == claim.job_id)))


def go_on(session: Session, claim: Claim) -> None:
    """Beat the heart, and count interruptions anew: what is left to do only waits for others.

    Raises `JobLost`.
    """
    _update(session, claim, heartbeat_at=time.time(), interruptions=0)


def beat(session: Session, claim: Claim) -> None:
    """Say that somebody works on it. Raises `JobLost` as `advance` does."""
    _update(session, claim, heartbeat_at=time.time())


def standing(session: Session, claim: Claim) -> Literal["ours", "cancelled", "lost"]:
    """Whether to go on with it."""
    row = session.execute(
        select(JobRow.fence, JobRow.state, JobRow.cancel_requested).where(JobRow.id == claim.job_id)
    ).one_or_none()
    if row is None or row.fence != claim.fence or row.state != "running":
        return "lost"
    return "cancelled" if row.cancel_requested else "ours"


def _update(session: Session, claim: Claim, **values: Any) -> None:
    found = session.execute(
        update(JobRow)
        .where(JobRow.id == claim.job_id, JobRow.fence == claim.fence, JobRow.state == "running")
        .values(**values)
    )
    if found.rowcount != 1:  # type: ignore[attr-defined]
        raise JobLost(f"job {claim.job_id} was taken over by another worker")


def finish(session: Session, claim: Claim, state: str, error: str | None = None) -> None:
    """state: done or failed."""
    _update(session, claim, state=state, error=error, finished_at=time.time())


def finish_cancelled(session: Session, claim: Claim) -> None:
    """It has stopped because it was to be cancelled; where it is to be tried again, it goes on."""
    _update(
        session,
        claim,
        state=case((JobRow.cancel_requested, "cancelled"), else_="queued"),
        finished_at=case((JobRow.cancel_requested, time.time()), else_=None),
    )


def mark_scanned(session: Session, claim: Claim) -> None:
    _update(session, claim, scanned=True, interruptions=0)


def restart_scan(session: Session, claim: Claim) -> None:
    """A scan that was interrupted begins again: nothing of it has been worked on yet.

    So do jobs that count what they look through.
    """
    session.execute(delete(JobInputRow).where(JobInputRow.job_id == claim.job_id))
    session.execute(delete(SkippedRow).where(SkippedRow.job_id == claim.job_id))
    _update(session, claim, found=0, skipped=0, done=0, failed=0)


def add_skipped(session: Session, claim: Claim, skipped: Sequence[Skipped]) -> None:
    if skipped:
        session.execute(
            insert(SkippedRow),
            [{"job_id": claim.job_id, "name": s.name, "reason": s.reason} for s in skipped],
        )
