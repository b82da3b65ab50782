"""Answers as server-sent events, in the order that is promised: see docs/http.md."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from sse_starlette import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from rag_owl.api import errors, wire
from rag_owl.api.answering import Asked
from rag_owl.api.logs import get_logger
from rag_owl.types import Answer

log = get_logger(__name__)

PING = 15  # seconds between two signs of life, so that nobody on the way hangs up


def event(name: str, data: Any) -> ServerSentEvent:
    return ServerSentEvent(event=name, data=json.dumps(data, ensure_ascii=False))


async def answer_events(
    asked: Asked, whole: Callable[[Answer], dict[str, Any]], request_id: str
) -> AsyncIterator[ServerSentEvent]:
    """`retrieved`, `text`…, `citation`…, then `done` or, wherever it fails, `error`.

    whole: the finished answer as `done` carries it.
    """
    try:
        async for kind, value in asked.events():
            if kind == "retrieved":
                yield event("retrieved", {"data": wire.sources(value)})
            elif kind == "text":
                yield event("text", {"delta": value})
            else:
                document = await run_in_threadpool(whole, value)
                for citation in document["citations"]:
                    yield event("citation", citation)
                yield event("done", document)
    except Exception as error:
        problem = errors.problem_of(error, request_id)
        if problem.status >= 500:
            log.error("a streamed answer failed", error=str(error))
        yield event("error", errors.document(problem, request_id))
