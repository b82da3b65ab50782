"""What routes ask for: the opened system as the caller may see it, the caller, the lane."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Query, Request, Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from rag_owl.api import auth
from rag_owl.api.auth import Caller
from rag_owl.api.errors import Problem
from rag_owl.api.state import State
from rag_owl.client import RagOwl
from rag_owl.errors import Cancelled, InvalidFilter
from rag_owl.lane import Lane, Ticket
from rag_owl.settings import Settings
from rag_owl.store import filters

T = TypeVar("T")

# For the OpenAPI document alone; `get_caller` reads the header itself.
_scheme = HTTPBearer(auto_error=False, description="A key: `owl_…`", scheme_name="key")


# Dependencies that only look something up are `async`: FastAPI would send each of the others
# through a thread of its own, which takes long while a model computes.


async def get_state(request: Request) -> State:
    return cast(State, request.app.state.rag_owl)


async def get_settings(state: Annotated[State, Depends(get_state)]) -> Settings:
    return state.settings


async def get_caller(
    request: Request,
    state: Annotated[State, Depends(get_state)],
    _: Annotated[Any, Security(_scheme)],
) -> Caller:
    """Raises `Problem` 401 and, where the key asks too often, 429."""
    known: Caller | None = getattr(request.state, "caller", None)
    return known or await identify(request, state)


async def identify(request: Request, state: State) -> Caller:
    """As `get_caller`, for what stands before the routes."""
    given = request.headers.get("authorization")
    caller = await run_in_threadpool(auth.identify, state.owl.engine, state.settings, given)
    if caller.key_id is not None:
        request.state.key_id = caller.key_id  # for the log
        await state.rates.check_key(caller.key_id)
    return caller


Who = Annotated[Caller, Depends(get_caller)]


async def get_owl(state: Annotated[State, Depends(get_state)], who: Who) -> RagOwl:
    """The opened system, in which only the caller's collections exist."""
    return state.owl.limited_to(who.collections)


The = Annotated[State, Depends(get_state)]
Owl = Annotated[RagOwl, Depends(get_owl)]
Options = Annotated[Settings, Depends(get_settings)]


def need(scope: str) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency: `Who` with this scope. `admin` holds the others."""

    async def check(who: Who) -> Caller:
        if not who.may(scope):
            raise Problem(403, f"this key lacks the scope {scope!r}", "Authorization")
        return who

    return check


MayAsk = Depends(need("ask"))
MayIngest = Depends(need("ingest"))
MayAdmin = Depends(need("admin"))


async def on_lane(request: Request, lane: Lane, work: Callable[[Ticket[T]], T]) -> T:
    """The work's result. A client that goes away meanwhile frees its place.

    To be called when the request's body has been read.
    Raises `Busy` at once when the queue is full, `Cancelled`, and what the work raises.
    """
    ticket = lane.submit(work)
    result = asyncio.wrap_future(ticket.future)
    gone = asyncio.create_task(_disconnected(request))
    try:
        both: set[asyncio.Future[Any]] = {result, gone}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise Cancelled("the client has gone away")
    finally:
        gone.cancel()
        if not result.done():
            ticket.cancel()
            result.add_done_callback(_forget)  # its exception is nobody's any more


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def read_filter(
    filter: Annotated[
        str | None,
        Query(
            max_length=5_000,
            description="A metadata filter as JSON.",
            examples=['{"field": "year", "op": ">=", "value": 1990}'],
        ),
    ] = None,
) -> dict[str, Any] | None:
    """The query's `filter`, parsed and checked. Raises `Problem` 422."""
    if filter is None:
        return None
    try:
        parsed = json.loads(filter)
        filters.check(parsed)
    except RecursionError:
        raise Problem(422, "filter: nested too deep", "filter") from None
    except InvalidFilter as error:
        raise Problem(422, str(error), "filter") from error
    except ValueError as error:
        raise Problem(422, f"filter: not JSON: {error}", "filter") from error
    return cast(dict[str, Any], parsed)


Filter = Annotated[dict[str, Any] | None, Depends(read_filter)]
