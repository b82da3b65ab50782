"""One thread that owns a model and runs everybody's requests in one batch.

Callers in other threads hand a request in and wait. The thread lets waiting requests join between
two steps, so a short question does not wait for a long answer to end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from rag_owl.errors import ModelError, OutOfMemory
from rag_owl.model.owl3.generate import Batch, Request

if TYPE_CHECKING:
    from rag_owl.model.owl3.model import Owl3

T = TypeVar("T")
HEARTBEAT = 0.5  # seconds


class Engine:
    """At most `max_rows` requests run at once; others wait their turn in order."""

    def __init__(self, model: Owl3, max_rows: int = 8) -> None:
        self.model = model
        self.max_rows = max_rows
        self._batch = Batch(model)
        self._ends: dict[int, Future[Request]] = {}  # by id of the running request
        self._work: queue.Queue[tuple[Any, Future[Any]] | None] = queue.Queue()
        self._waiting: list[tuple[Request, Future[Request]]] = []
        self._closed = threading.Event()
        self._door = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="owl3-engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that share the batch now."""
        return len(self._batch.requests)

    def submit(self, request: Request) -> Future[Request]:
        """The request runs as soon as there is room; the future gives it back when it has ended.

        `on_token` and `cancel` of the request are called in the engine's thread. What the request
        raises (InvalidInput, OutOfMemory) the future raises. Raises ModelError after `close`.
        """
        return self._put(request)

    def run(self, request: Request) -> Request:
        """As `submit`, and wait."""
        return self.submit(request).result()

    def stream(self, request: Request) -> Generator[int | None, None, None]:
        """The request's tokens as they come, in the caller's thread; None about twice a second
        while none comes. Closing it cancels the request. Raises as `run`.
        """
        given = request.cancel
        left = threading.Event()
        request.cancel = lambda: left.is_set() or (given is not None and given())
        come: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        request.on_token = come.put
        future = self.submit(request)
        future.add_done_callback(lambda _: come.put(None))
        try:
            while True:
                try:
                    token = come.get(timeout=HEARTBEAT)
                except queue.Empty:
                    yield None
                    continue
                if token is None:
                    break
                yield token
        finally:
            left.set()
        future.result()

    def call(self, work: Callable[[], T]) -> T:
        """Run something else that needs the model (encoding pictures), between two steps."""
        result: T = self._put(work).result()
        return result

    def close(self) -> None:
        """Stop after the current step; what has not ended fails with ModelError."""
        with self._door:
            self._closed.set()
            self._work.put(None)
        self._thread.join()

    def _put(self, what: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._door:  # nothing comes in behind the last look at the queue
            if self._closed.is_set():
                raise ModelError("the model has been closed; open it again.")
            self._work.put((what, future))
        return future

    # --- the engine's thread ----------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.is_set():
            self._take()
            while self._waiting and len(self._batch.requests) < self.max_rows:
                self._join(*self._waiting.pop(0))
            if self._batch.requests:
                self._step()
        closed = ModelError("the model was closed while this request was under way.")
        for _, future in self._waiting:
            future.set_exception(closed)
        for future in self._ends.values():
            future.set_exception(closed)
        while not self._work.empty():
            job = self._work.get()
            if job is not None:
                job[1].set_exception(closed)

    def _take(self) -> None:
        """What came in since the last step; waits only where there is nothing else to do."""
        idle = not self._batch.requests and not self._waiting
        while True:
            try:
                job = self._work.get(block=idle)
            except queue.Empty:
                return
            if job is None:
                return
            what, future = job
            idle = False
            if isinstance(what, Request):
                self._waiting.append((what, future))
            else:
                _settle(future, what)

    def _join(self, request: Request, future: Future[Request]) -> None:
        try:
            self._batch.join(request)
        except BaseException as error:  # its own fault or its own size: the others go on
            future.set_exception(error)
            return
        self._ends[id(request)] = future
        if request.finished:
            self._end(request)

    def _step(self) -> None:
        try:
            ended = self._batch.step()
        except OutOfMemory as error:
            # The batch as it was still stands; without its largest row it may fit.
            largest = max(self._batch.requests, key=_size)
            self._batch.drop(largest)
            self._ends.pop(id(largest)).set_exception(error)
            return
        except BaseException as error:
            for request in list(self._batch.requests):
                self._batch.drop(request)
                self._ends.pop(id(request)).set_exception(error)
            return
        for request in ended:
            self._end(request)

    def _end(self, request: Request) -> None:
        future = self._ends.pop(id(request))
        if request.error is not None:
            future.set_exception(request.error)
        else:
            future.set_result(request)


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def _size(request: Request) -> int:
    patches = 0 if request.memory is None else len(request.memory) * request.memory.patches
    return patches + len(request.prompt) + len(request.tokens)
