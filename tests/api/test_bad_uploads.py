"""Uploads as strangers send them, and bytes on a socket that are no request."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from tests.service import PATIENCE, opened, problem, running, upload

DOCUMENTS = "/v1/collections/owls/documents"


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[TestClient]:
    limits = {"max_upload_bytes": 2_000_000, "max_upload_files": 5}
    with running(tmp_path_factory.mktemp("bad") / "data", **limits) as opened_client:
        yield opened_client


@pytest.mark.parametrize(
    ("given", "kept"),
    [("../../../etc/cron.d/owl.txt", "owl.txt"), ("..\\..\\owl.txt", "owl.txt"),
     ("/etc/owl.txt", "owl.txt"), ("C:\\owl.txt", "owl.txt"), (".owl.txt", "owl.txt"),
     ("\u202etxt.lwo", "txt.lwo")],
)  # fmt: skip
def test_path_tricks_in_names(client: TestClient, given: str, kept: str) -> None:
    sent = client.post("/v1/collections/tricks/documents", files={"files": (given, b"An owl.")})
    assert sent.status_code == 202
    assert sent.json()["documents"][0]["name"] == kept
    folder = opened(client).folder
    strange = [path for path in folder.parent.iterdir() if path != folder]
    assert strange == []


def test_names_twice_in_one_upload(client: TestClient) -> None:
    files = [("files", ("a/owl.txt", b"one")), ("files", ("b/owl.txt", b"two"))]
    assert "'owl.txt'" in problem(client.post(DOCUMENTS, files=files), 422, "files")["detail"]


@pytest.mark.parametrize(
    ("parts", "status", "field"),
    [
        ([("metadata", (None, "{}"))], 422, "files"),
        ([("file", ("a.txt", b"a"))], 422, "file"),
        ([("files", (None, "words"))], 422, "files"),
        ([("files", ("a.txt", b"a")), ("metadata", (None, "{"))], 422, "metadata"),
        ([("files", ("a.txt", b"a")), ("metadata", (None, "[1]"))], 422, "metadata"),
        ([("files", ("a.txt", b"a")), ("metadata", (None, '{"a": "\\u0000"}'))], 422, "metadata"),
        ([("files", ("a.txt", b"a")), ("metadata", (None, '{"a": "\\ud800"}'))], 422, "metadata"),
        ([("files", ("a.txt", b"a")), ("metadata", (None, '{"a": NaN}'))], 422, "metadata"),
        ([("files", ("a.txt", b"a")), *[("metadata", (None, "{}"))] * 2], 422, "metadata"),
        ([("files", (f"{n}.txt", b"a")) for n in range(6)], 413, "files"),
        ([("files", ("a.txt", b"x" * 2_100_000))], 413, "body"),
    ],
)
def test_forms_that_are_none(
    client: TestClient, parts: list[Any], status: int, field: str | None
) -> None:
    problem(client.post(DOCUMENTS, files=parts), status, field)
    assert no_uploads(client)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        b"--x\r\n",
        b"--x\r\nContent-Disposition: form-data; name=files; filename=a.txt\r\n\r\nhalf",
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\na\r\n--y--\r\n',
        b"--x\r\n" + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n\r\n--x--\r\n",
    ],
)
def test_bodies_that_are_no_form(client: TestClient, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post(DOCUMENTS, content=body, headers=headers)
    problem(answer, 400, "body")
    assert no_uploads(client)


def test_what_breaks_off_leaves_nothing(client: TestClient) -> None:
    before = client.get("/v1/jobs").json()["data"]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    half = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhalf'
    problem(client.post(DOCUMENTS, content=half, headers=headers), 400, "body")
    assert no_uploads(client)
    assert client.get("/v1/jobs").json()["data"] == before


def no_uploads(client: TestClient) -> bool:
    """Jobs of other tests may be reading theirs; none is there that has no job."""
    wanted = set()
    for job in client.get("/v1/jobs").json()["data"]:
        if job["state"] in ("queued", "running"):
            wanted.add(job["id"])
    folder = opened(client).folder / "uploads"
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if not folder.exists() or not list(folder.iterdir()):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"url": "https://example.org/x"}, 403, "url"),
        ({"url": 5}, 422, "url"),
        ({}, 422, "url"),
        ({"url": "x" * 2_001}, 422, "url"),
        ({"url": "https://example.org/x", "metadata": []}, 422, "metadata"),
        ({"url": "https://example.org/x", "more": 1}, 422, "more"),
    ],
)
def test_documents_by_url_are_off(client: TestClient, body: Any, status: int, field: str) -> None:
    problem(client.post(DOCUMENTS, json=body), status, field)


def test_documents_by_url_never_lead_inwards(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running(tmp_path_factory.mktemp("url") / "data", allow_url_ingest=True) as client:
        for url in (
            "http://127.0.0.1/",
            "http://localhost:80/",
            "file:///etc/passwd",
            "http://169.254.169.254/latest/meta-data/",
            "http://[::ffff:10.0.0.1]/",
        ):
            answer = client.post("/v1/collections/a/documents", json={"url": url})
            problem(answer, 422, "url")
        assert no_uploads(client)


# --- over a real connection -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(client: TestClient) -> Iterator[tuple[str, int]]:
    """The same service behind uvicorn, for what only bytes on a socket can say."""
    config = uvicorn.Config(client.app, "127.0.0.1", 0, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()
    server.should_exit = True
    thread.join(PATIENCE)


def test_a_chunked_upload_that_stops_half_way(client: TestClient, address: tuple[str, int]) -> None:
    before = len(client.get("/v1/jobs").json()["data"])
    for ending in (b"", b"zz\r\n", b"0\r\n\r\n"):  # gone, no chunk, ended too early
        with socket.create_connection(address, PATIENCE) as raw:
            raw.sendall(
                b"POST /v1/collections/owls/documents HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n"
                b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            )
            part = (
                b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n'
                b"half of it"
            )
            raw.sendall(b"%x\r\n%s\r\n" % (len(part), part) + ending)
            if not ending:
                raw.shutdown(socket.SHUT_WR)
            answer = raw.makefile("rb").readline()
            assert not answer or b" 400 " in answer, answer
    assert no_uploads(client)
    assert len(client.get("/v1/jobs").json()["data"]) == before
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",  # no Host
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.org\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"OWL / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/collections HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/collections HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    ],
)
def test_requests_that_are_none(address: tuple[str, int], lines: bytes) -> None:
    status = b""
    with (
        socket.create_connection(address, PATIENCE) as raw,
        suppress(OSError),  # it may hang up before all of it is sent
    ):
        raw.sendall(lines)
        raw.shutdown(socket.SHUT_WR)
        status = raw.makefile("rb").readline()
    assert not status or int(status.split()[1]) < 500
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    connection.request("GET", "/healthz", headers={"Host": "localhost"})
    assert connection.getresponse().status == 200  # it lives on


def test_nothing_sent_becomes_a_header(client: TestClient) -> None:
    evil = "x%0d%0aSet-Cookie:%20a=b"
    for url in (f"/v1/jobs?cursor={evil}", f"/v1/collections/{evil}", f"/{evil}"):
        answer = client.get(url)
        assert "set-cookie" not in answer.headers
        assert answer.status_code in (404, 422)
    name = 'a"; filename="evil.exe\r\nX-Evil: 1.txt'
    upload(client, "named", {name: b"An owl."})
    (document,) = client.get("/v1/collections/named/documents").json()["data"]
    url = f"/v1/collections/named/documents/{document['id']}/content"
    headers = client.get(url).headers
    assert "x-evil" not in headers
    assert "\r" not in headers["content-disposition"]


def test_metadata_that_no_answer_could_show(client: TestClient) -> None:
    deep = '{"a":' + "[" * 400 + "]" * 400 + "}"
    sent = client.post(DOCUMENTS, data={"metadata": deep}, files={"files": ("deep.txt", b"words")})
    problem(sent, 422, "metadata")


def test_a_refused_upload_makes_no_collection(client: TestClient) -> None:
    assert client.post("/v1/collections/unmade/documents", json={"url": "http://x/"}).is_error
    problem(client.get("/v1/collections/unmade"), 404)
