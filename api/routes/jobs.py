"""Jobs: how they stand, as they change, what they skipped; cancel and retry."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from rag_owl import db
from rag_owl.api import paging, schemas, wire
from rag_owl.api.deps import MayAsk, MayIngest, Owl, The
from rag_owl.api.events import JobWatch
from rag_owl.api.paging import Cursor, Limit
from rag_owl.api.responses import problems
from rag_owl.client import RagOwl
from rag_owl.store import collections, jobs
from rag_owl.store.names import is_storable
from rag_owl.types import Job, Skipped

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=problems())

JobId = Annotated[str, Path(max_length=64, description="The job's id.")]


@router.get(
    "",
    response_model=schemas.Page[schemas.Job],
    responses=problems(404),
    dependencies=[MayAsk],
)
def list_jobs(
    owl: Owl,
    collection: Annotated[
        str | None, Query(max_length=63, description="Of this collection alone.")
    ] = None,
    state: Annotated[
        list[schemas.JobState] | None, Query(max_length=5, description="In these states alone.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """The newest first, each with few of what it skipped."""
    place = paging.read(cursor, float, str)
    before = (place[0], place[1]) if place else None
    with db.reading(owl.engine) as session:
        if collection is not None:
            collections.get(session, collection)
        found = jobs.list_page(session, collection, state or (), before, limit + 1)
    return paging.page(
        found,
        limit,
        partial(wire.job, folder=owl.folder),
        lambda job: paging.write(float(job.created_at), job.id),
    )


@router.get("/{job_id}", response_model=schemas.Job, responses=problems(404), dependencies=[MayAsk])
def get_job(job_id: JobId, owl: Owl) -> dict[str, Any]:
    return wire.job(owl.job(job_id), owl.folder)


@router.post(
    "/{job_id}/cancel",
    response_model=schemas.Job,
    status_code=202,
    responses=problems(404),
    dependencies=[MayIngest],
)
def cancel_job(job_id: JobId, owl: Owl) -> dict[str, Any]:
    """It stops after the batch at hand; what it has added stays."""
    owl.cancel_job(job_id)
    return wire.job(owl.job(job_id), owl.folder)


@router.post(
    "/{job_id}/retry",
    response_model=schemas.Job,
    status_code=202,
    responses=problems(404, 409),
    dependencies=[MayIngest],
)
def retry_job(job_id: JobId, owl: Owl) -> dict[str, Any]:
    """A failed or cancelled job goes on where it stopped."""
    with db.writing(owl.engine) as session:
        again = jobs.retry(session, job_id)
    owl.work_soon()
    return wire.job(owl.job(again), owl.folder)


@router.get(
    "/{job_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {"description": "`job` events, then `done`.", "content": {"text/event-stream": {}}},
        **problems(404),
    },
    dependencies=[MayAsk],
)
async def follow_job(job_id: JobId, owl: Owl, state: The) -> EventSourceResponse:
    """Server-sent events: `job` with the job, now and at each change; `done` at its end."""
    job = await run_in_threadpool(_shown, owl, job_id)
    return EventSourceResponse(_events(state.watch, job, owl), ping=20)


def _shown(owl: RagOwl, job_id: str) -> Job:
    """As it comes in every event. Raises `NotFound`."""
    with db.reading(owl.engine) as session:
        found = jobs.several(session, [job_id]) if is_storable(job_id) else {}
        return found.get(job_id) or jobs.get(session, job_id)


async def _events(watch: JobWatch, job: Job, owl: RagOwl) -> AsyncIterator[ServerSentEvent]:
    last = job
    async for each in watch.follow(job):
        last = each
        yield ServerSentEvent(event="job", data=json.dumps(wire.job(each, owl.folder)))
    yield ServerSentEvent(event="done", data=json.dumps(wire.job(last, owl.folder)))


@router.get(
    "/{job_id}/skipped",
    response_model=schemas.Page[schemas.Skipped],
    responses=problems(404),
    dependencies=[MayAsk],
)
def list_skipped(
    job_id: JobId, owl: Owl, limit: Limit = 50, cursor: Cursor = None
) -> dict[str, Any]:
    """What it could not use, and why."""
    place = paging.read(cursor, int)
    with db.reading(owl.engine) as session:
        found = jobs.skipped_page(session, job_id, place[0] if place else 0, limit + 1)

    def show(row: tuple[int, Skipped]) -> dict[str, str]:
        return {"name": row[1].name, "reason": row[1].reason}

    return paging.page(found, limit, show, lambda row: paging.write(row[0]))
