"""What strangers send: each kind with its status and a problem document that names the field.

Uploads and raw bytes: `test_bad_uploads.py`. Questions: `test_answers.py`.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rag_owl.api import paging
from rag_owl.api.errors import Problem
from tests.service import opened, png, problem, running, upload


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[TestClient]:
    with running(
        tmp_path_factory.mktemp("bad") / "data", max_request_bytes=2_000_000
    ) as opened_client:
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
