"""What the outer layers let through and say, of sizes, other origins and an operator's secrets."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from rag_owl import RagOwl, db
from rag_owl.model.nano import weights
from rag_owl.store import claims, jobs
from tests.service import make_key, png, problem, running, upload

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor", "model": "sentences"}
JSON = {"Content-Type": "application/json"}


def test_only_questions_and_uploads_may_be_large_forms(tmp_path: Path) -> None:
    large = {"files": [("files", ("a.txt", b"x" * 5_000))]}
    with running(tmp_path / "data", max_request_bytes=1024, **LIGHT) as client:
        problem(client.post("/v1/collections", **large), 413, "body")
        problem(client.post("/v1/collections/c/search", **large), 413, "body")
        problem(client.post("/v1/answers", **large), 422, "files")
        assert client.post("/v1/collections/c/documents", **large).status_code == 202
    with running(tmp_path / "open", max_request_bytes=1024, **LIGHT) as client:
        body = (
            b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n' + b"x" * 5_000
        )
        headers = {"Content-Type": "Multipart/Form-Data; boundary=b"}
        assert client.post("/v1/answers", content=body, headers=headers).status_code != 413
        wordy = {
            "request": ("request", b'{"question": "' + b"x" * 5_000 + b'"}', "application/json")
        }
        problem(client.post("/v1/answers", files=wordy), 413, "request")
        for length in (1_100, 5_000, 2_000_000):  # as text and as JSON it is as large
            told = json.dumps({"collection": "c", "question": "x" * length})
            text: Any = {"request": (None, told)}
            problem(client.post("/v1/answers", files=text), 413, "request")
            sent = client.post("/v1/answers", content=told, headers=JSON)
            problem(sent, 413, "body")
    with running(tmp_path / "wide", max_request_bytes=3 * 2**20, **LIGHT) as client:
        told = json.dumps({"collection": "c", "question": "x", "images": ["y" * 2 * 2**20]})
        form: Any = {"request": (None, told)}  # past the parser's own limit of 1 MiB
        problem(client.post("/v1/answers", files=form), 422, "images.0")
        problem(client.post("/v1/answers", content=told, headers=JSON), 422, "images.0")


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/v1/answers", "application/json"),
        ("/v1/collections", "application/json"),
        ("/v1/collections/c/documents", "multipart/form-data; boundary=b"),
        ("/v1/chat/completions", "application/json"),
        ("/mcp", "application/json"),
    ],
)
def test_of_a_stranger_not_a_byte_is_read(tmp_path: Path, path: str, type_: str) -> None:
    make_key(tmp_path / "data")
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    with running(tmp_path / "data", require_key=True, allowed_hosts="testserver", **LIGHT) as it:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", type_.encode()), (b"host", b"testserver")],
        }
        assert it.portal is not None
        it.portal.call(it.app, scope, receive, send)
    assert sent[0]["status"] == 401
    assert b"a key is needed" in sent[1]["body"]


def test_a_page_elsewhere_reads_why_it_was_refused(tmp_path: Path) -> None:
    good = {"Origin": "https://good.org"}
    with running(
        tmp_path, cors_origins="https://good.org", address_rate="1/day", **LIGHT
    ) as client:
        assert client.get("/v1/collections", headers=good).status_code == 200
        refused = client.get("/v1/collections", headers=good)
        problem(refused, 429)
        assert refused.headers["access-control-allow-origin"] == "https://good.org"
        assert "Retry-After" in refused.headers["access-control-expose-headers"]
        evil = client.get("/v1/collections", headers={"Origin": "https://evil.org"})
        assert "access-control-allow-origin" not in evil.headers
        asked = {**good, "Access-Control-Request-Method": "POST"}
        assert client.options("/v1/collections", headers=asked).status_code == 200
        other = {**asked, "Host": "elsewhere.org"}
        problem(client.get("/v1/collections", headers=other), 421, "Host")


def test_large_pictures_made_small_keep_nobody_else_waiting(tmp_path: Path) -> None:
    with running(tmp_path, **LIGHT) as client, ThreadPoolExecutor(60) as many:
        upload(client, "c", {"red.png": png()})
        (item,) = client.get("/v1/collections/c/items").json()["data"]
        where = f"/v1/collections/c/items/{item['id']}/thumbnail"
        making = client.app.state.rag_owl.thumbnails._making  # type: ignore[attr-defined]
        for _ in range(2):
            making.acquire()
        try:
            waiting = [many.submit(client.get, where) for _ in range(50)]
            while client.app.state.rag_owl.drawing.available_tokens:  # type: ignore[attr-defined]
                time.sleep(0.01)
            assert many.submit(client.get, "/v1/collections/c").result(60).status_code == 200
            ready = many.submit(client.get, "/readyz").result(60).json()
            assert "database" not in ready["waiting_for"]
            assert not any(each.done() for each in waiting)
        finally:
            for _ in range(2):
                making.release()
        assert [each.result(60).status_code for each in waiting] == [200] * 50


def test_documents_fetched_by_url_keep_no_small_picture_waiting(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**LIGHT, "allow_url_ingest": True}
    with running(tmp_path, **settings) as client, ThreadPoolExecutor(1) as other:
        upload(client, "c", {"red.png": png()})
        (item,) = client.get("/v1/collections/c/items").json()["data"]
        fetching = client.app.state.rag_owl.fetching  # type: ignore[attr-defined]
        assert client.portal is not None
        others = list(range(int(fetching.total_tokens)))  # as many as may be under way
        for one in others:
            client.portal.call(fetching.acquire_on_behalf_of_nowait, one)
        try:
            url = {"url": "http://127.0.0.1:1/a.pdf"}
            waiting = other.submit(client.post, "/v1/collections/c/documents", json=url)
            while not fetching.statistics().tasks_waiting:
                time.sleep(0.01)
            small = client.get(f"/v1/collections/c/items/{item['id']}/thumbnail")
            assert small.status_code == 200
            assert not waiting.done()
        finally:
            for one in others:
                client.portal.call(fetching.release_on_behalf_of, one)
        assert waiting.result(60).status_code == 422


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of the operator's own."""
    copied = tmp_path / "secret-place" / "further"
    shutil.copytree(weights.FOLDER, copied)
    return copied


