"""A model server on loopback that speaks OpenAI's chat completions, and fails on request.

What answers is a function of the test: it reads the request as a real server would and says what
is sent, byte by byte if need be.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

KEY = "sk-a-secret-of-the-tests"
MODEL = "tiny"


@dataclass
class Send:
    """A reply: its status, its headers, and its body in pieces."""

    body: Sequence[bytes | float | None] = ()  # a number: seconds to wait; None: hang up
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})


def event(data: Any) -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def delta(finish_reason: str | None = None, **said: Any) -> bytes:
    choice = {"index": 0, "delta": said, "finish_reason": finish_reason}
    return event({"id": "x", "object": "chat.completion.chunk", "choices": [choice]})


def streamed(*pieces: str, reason: str = "stop", usage: tuple[Any, Any] | None = (40, 7)) -> Send:
    """A whole answer, as vLLM and OpenAI stream it."""
    body = [delta(role="assistant", content="")]
    body += [delta(content=piece) for piece in pieces]
    body.append(delta(reason))
    if usage:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        body.append(event({"choices": [], "usage": counts}))
    return Send([*body, event("[DONE]")])


def error(status: int, message: str, **headers: str) -> Send:
    body = json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()
    return Send([body], status, {"Content-Type": "application/json", **headers})


class ModelServer:
    """Use it in a `with`. `requests` are the bodies that came, in order."""

    def __init__(self, *replies: Send | Callable[[dict[str, Any]], Send]) -> None:
        """Each reply answers one request; the last answers all further ones."""
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.gone = threading.Event()  # a client has hung up before the end
        self._replies = list(replies)
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        reply = self._reply(handler, json.loads(raw))
        try:
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for piece in _pieces(reply):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                handler.wfile.flush()
            handler.wfile.write(b"0\r\n\r\n")
        except (ConnectionError, TimeoutError):
            self.gone.set()
            handler.close_connection = True
        except _HangUp:
            handler.close_connection = True

    def _reply(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> Send:
        with self._lock:
            self.requests.append(request)
            self.times.append(time.monotonic())
            reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if handler.headers.get("Authorization") != f"Bearer {KEY}":
            given = handler.headers.get("Authorization")
            return error(401, f"Incorrect API key provided: {given}")
        if handler.path != "/v1/chat/completions":
            return error(404, f"no such path: {handler.path}")
        if request.get("model") != MODEL:
            return error(404, f"The model `{request.get('model')}` does not exist.")
        return reply if isinstance(reply, Send) else reply(request)


class _HangUp(Exception):
    pass


def _pieces(reply: Send) -> Iterator[bytes]:
    for piece in reply.body:
        if piece is None:
            raise _HangUp
        if isinstance(piece, bytes):
            yield piece
        else:
            time.sleep(piece)
