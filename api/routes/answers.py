"""Questions and their answers: asked, streamed, shown again, asked again, rated, saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rag_owl import db
from rag_owl.api import answer_html, answering, data_urls, heatmaps, paging, sse, wire
from rag_owl.api.answer_schemas import (
    Answer,
    Answerer,
    Ask,
    Rate,
    Replay,
    Replayed,
    WholeAnswer,
    plain_schema,
)
from rag_owl.api.answering import Asked, OnSources, OnText
from rag_owl.api.deps import MayAsk, Options, Owl, The, Who
from rag_owl.api.errors import Problem
from rag_owl.api.paging import Cursor, Limit
from rag_owl.api.responses import problems
from rag_owl.api.schemas import Listed, Page
from rag_owl.changes import changes
from rag_owl.client import RagOwl
from rag_owl.errors import ModelNotFound
from rag_owl.model import registry
from rag_owl.settings import Settings
from rag_owl.store import answers, collections
from rag_owl.store.names import is_storable
from rag_owl.types import Answer as AnswerValue
from rag_owl.types import Retrieved

M = TypeVar("M", bound=BaseModel)

router = APIRouter(prefix="/v1/answers", tags=["answers"], dependencies=[MayAsk])
answerers = APIRouter(prefix="/v1/answerers", tags=["answers"], dependencies=[MayAsk])

AnswerId = Annotated[str, Path(max_length=64, description="The answer's id.")]
_ASK = plain_schema(Ask)
_FILE = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": _ASK},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["request"],
                "properties": {
                    "request": _ASK,
                    "images": {"type": "array", "items": _FILE},
                    "video": _FILE,
                },
                "additionalProperties": False,
            },
            "encoding": {"request": {"contentType": "application/json"}},
        },
    },
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream` the events `retrieved`, `text`…, `citation`…, "
        "`done` or `error`.",
        "content": {"text/event-stream": {}},
    },
    **problems(404, 415, 502, 504),
}


@answerers.get("", response_model=Listed[Answerer], responses=problems())
def list_answerers(settings: Options) -> dict[str, Any]:
    """The models that may be asked, the default first."""
    default = answering.default(settings)
    return {
        "data": [{"name": name, "default": name == default} for name in answering.names(settings)]
    }


@router.post(
    "",
    response_model=WholeAnswer,
    responses=_STREAM,
    openapi_extra={"requestBody": _BODY},
)
async def ask(request: Request, owl: Owl, state: The, who: Who) -> Response:
    """Answer from the collection alone, with the exact evidence.

    JSON with pictures and a film as data URLs, or multipart: a part `request` with that JSON, any
    number of parts `images`, one part `video`.
    """
    wanted, images, video = await _read(request, state.settings)
    model = answering.resolve(state.settings, wanted.model)
    answering.check_budget(state.settings, wanted.budget)
    shown: list[Retrieved] = []

    def work(on_text: OnText, on_sources: OnSources) -> AnswerValue:
        return owl.ask(
            wanted.collection,
            wanted.question,
            images,
            wanted.filters,
            wanted.k,
            model,
            on_text,
            video,
            conversation_id=wanted.conversation_id,
            exclude_items=wanted.exclude_items,
            max_tokens=wanted.max_tokens,
            seed=wanted.seed,
            budget=wanted.budget,
            on_sources=keeping(shown, on_sources),
            asked_by=who.key_id,
            verify=wanted.verify,
            require_support=wanted.require_support,
        )

    def whole(answer: AnswerValue) -> dict[str, Any]:
        return wire.whole_answer(answer, shown)

    asked = Asked(state, model, work)
    if not wanted.stream:
        return JSONResponse(whole(await asked.result(request)))
    await asked.begin(request)
    request_id = getattr(request.state, "request_id", "")
    return EventSourceResponse(
        sse.answer_events(asked, whole, request_id),
        ping=sse.PING,
        shutdown_grace_period=state.settings.shutdown_seconds,
    )


@router.get("", response_model=Page[Answer], responses=problems(404))
def list_answers(
    owl: Owl,
    collection: Annotated[
        str | None, Query(max_length=63, description="Of this collection alone.")
    ] = None,
    conversation_id: Annotated[
        str | None, Query(max_length=64, description="Of this conversation alone.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """The newest first, without what the model was shown."""
    place = paging.read(cursor, float, str)
    if conversation_id is not None and not is_storable(conversation_id):
        conversation_id = ""  # there can be none
    with db.reading(owl.engine) as session:
        if collection is not None:
            collections.get(session, collection)
        found = answers.list_page(
            session,
            limit + 1,
            collection=collection,
            conversation_id=conversation_id,
            before=(place[0], place[1]) if place else None,
        )
    return paging.page(
        found, limit, wire.answer, lambda each: paging.write(float(each.created_at), each.id)
    )


@router.get("/{answer_id}", response_model=WholeAnswer, responses=problems(404))
def get_answer(answer_id: AnswerId, owl: Owl) -> dict[str, Any]:
    """As it was given, with its evidence."""
    return wire.whole_answer(owl.answer(answer_id), owl.sources(answer_id))


@router.post(
    "/{answer_id}/replay",
    response_model=Replayed,
    responses=problems(404, 502, 504),
)
async def replay_answer(
    answer_id: AnswerId,
    request: Request,
    owl: Owl,
    state: The,
    who: Who,
    wanted: Replay | None = None,
) -> Response:
    """Ask again, perhaps without some items or of another model; says what is different.

    The answer comes from what is stored now, and is a new one.
    """
    wanted = wanted or Replay(exclude_items=None, model=None)
    before = await run_in_threadpool(owl.answer, answer_id)
    model = await run_in_threadpool(_model_again, owl, state.settings, answer_id, wanted.model)
    shown: list[Retrieved] = []

    def work(on_text: OnText, on_sources: OnSources) -> AnswerValue:
        return owl.replay(
            answer_id,
            exclude_items=wanted.exclude_items,
            model=model,
            on_text=on_text,
            on_sources=keeping(shown, on_sources),
            asked_by=who.key_id,
        )

    now = await Asked(state, model, work).result(request)
    return JSONResponse({**wire.whole_answer(now, shown), "changes": changes(before, now)})


@router.post("/{answer_id}/rating", response_model=Answer, responses=problems(404))
def rate_answer(answer_id: AnswerId, wanted: Rate, owl: Owl) -> dict[str, Any]:
    """-1, 0 or 1, and a comment; the last one counts."""
    return wire.answer(owl.rate(answer_id, wanted.rating, wanted.comment))


@router.get(
    "/{answer_id}/html",
    response_class=Response,
    responses={
        200: {"description": "The file.", "content": {"text/html": {}}},
        **problems(404),
    },
)
def save_answer(answer_id: AnswerId, owl: Owl) -> Response:
    """The answer with its evidence as one file that needs nothing else and runs no script."""
    page = answer_html.write(owl.answer(answer_id), owl.sources(answer_id), owl.blobs)
    return Response(
        page,
        media_type="text/html; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="answer-{answer_id}.html"',
            "Content-Security-Policy": answer_html.POLICY,
        },
    )


@router.get(
    "/{answer_id}/citations/{n}/heatmap",
    response_class=Response,
    responses={
        200: {
            "description": "A transparent picture to be laid over the item's.",
            "content": {"image/png": {"schema": _FILE}},
        },
        **problems(404),
    },
)
async def get_heatmap(
    answer_id: AnswerId,
    n: Annotated[int, Path(ge=0, le=10_000, description="Citations count from 0.")],
    request: Request,
    owl: Owl,
    state: The,
) -> Response:
    """Where in the item's picture the model looked while it read that item."""
    picture = await heatmaps.of(request, state, owl, answer_id, n)
    return Response(picture, media_type="image/png")


