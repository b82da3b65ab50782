"""A request's body: no more of it than the path may take, and not for ever."""

from __future__ import annotations

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

_SLOWEST = 16 * 1024  # bytes a second that a body comes with, once its grace is used up


class Body:
    """A `receive` of which no more comes than `most` bytes, and none that only drips.

    Only the time counts that we wait for the client: a slow disk of ours is not its fault.
    Raises Starlette's `HTTPException`, which FastAPI lets through where it reads a body.
    """

    def __init__(self, receive: Receive, most: int, seconds: float, declared: str) -> None:
        """seconds: of waiting that every body is granted. declared: its `Content-Length`."""
        self._receive = receive
        self._most = most
        self._seconds = seconds
        # Sent with its length, it is refused before anything of it is read.
        self._too_long = declared.isdecimal() and int(declared[:20]) > most
        self._got = 0
        self._waited = 0.0
        self._complete = False

    async def __call__(self) -> Message:
        if self._too_long:
            raise self._too_large()
        if self._complete:  # what comes now is that the client has gone
            return await self._receive()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds + self._got / _SLOWEST - self._waited):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, "the body of the request comes too slowly, or has fallen silent; send it again"
            ) from None
        self._waited += time.monotonic() - begun
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._got > self._most:
                raise self._too_large()
        return message

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request is larger than the limit of {self._most:,} bytes")
