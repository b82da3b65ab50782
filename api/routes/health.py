"""Is it alive, is it ready, and how is it doing?"""

from __future__ import annotations

import asyncio
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from rag_owl import db
from rag_owl.api import auth, metrics, schemas
from rag_owl.api.deps import The, get_caller
from rag_owl.api.errors import Problem
from rag_owl.api.responses import problems
from rag_owl.api.state import State
from rag_owl.store import jobs

router = APIRouter(tags=["service"])


@router.get("/healthz", response_model=schemas.Health)
async def health() -> dict[str, str]:
    """The process answers. Says nothing of models; see `/readyz`."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    response_model=schemas.Readiness,
    responses={503: {"model": schemas.Readiness, "description": "Not yet, or not any more."}},
)
async def ready(state: The) -> JSONResponse:
    """Whether questions can be answered: the models are loaded and the database is there."""
    waiting = [] if state.ready else [state.trouble or "models"]
    try:
        async with asyncio.timeout(2):
            await to_thread.run_sync(_reach, state, limiter=state.looking)
    except Exception:
        waiting.append("database")
    return JSONResponse(
        {"ready": not waiting, "waiting_for": waiting}, status_code=503 if waiting else 200
    )


def _reach(state: State) -> None:
    with db.reading(state.owl.engine) as session:
        jobs.has_unfinished(session)


async def _may_see_metrics(request: Request, state: The) -> None:
    """On loopback they are open; elsewhere they need `admin`, because they tell of everybody."""
    if auth.needs_key(state.settings):
        caller = await get_caller(request, state, None)
        if not caller.may("admin") or caller.collections is not None:
            raise Problem(403, "this needs the scope 'admin' for all collections", "Authorization")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **problems()},
)
async def figures(state: The, _: Annotated[None, Depends(_may_see_metrics)]) -> Response:
    """Figures for Prometheus."""
    for lane in state.lanes:
        state.metrics.queue.labels(lane.name, "waiting").set(lane.waiting)
        state.metrics.queue.labels(lane.name, "running").set(lane.running)
    state.metrics.streams.set(state.watch.followers)
    await run_in_threadpool(_count_jobs, state)
    return Response(state.metrics.write(), media_type=metrics.CONTENT_TYPE_LATEST)


def _count_jobs(state: State) -> None:
    with db.reading(state.owl.engine) as session:
        for name, number in jobs.count_by_state(session).items():
            state.metrics.jobs.labels(name).set(number)
        found, handled = jobs.unfinished_documents(session)
    state.metrics.job_documents.labels("found").set(found)
    state.metrics.job_documents.labels("handled").set(handled)
