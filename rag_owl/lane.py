"""The model's lane: a fixed number of threads, and a queue that never grows beyond its bound.

A model that owns a GPU is asked by one thread, one question after the other. Who comes when the
queue is full is told at once, with the time after which it makes sense to come again; who leaves
frees the place.
"""

from __future__ import annotations

import contextvars
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from rag_owl.errors import Busy, Cancelled

log = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_WAIT = 120  # seconds that anybody is told to stay away
_FIRST_GUESS = 1.0  # seconds of a piece of work, before one has been seen
_MEMORY = 0.2  # how much the newest piece of work counts in the running mean


class Ticket(Generic[T]):
    """A piece of work's place on the lane. `future` holds its result or its exception."""

    def __init__(self, lane: Lane, work: Callable[[Ticket[T]], T]) -> None:
        self.future: Future[T] = Future()
        self.queued_at = time.monotonic()
        self._lane = lane
        self._work = work
        # What belongs to the request goes along: its id for the log, its trace.
        self._context = contextvars.copy_context()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Nobody wants it any more: it leaves the queue at once, or stops at its next `check`."""
        self._cancelled.set()
        self._lane._forget(self)

    def check(self) -> None:
        """Called by the work, between tokens. Raises `Cancelled`."""
        if self._cancelled.is_set():
            raise Cancelled("whoever asked has gone away")

    def _run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.check()
            self.future.set_result(self._context.run(self._work, self))
        except BaseException as error:
            self.future.set_exception(error)


class Lane:
    """Works what it is given, in order. Close it, or use it in a `with`."""

    def __init__(self, name: str, waiting: int, threads: int = 1) -> None:
        """waiting: how many may queue beside the `threads` that are being worked."""
        self.name = name
        self._most_waiting = waiting
        self._queue: deque[Ticket[object]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._busy = 0
        self._mean_seconds = _FIRST_GUESS
        self._running: set[Ticket[object]] = set()
        self._threads = [
            threading.Thread(target=self._loop, name=f"{name}-{at}", daemon=True)
            for at in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return self._busy

    def submit(self, work: Callable[[Ticket[T]], T]) -> Ticket[T]:
        """Queue it. The work gets its ticket, to `check` whether it is still wanted.

        Raises `Busy` when the queue is full or the lane is being closed.
        """
        ticket: Ticket[T] = Ticket(self, work)
        with self._changed:
            if self._closing:
                raise Busy("the service is shutting down; try again in a moment", 5)
            # Work that a free thread is about to take does not wait.
            free = len(self._threads) - self._busy
            if len(self._queue) >= self._most_waiting + free:
                raise Busy(
                    f"{len(self._queue)} questions are waiting already; try again later",
                    self._retry_after(),
                )
            self._queue.append(ticket)  # type: ignore[arg-type]
            self._changed.notify()
        return ticket

    def run(self, work: Callable[[Ticket[T]], T]) -> T:
        """Queue it and wait for the result. Raises `Busy`, and what the work raises."""
        return self.submit(work).future.result()

    def close(self, seconds: float) -> None:
        """Take nothing more, and let what is there finish for so long; then cancel the rest."""
        until = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while self._queue or self._busy:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            unfinished = [*self._queue, *self._running]
        for ticket in unfinished:
            ticket.cancel()
        for thread in self._threads:
            thread.join(timeout=5)

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(0)

    def _retry_after(self) -> int:
        rounds = (len(self._queue) + self._busy) / len(self._threads)
        return max(1, min(_LONGEST_WAIT, math.ceil(rounds * self._mean_seconds)))

    def _forget(self, ticket: Ticket[T]) -> None:
        with self._changed:
            if ticket not in self._queue:
                return
            self._queue.remove(ticket)  # type: ignore[arg-type]
            self._changed.notify_all()
        # Whoever waits for the result is woken; so it is neither lost nor worked.
        if ticket.future.set_running_or_notify_cancel():
            ticket.future.set_exception(Cancelled("it was taken off the queue"))

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._closing:
                        return
                    self._changed.wait()
                ticket = self._queue.popleft()
                self._busy += 1
                self._running.add(ticket)
            begun = time.monotonic()
            try:
                ticket._run()
            finally:
                took = time.monotonic() - begun
                with self._changed:
                    self._busy -= 1
                    self._running.discard(ticket)
                    self._mean_seconds += _MEMORY * (took - self._mean_seconds)
                    self._changed.notify_all()
                del ticket  # and with it the pictures that its work holds
