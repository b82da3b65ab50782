"""OpenAI's chat completions over a collection: its official clients work unchanged."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import chain
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from rag_owl import db
from rag_owl.api import answering, chat_form, errors, paging, sse
from rag_owl.api.answer_schemas import plain_schema
from rag_owl.api.answering import Asked, OnSources, OnText
from rag_owl.api.chat_schemas import Completion
from rag_owl.api.deps import MayAsk, Owl, The, Who
from rag_owl.api.errors import Problem
from rag_owl.api.logs import get_logger
from rag_owl.api.paging import Cursor, Limit
from rag_owl.api.routes.answers import keeping, parse
from rag_owl.client import RagOwl
from rag_owl.errors import NotFound
from rag_owl.model.remote import ChatRequest, Chatting, RemoteAnswerer, ToolsCalled
from rag_owl.ports import Answerer
from rag_owl.settings import Settings
from rag_owl.store import collections
from rag_owl.types import Answer, Retrieved

log = get_logger(__name__)


class OpenAiRoute(APIRoute):
    """Whatever goes wrong in it is told in OpenAI's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            request_id = getattr(request.state, "request_id", "")
            try:
                return await handle(request)
            except Exception as error:
                return errors.respond(error, request_id, request.scope["path"])

        return handled


_ERROR = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    }
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": "In OpenAI's form.", **_ERROR}
    for status in (400, 401, 403, 404, 408, 413, 415, 421, 429, 500, 502, 503, 504, 507)
}

router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    route_class=OpenAiRoute,
    dependencies=[MayAsk],
    responses=_RESPONSES,
)


@router.get("/models")
def list_models(
    owl: Owl, state: The, limit: Limit = paging.MOST_PER_PAGE, cursor: Cursor = None
) -> dict[str, Any]:
    """`<collection>`, and `<collection>@<answerer>` for each answerer, by collection.

    OpenAI's clients ask for one page; `limit` counts collections.
    """
    place = paging.read(cursor, str)
    names = answering.names(state.settings)
    with db.reading(owl.engine) as session:
        known = collections.names_page(session, place[0] if place else "", limit + 1)

    def models(collection: str) -> list[dict[str, Any]]:
        return [_model(collection), *(_model(f"{collection}@{name}") for name in names)]

    found = paging.page(known, limit, models, paging.write)
    return {**found, "object": "list", "data": list(chain.from_iterable(found["data"]))}


@router.get("/models/{model}")
def get_model(model: str, owl: Owl, state: The) -> dict[str, Any]:
    collection, _, name = model.partition("@")
    answering.resolve(state.settings, name or None)
    _check_collection(owl, collection)
    return _model(model)


@router.post(
    "/chat/completions",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": plain_schema(Completion)}},
        }
    },
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def complete_chat(request: Request, owl: Owl, state: The, who: Who) -> Response:
    """Answer the last message of the user from the collection that `model` names.

    Citations are in the message's `annotations` and, complete, in `citations`; the whole answer is
    in `answer`. Tools and system messages reach remote models alone.
    """
    sent = parse(Completion, await request.body())
    asked = await run_in_threadpool(chat_form.understand, sent, state.settings.question_pictures)
    model = answering.resolve(state.settings, asked.model)
    answering.check_budget(state.settings, sent.budget)
    await run_in_threadpool(_check_collection, owl, asked.collection)
    wrap = _wrap(sent, asked, state.settings, model)
    limit = sent.max_completion_tokens or sent.max_tokens
    shown: list[Retrieved] = []

    def work(on_text: OnText, on_sources: OnSources) -> Answer:
        last = len(asked.turns) - 2  # only the turn before the question is looked at again
        before = asked.turns[last].pictures if last >= 0 else []
        return owl.ask(
            asked.collection,
            asked.question.text,
            asked.question.pictures,
            sent.filters,
            sent.k,
            model,
            on_text,
            exclude_items=sent.exclude_items,
            max_tokens=limit,
            seed=sent.seed,
            budget=sent.budget,
            verify=sent.verify,
            require_support=sent.require_support,
            on_sources=keeping(shown, on_sources),
            asked_by=who.key_id,
            history=asked.history({last: owl.keep_pictures(before)}),
            wrap=wrap,
        )

    base = str(request.base_url)
    running = Asked(state, model, work)
    if sent.stream:
        await running.begin(request)
        usage = bool(sent.stream_options and sent.stream_options.include_usage)
        events = _Chunks(request, sent.model, base, limit, usage, shown)
        return EventSourceResponse(
            events.of(running),
            ping=sse.PING,
            shutdown_grace_period=state.settings.shutdown_seconds,
        )
    try:
        answer = await running.result(request)
    except ToolsCalled as call:
        return JSONResponse(
            chat_form.called(
                uuid.uuid4().hex,
                int(time.time()),
                sent.model,
                call.draft.text,
                call.calls,
                call.draft.usage,
            )
        )
    return JSONResponse(
        await run_in_threadpool(chat_form.completion, answer, shown, sent.model, base, limit)
    )


