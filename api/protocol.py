"""uvicorn's HTTP protocol with a time limit for what comes before a body: the headers.

What is no request gets a problem document, as all errors do.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_BYTES = 128 * 1024  # of a request's first line and headers
HEADER_SECONDS = 20.0  # until a connection has sent the headers of its next request


class TimedProtocol(H11Protocol):
    """Hangs up on connections that send nothing, or headers that never end.

    uvicorn itself does so only between two requests, and only while nothing at all comes.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # answered already
            self.transport.close()
            return
        detail = f"no valid HTTP, or more than {HEADER_BYTES:,} bytes before the body"
        body = json.dumps({"type": "about:blank", "title": "Bad Request", "status": 400,
                           "detail": detail, "field": None}).encode()  # fmt: skip
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        self.transport.write(self.conn.send(response) or b"")
        # In the answer to a HEAD request h11 lets no body through.
        if self.scope is None or self.scope["method"] != "HEAD":
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
        self.transport.close()

    def _begin(self) -> None:
        self._end()
        self._late = self.loop.call_later(HEADER_SECONDS, self._hang_up)

    def _end(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _hang_up(self) -> None:
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self.timeout_keep_alive_handler()
