"""The steps of one question: as OpenTelemetry spans, and for whoever else listens.

    with step("retrieve"):
        …

Spans go to OpenTelemetry's global provider, where a process has set one (`rag-owl serve` does with
`RAG_OWL_TRACES=otlp`, other programs do it themselves); without one a step is next to nothing. What
is said of a step are counts and the names of models: no text of a question or a document.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TypeAlias

Listener: TypeAlias = Callable[[str, float], None]  # (step, seconds)

_listener: ContextVar[Listener | None] = ContextVar("rag_owl_steps", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell it of every step that ends meanwhile in this context, in the thread of the step."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class step:  # noqa: N801, used as a statement
    """A step, in a `with`. attributes: plain numbers and names."""

    def __init__(self, name: str, **attributes: str | int | float | bool) -> None:
        self._name = name
        self._attributes = attributes
        self._span: Any = None

    def __enter__(self) -> Self:
        self._begun = time.perf_counter()
        tracer = _tracer()
        if tracer is not None:
            # Messages may quote what strangers wrote: `__exit__` keeps the error's kind alone.
            self._span = tracer.start_as_current_span(
                f"rag_owl.{self._name}",
                attributes=_named(self._attributes),
                record_exception=False,
                set_status_on_exception=False,
            )
            self._current = self._span.__enter__()
        return self

    def note(self, **attributes: str | int | float | bool) -> None:
        """What is known of the step by now."""
        if self._span is not None:
            self._current.set_attributes(_named(attributes))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._span is not None:
            if kind is not None:
                from opentelemetry.trace import StatusCode

                self._current.set_attribute("error.type", kind.__qualname__)
                self._current.set_status(StatusCode.ERROR)
            self._span.__exit__(kind, error, trace)
        _tell(self._name, time.perf_counter() - self._begun)


def waited(name: str, seconds: float) -> None:
    """A step that is over: it ends now, and began so many seconds ago."""
    tracer = _tracer()
    if tracer is not None:
        now = time.time_ns()
        span = tracer.start_span(f"rag_owl.{name}", start_time=now - int(seconds * 1e9))
        span.end(now)
    _tell(name, seconds)


def _tell(name: str, seconds: float) -> None:
    listener = _listener.get()
    if listener is not None:
        listener(name, seconds)


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"rag_owl.{name}": value for name, value in attributes.items()}


def _tracer() -> Any:
    """None where nobody has asked for traces: nothing of OpenTelemetry is imported for that."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace.get_tracer("rag_owl")
