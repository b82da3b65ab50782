"""One question on its lane, as JSON at its end or as events while it is answered.

What the model says comes from its own thread; here it becomes events of the event loop. A client
that goes away cancels the question, which then stops at its next token, or leaves the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fastapi import Request

from rag_owl.api.metrics import Metrics
from rag_owl.api.state import State
from rag_owl.errors import Cancelled, InvalidQuestion, ModelNotFound
from rag_owl.lane import Lane, Ticket
from rag_owl.model import registry
from rag_owl.settings import Settings
from rag_owl.steps import listening, waited
from rag_owl.types import Answer, Retrieved

OnText: TypeAlias = Callable[[str], None]
OnSources: TypeAlias = Callable[[Sequence[Retrieved]], None]
Work: TypeAlias = Callable[[OnText, OnSources], Answer]
Event: TypeAlias = tuple[Literal["retrieved", "text", "answer"], Any]


# --- which models there are -----------------------------------------------------------------------


def names(settings: Settings) -> list[str]:
    """The answerers that may be asked over HTTP, the default first: bundled and registered ones."""
    return list(dict.fromkeys([default(settings), *registry.names(), *settings.remote_models]))


def default(settings: Settings) -> str:
    """A checkpoint's folder is the operator's business: its name alone is shown."""
    return Path(settings.model).name or settings.model


def resolve(settings: Settings, given: str | None) -> str | None:
    """A name as it was given over HTTP -> as `RagOwl.ask` takes it. Raises `ModelNotFound`.

    Never a path or a hub id: those that the operator did not register do not exist.
    """
    if given is None or given == default(settings):
        return None
    if given in registry.names() or given in settings.remote_models:
        return given
    raise ModelNotFound(
        f"no answering model {given[:100]!r}; there are: {', '.join(names(settings))}"
    )


def check_budget(settings: Settings, budget: int | None) -> None:
    """Raises `InvalidQuestion` for more than the operator lets any question cost."""
    most = settings.context_characters
    if budget is not None and budget > most:
        raise InvalidQuestion(f"budget: this service shows at most {most:,} characters", "budget")


def lane_of(state: State, model: str | None) -> Lane:
    """Models behind servers do not wait for the one that runs here, nor it for them.

    The bundled models answer one question at a time. Others of a folder or the hub may be asked
    from many threads: mPLUG-Owl3 answers them in one batch, the rest wait their turn.
    """
    chosen = model or state.settings.model
    if chosen in state.settings.remote_models:
        return state.remote
    return state.lane if chosen in registry.names() else state.batched


# --- asking -----------------------------------------------------------------------------------


class Asked:
    """A question that has its place on a lane."""

    def __init__(self, state: State, model: str | None, work: Work) -> None:
        """To be made on the event loop. Raises `Busy` at once when the lane's queue is full."""
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._first: Event | None = None
        watch = _Watch(state.metrics)

        def answer(ticket: Ticket[Answer]) -> Answer:
            def on_text(text: str) -> None:
                ticket.check()
                if text:
                    watch.text()
                    self._put(("text", text))

            def on_sources(found: Sequence[Retrieved]) -> None:
                ticket.check()
                watch.sources()
                self._put(("retrieved", list(found)))

            with listening(watch):
                watch.begin()
                answered = work(on_text, on_sources)
            watch.end(answered)
            return answered

        self._ticket = lane_of(state, model).submit(answer)
        self._ticket.future.add_done_callback(self._finish)

    def cancel(self) -> None:
        self._ticket.cancel()

    async def begin(self, request: Request) -> None:
        """Wait for what comes first, so that what fails before it has its own status.

        To be called when the request's body has been read. Raises what the work raises, and
        `Cancelled` when the client goes away.
        """
        self._first = await self._unless_gone(request, self._next())

    async def result(self, request: Request) -> Answer:
        """The answer alone, at its end. Raises as `begin` does."""

        async def last() -> Answer:
            while (event := await self._next())[0] != "answer":
                pass
            found: Answer = event[1]
            return found

        answer: Answer = await self._unless_gone(request, last())
        return answer

    async def events(self) -> AsyncIterator[Event]:
        """`retrieved`, `text`… and at the end `answer`. Raises what the work raises.

        Not iterated to its end, it cancels the question.
        """
        try:
            if self._first is not None:
                yield self._first
                if self._first[0] == "answer":
                    return
            while True:
                event = await self._next()
                yield event
                if event[0] == "answer":
                    return
        finally:
            self.cancel()  # of what has ended: nothing happens

    async def _next(self) -> Event:
        found = await self._events.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def _unless_gone(self, request: Request, wanted: Any) -> Any:
        waiting = asyncio.ensure_future(wanted)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            raise Cancelled("the client has gone away")
        finally:
            gone.cancel()
            if not waiting.done() or waiting.cancelled() or waiting.exception():
                waiting.cancel()
                self.cancel()

    def _finish(self, future: Future[Answer]) -> None:
        error = Cancelled("it was given up") if future.cancelled() else future.exception()
        if error is None:
            self._put(("answer", future.result()))
        elif isinstance(error, Exception):
            self._put(error)
        else:
            self._put(RuntimeError(f"{type(error).__name__} while answering"))

    def _put(self, event: Event | Exception) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the service ends
            self._ticket.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Watch:
    """Time per step and what came out, for the figures; it listens to the steps of one question."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._queued = time.perf_counter()
        self._found = self._first = 0.0
        self._steps: list[tuple[str, float]] = []

    def begin(self) -> None:
        waited("queue", time.perf_counter() - self._queued)

    def __call__(self, step: str, seconds: float) -> None:
        self._steps.append((step, seconds))

    def sources(self) -> None:
        self._found = time.perf_counter()

    def text(self) -> None:
        self._first = self._first or time.perf_counter()

    def end(self, answer: Answer) -> None:
        now = time.perf_counter()
        stages = self._metrics.stage_seconds
        for name, seconds in self._steps:
            stages.labels(name, answer.model).observe(seconds)
        if self._first:
            stages.labels("first_token", answer.model).observe(self._first - self._found)
        if answer.usage is not None:
            tokens = answer.usage.completion_tokens
            self._metrics.counts.labels("tokens", answer.model).inc(tokens)
            if tokens > 1 and self._first:
                stages.labels("token", answer.model).observe((now - self._first) / (tokens - 1))
        counted = {
            "answers": 1,
            "abstentions": answer.abstained,
            "unsupported_citations": sum(
                citation.support.verdict == "unsupported" for citation in answer.citations
            ),
            "dangling_markers": len(answer.dangling_markers),
        }
        for what, number in counted.items():
            self._metrics.counts.labels(what, answer.model).inc(number)
