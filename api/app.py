"""The composition root of the HTTP service: `create_app(settings)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from rag_owl import __version__, uploads
from rag_owl.api import auth, errors, examples, logs, mcp, schemas
from rag_owl.api.events import JobWatch
from rag_owl.api.limits import RateLimits
from rag_owl.api.metrics import Metrics
from rag_owl.api.middleware import Guard, split_list
from rag_owl.api.routes import (
    answers,
    backups,
    chat,
    collections,
    documents,
    health,
    items,
    jobs,
    keys,
    page,
    search,
)
from rag_owl.api.state import State
from rag_owl.api.thumbnails import Thumbnails
from rag_owl.api.worker import Worker
from rag_owl.client import RagOwl
from rag_owl.errors import RagOwlError
from rag_owl.lane import Lane
from rag_owl.settings import Settings

log = logs.get_logger(__name__)

# Answers that clients wait for had their time when the server waited for its requests.
_LAST_WAIT = 1.0  # seconds
_TIDY_EVERY = 3_600.0  # seconds
_SEARCHES = 2  # at once: more only take the processor from each other


def create_app(settings: Settings, on_ready: Callable[[], None] = lambda: None) -> FastAPI:
    """The service over the data folder of the settings. Nothing is opened before it starts.

    on_ready: called once, in a thread, when the models are loaded.
    Starting raises `DataFolderError` where strangers could come in and no key exists, and as
    `RagOwl.open` does.
    """
    rates = RateLimits(settings)
    metrics = Metrics()
    tools = mcp.Endpoint(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        owl = await run_in_threadpool(_open, settings)
        lane = Lane("model", settings.waiting_questions)
        remote = Lane("remote", settings.waiting_questions, settings.remote_calls)
        batched = Lane("batched", settings.waiting_questions, settings.model_rows)
        searching = Lane("search", settings.waiting_questions, _SEARCHES)
        state = State(
            settings=settings,
            owl=owl,
            lane=lane,
            remote=remote,
            batched=batched,
            searching=searching,
            watch=JobWatch(owl.engine),
            rates=rates,
            metrics=metrics,
            thumbnails=Thumbnails(owl.folder / "thumbnails", owl.blobs, owl.limits),
        )
        app.state.rag_owl = state
        loading = asyncio.create_task(_load(state, on_ready))
        tidying = asyncio.create_task(_tidy(state))
        worker = Worker(settings) if settings.job_runner == "process" else None
        try:
            if worker is not None:
                worker.start()
            async with tools.running():
                yield
        finally:
            if worker is not None:
                await run_in_threadpool(worker.stop)
            state.ready = False
            loading.cancel()
            tidying.cancel()
            state.watch.close()
            for each in state.lanes:
                await run_in_threadpool(each.close, _LAST_WAIT)
            await run_in_threadpool(owl.close)

    app = FastAPI(
        title="rag_owl",
        version=__version__,
        description="Ask your pictures, pages and videos. Get an answer, and the exact evidence "
        "for it.",
        lifespan=lifespan,
        # Spans of requests, where somebody wants traces; figures and logs are our own.
        telemetry={
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_no_call,
        },
        docs_url=None,  # they would load scripts from elsewhere; `/docs` is our own
        redoc_url=None,
        openapi_url="/openapi.json",
        generate_unique_id_function=lambda route: route.name,
    )
    errors.install(app)
    for module in (health, collections, documents, items, search, jobs, backups, keys, page):
        app.include_router(module.router)
    app.include_router(answers.router)
    app.include_router(answers.answerers)
    app.include_router(chat.router)
    app.router.routes.append(Route(mcp.PATH, tools, include_in_schema=False))
    _describe(app)
    app.add_middleware(Guard, settings=settings, rates=rates, metrics=metrics)
    origins = split_list(settings.cors_origins)
    if origins:  # around the guard: a page must be able to read what that refuses, and until when
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    return app


def _is_no_call(scope: MutableMapping[str, Any]) -> bool:
    """What comes every few seconds and says nothing, and the page's files."""
    return not str(scope.get("path", "")).startswith(("/v1/", mcp.PATH))


def _open(settings: Settings) -> RagOwl:
    owl = RagOwl.open(work_jobs=settings.job_runner == "thread", **dict(settings))
    try:
        auth.check_start(owl.engine, settings)
        uploads.sweep(owl.engine, owl.folder, owl.storage.objects)
    except BaseException:
        owl.close()
        raise
    return owl


async def _load(state: State, on_ready: Callable[[], None]) -> None:
    """Load what the first question would wait for; until then `/readyz` says so."""
    try:
        await run_in_threadpool(state.owl.warm_up)
        await run_in_threadpool(on_ready)
        state.ready = True
        log.info("ready", model=state.settings.model)
    except RagOwlError as error:
        state.trouble = "models"
        log.error("models cannot be loaded", error=str(error))


async def _tidy(state: State) -> None:
    """Now and then remove the uploads that no job will read any more."""
    while True:
        await asyncio.sleep(_TIDY_EVERY)
        try:
            owl = state.owl
            await run_in_threadpool(uploads.sweep, owl.engine, owl.folder, owl.storage.objects)
        except Exception as error:
            log.warning("uploads cannot be swept", error=str(error))


def _describe(app: FastAPI) -> None:
    """Put what routes refer to by name into the OpenAPI document, and examples."""
    original = app.openapi

    def described() -> dict[str, object]:
        if app.openapi_schema is None:
            document = original()
            parts = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (schemas.Problem, schemas.FromUrl):
                parts[model.__name__] = model.model_json_schema()
            examples.add(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
