"""Jobs as they change, for any number of event streams, by one query every half second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from rag_owl import db
from rag_owl.api import logs
from rag_owl.store import jobs
from rag_owl.types import Job

log = logs.get_logger(__name__)

_EVERY = 0.5  # seconds


@dataclass(slots=True)
class _Watched:
    job: Job | None  # None: it is gone
    followers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # a new one after each change


class JobWatch:
    """Belongs to one event loop. While nobody follows a job, it asks nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watched: dict[str, _Watched] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def followers(self) -> int:
        return sum(each.followers for each in self._watched.values())

    async def follow(self, job: Job) -> AsyncIterator[Job]:
        """The job now and after each change, to its end. The caller has checked who may see it."""
        watched = self._watched.setdefault(job.id, _Watched(job))
        watched.followers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        seen: Job | None = None
        try:
            while watched.job is not None:
                changed, now = watched.changed, watched.job
                if now != seen:
                    seen = now
                    yield now
                elif now.finished:
                    return
                else:
                    await changed.wait()
        finally:
            watched.followers -= 1
            if not watched.followers:
                self._watched.pop(job.id, None)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while self._watched:
            await asyncio.sleep(_EVERY)
            ids = list(self._watched)
            try:
                found = await run_in_threadpool(self._several, ids)
            except Exception as error:
                log.warning("jobs cannot be read", error=str(error))
                continue
            for job_id in ids:
                watched = self._watched.get(job_id)
                if watched is not None and watched.job != found.get(job_id):
                    watched.job = found.get(job_id)
                    watched.changed.set()
                    watched.changed = asyncio.Event()

    def _several(self, ids: list[str]) -> dict[str, Job]:
        with db.reading(self._engine) as session:
            return jobs.several(session, ids)
