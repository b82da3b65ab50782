"""What one running service consists of, built once by `app.create_app`."""

from __future__ import annotations

from dataclasses import dataclass, field

from anyio import CapacityLimiter

from rag_owl.api.events import JobWatch
from rag_owl.api.limits import RateLimits
from rag_owl.api.metrics import Metrics
from rag_owl.api.thumbnails import Thumbnails
from rag_owl.client import RagOwl
from rag_owl.lane import Lane
from rag_owl.settings import Settings

_SLOW_AT_ONCE = 4


@dataclass(slots=True)
class State:
    settings: Settings
    owl: RagOwl  # sees everything; routes take `deps.Owl`, which sees what the caller may
    lane: Lane  # where the model answers
    remote: Lane  # where models behind servers do, many at once
    batched: Lane  # where a model does that answers several questions in one batch
    searching: Lane  # where searches without an answer are embedded
    watch: JobWatch
    rates: RateLimits
    metrics: Metrics
    thumbnails: Thumbnails
    ready: bool = False  # models are loaded
    trouble: str = ""  # why they are not
    # Threads beside those of all other requests, which must not wait for what takes long: small
    # pictures of large ones, documents by their URL. Neither of them waits for the other.
    drawing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_SLOW_AT_ONCE))
    fetching: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_SLOW_AT_ONCE))
    # Whether the database can be reached is found out also while all threads are busy.
    looking: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return self.lane, self.remote, self.batched, self.searching