def test_no_path_of_the_operators_is_told(tmp_path: Path, folder: Path) -> None:
    note = tmp_path / "owls.txt"
    note.write_text("The barn owl weighs 430 grams.")
    question = "How much does the barn owl weigh?"
    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        owl.ingest("owls", [note])
        answer = owl.ask("owls", question, model=str(folder))
    with running(tmp_path / "data", **LIGHT) as client:
        again = client.post(f"/v1/answers/{answer.id}/replay", json={})
        detail = problem(again, 404, "model")["detail"]
        assert "further" in detail
        assert "secret-place" not in detail
    with (folder / "reader.safetensors").open("r+b") as file:
        file.truncate(1_000)
    settings: dict[str, Any] = {**LIGHT, "model": str(folder)}
    with running(tmp_path / "data", **settings) as client:
        refused = ask(client, question)
        found = problem(refused, 502)
        assert "secret-place" not in refused.text
        assert found["request_id"] in found["detail"]
        assert ask(client, question, model="sentences").json()["text"].startswith("The barn owl")
    with RagOwl.open(tmp_path / "data", work_jobs=False, **LIGHT) as owl:
        with db.writing(owl.engine) as session:
            job_id, _ = jobs.create(session, None, "verify", {})
            claim = claims.claim(session, job_id, "worker")
            assert claim is not None
            claims.finish(session, claim, "failed", f"no space left for {owl.folder}/blobs/ab")
        assert str(tmp_path) in str(owl.job(job_id).error)
    with running(tmp_path / "data", **LIGHT) as client:
        for address in (f"/v1/jobs/{job_id}", "/v1/jobs", f"/v1/jobs/{job_id}/events"):
            told = client.get(address).text
            assert "no space left for the data folder/blobs/ab" in told
            assert str(tmp_path) not in told


def ask(client: TestClient, question: str, **more: Any) -> Any:
    return client.post("/v1/answers", json={"collection": "owls", "question": question, **more})