class _Chunks:
    """An answer as chunks of a stream."""

    def __init__(
        self,
        request: Request,
        model: str,
        base: str,
        limit: int | None,
        usage: bool,
        shown: list[Retrieved],
    ) -> None:
        self._request_id = getattr(request.state, "request_id", "")
        self._identity = uuid.uuid4().hex
        self._created = int(time.time())
        self._model = model
        self._base = base
        self._limit = limit
        self._usage = usage
        self._shown = shown

    async def of(self, running: Asked) -> AsyncIterator[ServerSentEvent]:
        try:
            yield self._chunk({"role": "assistant", "content": "", "refusal": None})
            async for kind, value in running.events():
                if kind == "text":
                    yield self._chunk({"content": value})
                elif kind == "answer":
                    for chunk in await run_in_threadpool(self._end, value):
                        yield chunk
        except ToolsCalled as call:
            for chunk in self._calls(call):
                yield chunk
        except Exception as error:
            problem = errors.problem_of(error, self._request_id)
            if problem.status >= 500:
                log.error("a streamed answer failed", error=str(error))
            yield _data(errors.openai_document(problem, self._request_id))
        yield ServerSentEvent(data="[DONE]")

    def _end(self, answer: Answer) -> list[ServerSentEvent]:
        whole = chat_form.completion(answer, self._shown, self._model, self._base, self._limit)
        choice = whole["choices"][0]
        end = self._chunk(
            {"annotations": choice["message"]["annotations"]},
            choice["finish_reason"],
            citations=whole["citations"],
            answer=whole["answer"],
        )
        return [end, self._chunk(None, usage=whole["usage"])] if self._usage else [end]

    def _calls(self, call: ToolsCalled) -> list[ServerSentEvent]:
        calls = [{"index": at, **each} for at, each in enumerate(call.calls)]
        chunks = [self._chunk({"tool_calls": calls}), self._chunk({}, "tool_calls")]
        if self._usage and call.draft.usage:
            usage = chat_form.usage_document(call.draft.usage)
            chunks.append(self._chunk(None, usage=usage))
        return chunks

    def _chunk(
        self, delta: dict[str, Any] | None, finish: str | None = None, **more: Any
    ) -> ServerSentEvent:
        return _data(
            chat_form.chunk(self._identity, self._created, self._model, delta, finish, **more)
        )


def _data(document: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(data=json.dumps(document, ensure_ascii=False))


def _wrap(
    sent: Completion, asked: chat_form.Asked, settings: Settings, model: str | None
) -> Callable[[Answerer], Answerer] | None:
    """Raises `Problem` 400 for tools that the model cannot be given."""
    remote = (model or settings.model) in settings.remote_models
    used = bool(sent.tools) or any(message.role == "tool" for message in sent.messages)
    if not remote:
        if used:
            raise Problem(
                400,
                f"tools: {model or answering.default(settings)} calls no tools; name a remote "
                "model, as in <collection>@<model>",
                "tools",
            )
        return None
    request = ChatRequest(asked.system, sent.tools or (), sent.tool_choice, asked.question.since)

    def wrap(answerer: Answerer) -> Answerer:
        assert isinstance(answerer, RemoteAnswerer)
        return Chatting(answerer, request)

    return wrap


def _check_collection(owl: RagOwl, name: str) -> None:
    """Raises `Problem` 404 about the field `model`, which names it here."""
    try:
        with db.reading(owl.engine) as session:
            collections.get(session, name)
    except NotFound as error:
        raise Problem(404, str(error), "model") from error


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rag-owl"}
