"""Jobs that begin by the clock: cron expressions of the settings, the same on both databases.

Any number of processes may look at the clock. Who looks first begins the job, in a transaction
that sees whether one was begun since that time already; so a clock that is set back begins nothing
twice. A time that nobody was there for is made up for within ten minutes, and then left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from rag_owl import db, paths
from rag_owl.errors import RagOwlError
from rag_owl.settings import Schedule, below_a_root
from rag_owl.store import collections, jobs

log = logging.getLogger(__name__)

_GRACE = 600.0  # seconds
_LOOK_EVERY = 5.0  # seconds


class Schedules:
    """Begins what is due. One for each process that works jobs."""

    def __init__(self, engine: Engine, schedules: Sequence[Schedule], roots: Sequence[Path]):
        self._engine = engine
        self._schedules = schedules
        self._roots = roots
        self._begun: dict[int, float] = {}  # the last time of each that was seen to
        self._next_look = 0.0

    def begin_due(self, now: float | None = None) -> int:
        """How many jobs were begun. Asked as often as one likes: it looks every few seconds.

        now: seconds since the epoch, for tests.
        """
        if not self._schedules or (now is None and time.monotonic() < self._next_look):
            return 0
        self._next_look = time.monotonic() + _LOOK_EVERY
        now = time.time() if now is None else now
        begun = 0
        for number, schedule in enumerate(self._schedules):
            due = last_time(schedule.cron, now)
            if now - due > _GRACE or self._begun.get(number) == due:
                continue
            try:
                begun += self._begin(schedule, due)
                self._begun[number] = due
            except RagOwlError as error:
                log.error("a periodic job (%s) was not begun: %s", schedule, error)
        return begun

    def _begin(self, schedule: Schedule, due: float) -> bool:
        parameters: dict[str, Any] = {"schedule": schedule.cron}
        if schedule.path is not None:
            # Again, because a link may lead elsewhere by now.
            folder = below_a_root(schedule.path, self._roots)
            parameters["paths"] = [paths.dump(folder)]
        with db.writing(self._engine) as session:
            key = None
            if schedule.collection is not None:
                find = collections.get_or_create if schedule.kind == "ingest" else collections.get
                key = find(session, schedule.collection).key
            return jobs.create_since(session, key, schedule.kind, parameters, due)


def last_time(cron: str, now: float) -> float:
    """When it was due last, now included. UTC, as seconds since the epoch."""
    from croniter import croniter

    after = datetime.fromtimestamp(now + 1, UTC)
    return float(croniter(cron, after).get_prev(float))