# --- what comes in ----------------------------------------------------------------------------


async def _read(request: Request, settings: Settings) -> tuple[Ask, list[bytes], bytes | None]:
    """The question, its pictures and its film. Raises `Problem`, `RequestValidationError`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, settings)
    if kind != "application/json":
        raise Problem(415, "send application/json or multipart/form-data", "Content-Type")
    wanted = parse(Ask, await request.body())
    return await run_in_threadpool(_media_of, wanted, settings)


def _media_of(wanted: Ask, settings: Settings) -> tuple[Ask, list[bytes], bytes | None]:
    images = data_urls.read_pictures(wanted.images, settings.question_pictures)
    video = data_urls.read(wanted.video, "video") if wanted.video is not None else None
    return wanted, images, video


async def _read_form(request: Request, settings: Settings) -> tuple[Ask, list[bytes], bytes | None]:
    try:
        # A part that is text is held in memory: the parser stops where it becomes too large.
        form = await request.form(
            max_files=settings.question_pictures + 2,
            max_fields=2,
            max_part_size=settings.max_request_bytes,
        )
    except HTTPException as error:
        raise _too_large(settings) if "maximum size" in error.detail else error from None
    try:
        return await _of_form(form, settings)
    finally:
        await form.close()


def _too_large(settings: Settings) -> Problem:
    most = settings.max_request_bytes
    return Problem(413, f"request: larger than the limit of {most:,} bytes", "request")


async def _of_form(form: FormData, settings: Settings) -> tuple[Ask, list[bytes], bytes | None]:
    most = settings.question_pictures
    for name in form:
        if name not in ("request", "images", "video"):
            raise Problem(
                422, f"{name[:100]}: unknown part; send `request`, `images`, `video`", name
            )
    described = form.getlist("request")
    if len(described) != 1:
        raise Problem(422, "request: give one part with the question as JSON", "request")
    given = described[0]  # a browser's Blob comes as a file
    if not isinstance(given, str) and (given.size or 0) > settings.max_request_bytes:
        raise _too_large(settings)
    text = given.encode("utf-8", "replace") if isinstance(given, str) else await given.read()
    wanted = parse(Ask, text)
    files = form.getlist("images")
    if len(files) + len(wanted.images) > most:
        raise Problem(422, f"images: at most {most} at once", "images")
    images = []
    for at, file in enumerate(files):
        if isinstance(file, str):
            raise Problem(422, f"images.{at}: send a file", f"images.{at}")
        images.append(await file.read())
    films = form.getlist("video")
    if len(films) > 1 or any(isinstance(film, str) for film in films):
        raise Problem(422, "video: send one file", "video")
    video = await films[0].read() if films and not isinstance(films[0], str) else None
    wanted, inline, inline_video = await run_in_threadpool(_media_of, wanted, settings)
    if video is not None and inline_video is not None:
        raise Problem(422, "video: given twice", "video")
    return wanted, [*inline, *images], video if video is not None else inline_video


def parse(model: type[M], body: bytes) -> M:
    """Raises `RequestValidationError` as FastAPI would."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise validation(error) from None


def validation(error: ValidationError) -> RequestValidationError:
    found = error.errors(include_url=False, include_input=False)
    return RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found])


# --- helpers ------------------------------------------------------------------------------------


def keeping(shown: list[Retrieved], on_sources: OnSources) -> OnSources:
    def keep(found: Sequence[Retrieved]) -> None:
        shown.extend(found)
        on_sources(found)

    return keep


def _model_again(owl: RagOwl, settings: Settings, answer_id: str, given: str | None) -> str | None:
    """The model to be asked again: one that is still registered. Raises `ModelNotFound`."""
    if given is not None:
        return answering.resolve(settings, given)
    with db.reading(owl.engine) as session:
        first = answers.question_of(session, answer_id).model
    if first is None or first == settings.model:
        return None
    try:
        return answering.resolve(settings, first)
    except ModelNotFound:  # it may be a folder, asked on the command line: the operator's business
        raise ModelNotFound(
            f"the model of that answer, {registry.called(first)}, is not asked here; name one of "
            f"{', '.join(answering.names(settings))}"
        ) from None
