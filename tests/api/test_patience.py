"""Who sends slowly, or too much at once: hung up on or told to come later, and in whose place."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from rag_owl.api import protocol, schemas
from rag_owl.lane import Lane, Ticket
from tests.service import PATIENCE, problem, running, upload

SEARCH = "/v1/collections/owls/search"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with running(
        tmp_path_factory.mktemp("patience"), waiting_questions=1, body_seconds=1.0
    ) as client:
        upload(client, "owls", {"elf.txt": b"The elf owl weighs 40 grams."})
        yield client


@contextmanager
def listening(app: Any, **more: Any) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="critical", **more)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            yield taken.getsockname()
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@contextmanager
def occupied(lane: Lane, threads: int) -> Iterator[None]:
    """Every thread of the lane works, and its queue is full."""
    leave = threading.Event()
    inside = threading.Semaphore(0)

    def work(_: Ticket[None]) -> None:
        inside.release()
        leave.wait(PATIENCE)

    tickets = [lane.submit(work) for _ in range(threads)]
    for _ in tickets:
        assert inside.acquire(timeout=PATIENCE)
    tickets.append(lane.submit(work))
    try:
        yield
    finally:
        leave.set()
        for each in tickets:
            each.future.result(PATIENCE)


def test_searches_beyond_the_queue_are_told_to_come_later(client: TestClient) -> None:
    lane: Lane = client.app.state.rag_owl.searching  # type: ignore[attr-defined]
    with occupied(lane, 2):
        refused = client.post(SEARCH, json={"query": "elf owl"})
        problem(refused, 503)
        assert int(refused.headers["retry-after"]) >= 1
        call = {"name": "search", "arguments": {"collection": "owls", "query": "elf"}}
        asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        accept = {"Accept": "application/json, text/event-stream"}
        assert "try again later" in client.post("/mcp", json=asked, headers=accept).text
        figures = client.get("/metrics").text
        assert 'rag_owl_lane{lane="search",state="waiting"} 1.0' in figures
        # Questions are not in their way, nor they in that of questions.
        body = {"collection": "owls", "question": "How much does the elf owl weigh?"}
        assert client.post("/v1/answers", json=body).status_code == 200
    found = client.post(SEARCH, json={"query": "elf owl"})
    assert found.json()["data"][0]["item"]["title"]


@pytest.mark.parametrize(
    ("path", "kind", "start"),
    [
        (SEARCH, b"application/json", b'{"query": "'),
        ("/v1/answers", b"application/json", b'{"collection": "owls", "question": "'),
        ("/v1/chat/completions", b"application/json", b'{"model": "owls", "messages": ['),
        ("/mcp", b"application/json", b'{"jsonrpc": "2.0", "id": 1, "method": "'),
        (
            "/v1/collections/owls/documents",
            b"multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n',
        ),
        (
            "/v1/answers",
            b"multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n{',
        ),
    ],
)
def test_a_body_that_drips_is_not_waited_for(
    client: TestClient, path: str, kind: bytes, start: bytes
) -> None:
    with (
        listening(client.app) as address,
        socket.create_connection(address, PATIENCE) as raw,
    ):
        raw.sendall(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n"
            b"Accept: application/json, text/event-stream\r\n"
            b"Content-Length: 100000\r\n\r\n%s" % (path.encode(), kind, start)
        )
        answer = drip(raw)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert b'"body"' in answer
    left = client.app.state.rag_owl.owl.folder / "uploads"  # type: ignore[attr-defined]
    assert not left.exists() or not list(left.iterdir())


def drip(raw: socket.socket) -> bytes:
    """A byte now and then, until somebody answers; then all that is said about it."""
    raw.settimeout(0.1)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            # Before the next byte: one that meets a closed door would take the answer with it.
            answer = raw.recv(65_536)
        except TimeoutError:
            raw.sendall(b"a")
            continue
        raw.settimeout(PATIENCE)
        while not answer.endswith(b"}") and (more := raw.recv(65_536)):
            answer += more  # until then, not until it hangs up, which takes seconds
        return answer
    raise AssertionError("it waits for ever")


def test_a_large_body_may_take_longer(client: TestClient) -> None:
    """Slowly, but with more than 16 KiB a second."""
    with (
        listening(client.app) as address,
        socket.create_connection(address, PATIENCE) as raw,
    ):
        body = b'{"query": "elf owl", "images": []' + b" " * 1_000_000 + b"}"
        sent = (
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (SEARCH.encode(), len(body))
        ) + body
        for at in range(0, len(sent), 250_000):
            raw.sendall(sent[at : at + 250_000])
            time.sleep(0.4)
        assert raw.makefile("rb").readline().startswith(b"HTTP/1.1 200")


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(1.8)
    await PlainTextResponse("owls")(scope, receive, send)


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX-Owl: "])
def test_headers_that_never_end_are_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 1.5)
    with (
        listening(slow, http=protocol.TimedProtocol, timeout_keep_alive=60) as address,
        socket.create_connection(address, PATIENCE) as raw,
    ):
        # An answer that takes longer than that is waited for.
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"owls" in _until(raw, lambda said: b"owls" in said)
        raw.sendall(start)
        assert _until(raw, lambda said: False) == b""  # gone, without a word


@pytest.mark.parametrize(
    "sent",
    [b"no request at all\r\n\r\n", b"GET /" + b"x" * protocol.HEADER_BYTES + b" HTTP/1.1\r\n"],
)
def test_what_is_no_request_is_told_so_as_all_errors_are(sent: bytes) -> None:
    with (
        listening(
            slow,
            http=protocol.TimedProtocol,
            h11_max_incomplete_event_size=protocol.HEADER_BYTES,
        ) as address,
        socket.create_connection(address, PATIENCE) as raw,
    ):
        raw.sendall(sent)
        head, _, body = _until(raw, lambda said: False).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head.lower()
    told = schemas.Problem.model_validate_json(body)
    assert told.status == 400
    assert "131,072 bytes" in told.detail


@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
def test_a_body_that_breaks_after_its_answer_is_no_error_of_ours(
    method: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def at_once(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no key", 401)(scope, receive, send)

    with (
        caplog.at_level(logging.ERROR, "asyncio"),
        listening(at_once, http=protocol.TimedProtocol) as address,
        socket.create_connection(address, PATIENCE) as raw,
    ):
        raw.sendall(method + b" / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 401 " in _until(raw, lambda said: b"\r\n\r\n" in said)
        raw.sendall(b"zz\r\n")
        _until(raw, lambda said: False)
    assert not caplog.records


def _until(raw: socket.socket, enough: Callable[[bytes], bool]) -> bytes:
    said = b""
    raw.settimeout(PATIENCE)
    while not enough(said) and (more := raw.recv(65_536)):
        said += more
    return said
