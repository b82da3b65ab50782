"""What strangers send: each kind with its status and a problem document that names the field."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from rag_owl.api import paging
from rag_owl.api.errors import Problem
from tests.service import PATIENCE, opened, png, problem, running, upload


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    limits = {"max_upload_bytes": 2_000_000, "max_upload_files": 5, "max_request_bytes": 2_000_000}
    with running(tmp_path_factory.mktemp("bad") / "data", **limits) as opened_client:
        upload(opened_client, "owls", {"owl.txt": b"The boreal owl nests in old holes."})
        yield opened_client


SEARCH = "/v1/collections/owls/search"
DOCUMENTS = "/v1/collections/owls/documents"


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": 3}, "query"),
        ({"query": None}, "query"),
        ({"query": ["owl"]}, "query"),
        ({"query": ""}, "question"),
        ({"query": "  \n "}, "question"),
        ({"query": "x" * 10_001}, "query"),
        ({"query": "nul\0"}, "query"),
        ({"query": "owl", "k": 0}, "k"),
        ({"query": "owl", "k": 401}, "k"),
        ({"query": "owl", "k": "5"}, "k"),
        ({"query": "owl", "k": 2.5}, "k"),
        ({"query": "owl", "k": True}, "k"),
        ({"query": "owl", "k": 10**30}, "k"),
        ({"query": "owl", "channels": []}, "channels"),
        ({"query": "owl", "channels": ["smell"]}, "channels.0"),
        ({"query": "owl", "unknown": 1}, "unknown"),
        ({"query": "owl", "images": "x"}, "images"),
        ({"query": "owl", "images": ["x"]}, "images.0"),
        ({"query": "owl", "images": ["http://127.0.0.1/x.png"]}, "images.0"),
        ({"query": "owl", "images": ["file:///etc/passwd"]}, "images.0"),
        ({"query": "owl", "images": ["/etc/passwd"]}, "images.0"),
        ({"query": "owl", "images": ["data:image/png;base64,@@@"]}, "images.0"),
        ({"query": "owl", "images": [data_url(b"no picture")]}, "images.0"),
        ({"query": "owl", "images": [data_url(png()[:60])]}, "images.0"),
        ({"query": "owl", "images": [data_url(bomb(60_000))]}, "images.0"),
        ({"query": "owl", "images": [data_url(png())] * 1_000}, "images"),
        ({"query": "owl", "filters": []}, "filters"),
        ({"query": "owl", "filters": {"field": "a"}}, "filters"),
        ({"query": "owl", "filters": {"field": "a", "op": "~", "value": 1}}, "filters"),
        ({"query": "owl", "filters": {"xor": []}}, "filters"),
        ({"query": "owl", "filters": {"field": "a", "op": "==", "value": {}}}, "filters"),
        ([], None),
        ("owl", None),
        (None, None),
    ],
)
def test_searches_that_can_be_none(client: TestClient, body: Any, field: str | None) -> None:
    found = problem(client.post(SEARCH, json=body), 422, field or "body")
    assert len(found["detail"]) < 2_100


@pytest.mark.parametrize(
    "text", ["{", "", "owl", '{"query": "owl"', '{"query": NaN}', "\xff", '{"query": 1e999}']
)
def test_what_is_no_json(client: TestClient, text: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post(SEARCH, content=text.encode("latin-1"), headers=headers)
    assert answer.status_code in (400, 422)
    assert problem(answer, answer.status_code, answer.json()["field"])["field"] in ("body", "query")


def test_json_nested_without_end(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    deep = '{"query": "owl", "filters": ' + '{"not":' * 100_000 + "1" + "}" * 100_001
    assert client.post(SEARCH, content=deep, headers=headers).status_code in (400, 422)
    answer = client.get(DOCUMENTS, params={"filter": "[" * 19_000})
    problem(answer, 422, "filter")


def test_lone_surrogates_and_huge_numbers_in_json(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    for text, field in (
        ('{"query": "\\ud800"}', "query"),
        ('{"query": "owl", "k": ' + "9" * 5_000 + "}", None),
        ('{"query": "owl", "filters": {"field": "\\ud800", "op": "==", "value": 1}}', "filters"),
    ):
        answer = client.post(SEARCH, content=text, headers=headers)
        assert answer.status_code in (400, 422), text[:80]
        assert field is None or answer.json()["field"].startswith(field)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "", "text/json"]
)
def test_the_wrong_content_type(client: TestClient, kind: str) -> None:
    body = json.dumps({"query": "owl"})
    answer = client.post(SEARCH, content=body, headers={"Content-Type": kind})
    problem(answer, 415, "Content-Type")
    answer = client.post(DOCUMENTS, content=body, headers={"Content-Type": kind})
    if "multipart" in kind:
        problem(answer, 400, "body")
    else:
        problem(answer, 415, "Content-Type")


def test_too_large_with_and_without_its_length(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"query": "'
        for _ in range(31):
            yield b"x" * 1_000_000
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    problem(client.post(SEARCH, content=endless(), headers=headers), 413, "body")
    problem(client.post(SEARCH, content=b"".join(endless()), headers=headers), 413, "body")


# --- names, cursors, filters in addresses ---------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["UPPER", "-dash", "_x", "a b", "a.b", "x" * 64, "ü", "..", "%2e%2e", "a%2fb", "a%00b",
     "'; DROP TABLE keys; --", "{name}", "<script>"],
)  # fmt: skip
def test_what_names_no_collection(client: TestClient, name: str) -> None:
    assert client.post("/v1/collections", json={"name": name}).status_code == 422
    for url in (f"/v1/collections/{name}", f"/v1/collections/{name}/items"):
        assert client.get(url).status_code in (404, 422), url
    made = client.post(f"/v1/collections/{name}/documents", files={"files": ("a.txt", b"a")})
    assert made.status_code in (404, 405, 422)
    assert all(info.name == "owls" for info in opened(client).collections())


def test_an_unknown_collection_is_named(client: TestClient) -> None:
    for method, url in (
        ("GET", "/v1/collections/eagles"),
        ("GET", "/v1/collections/eagles/documents"),
        ("GET", "/v1/collections/eagles/items/x/media"),
        ("DELETE", "/v1/collections/eagles/documents/x"),
    ):
        assert "'eagles'" in problem(client.request(method, url), 404)["detail"]
    answer = client.post("/v1/collections/eagles/search", json={"query": "x"})
    assert "'eagles'; there are: owls" in problem(answer, 404)["detail"]


@pytest.mark.parametrize(
    "cursor",
    ["x", "", "WzFd!", "....", "ü", "W10", "WzEsMl0", "WyJ4Il0", "Wy0xXQ", "WzEuNV0", "W3RydWVd",
     "W05hTl0", "bnVsbA", "WzkyMjMzNzIwMzY4NTQ3NzU4MDhd", "x" * 401],
)  # fmt: skip
def test_cursors_that_are_none_of_ours(client: TestClient, cursor: str) -> None:
    for url in (DOCUMENTS, "/v1/collections/owls/items"):
        problem(client.get(url, params={"cursor": cursor}), 422, "cursor")


def test_a_cursor_of_another_list(client: TestClient) -> None:
    problem(client.get("/v1/jobs", params={"cursor": paging.write(1)}), 422, "cursor")
    for wrong in (paging.write(float("nan"), "x"), paging.write(1.0, "x\0"), paging.write("x", 1)):
        problem(client.get("/v1/jobs", params={"cursor": wrong}), 422, "cursor")
    with pytest.raises(Problem):
        paging.read("x", int)


@pytest.mark.parametrize("limit", ["0", "-1", "201", "x", "1e3", "", "9" * 30])
def test_limits_of_a_page(client: TestClient, limit: str) -> None:
    problem(client.get(DOCUMENTS, params={"limit": limit}), 422, "limit")


@pytest.mark.parametrize(
    "given",
    ["", "x", "[]", "1", '{"field": 1}', '{"and": 1}', '{"field":"a","op":"==","value":NaN}',
     '{"field":"a","op":"in","value":1}', "{" * 50, "null",
     '{"field":"\\u0000","op":"==","value":1}'],
)  # fmt: skip
def test_filters_in_addresses(client: TestClient, given: str) -> None:
    for url in (DOCUMENTS, "/v1/collections/owls/items"):
        problem(client.get(url, params={"filter": given}), 422, "filter")


@pytest.mark.parametrize(
    "item", ["x", "x" * 64, "%00", "..%2f..", "' OR 1=1 --", "%ff%fe", "x%0d%0aX-Evil:%201"]
)
def test_ids_that_are_none(client: TestClient, item: str) -> None:
    for what in ("items", "documents"):
        answer = client.get(f"/v1/collections/owls/{what}/{item}")
        assert answer.status_code in (404, 422)
        assert "x-evil" not in answer.headers
    for url in (f"/v1/jobs/{item}", f"/v1/jobs/{item}/skipped", f"/v1/jobs/{item}/events"):
        assert client.get(url).status_code in (404, 422)


def test_ids_that_are_too_long(client: TestClient) -> None:
    problem(client.get(f"/v1/jobs/{'x' * 65}"), 422, "job_id")
    problem(client.get(f"/v1/collections/owls/items/{'x' * 65}"), 422, "item_id")


def test_markup_in_a_message_stays_text(client: TestClient) -> None:
    answer = client.get("/v1/jobs/<script>alert(1)<%2Fscript>")
    assert answer.headers["content-type"].startswith("application/")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("size", ["0", "15", "1025", "x", "-5"])
def test_sizes_of_thumbnails(client: TestClient, size: str) -> None:
    items = client.get("/v1/collections/owls/items").json()["data"]
    url = f"/v1/collections/owls/items/{items[0]['id']}/thumbnail"
    problem(client.get(url, params={"size": size}), 422, "size")


# --- uploads --------------------------------------------------------------------------------------


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
