"""The tool server with the official client: over stdio, over HTTP, behind keys."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image

from rag_owl import RagOwl
from rag_owl.model.nano import weights
from tests.browser import serve
from tests.model_server import KEY, MODEL, ModelServer, Send
from tests.service import PATIENCE, bearer, make_key, png, problem, running

PLAIN: dict[str, Any] = {"model": "sentences", "picture_embedder": "descriptor"}
WEIGHT = "How much does the elf owl weigh?"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None) -> Path:
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "owls").mkdir()
    texts = {
        "elf": "Elf owl\n\nThe elf owl weighs 40 grams. The elf owl lives in the desert.",
        "eagle": "Eagle owl\n\nThe eagle owl weighs 2700 grams. The eagle owl nests on cliffs.",
    }
    for number, (name, text) in enumerate(texts.items()):
        (folder / "owls" / f"{name}.txt").write_text(text)
        (folder / "owls" / f"{name}.png").write_bytes(png((200 * number, 60, 90)))
    with RagOwl.open(folder / "data", **PLAIN) as owl:
        owl.ingest("owls", [folder / "owls"])
        owl.ingest("secrets", [folder / "owls" / "elf.txt"])
    return folder / "data"


@pytest.fixture(scope="module")
def key(data: Path) -> str:
    return make_key(data, "ask", only=["owls"])


@pytest.fixture(scope="module")
def site(data: Path, key: str) -> Iterator[str]:
    limits = {"max_request_bytes": 8_000_000, "max_question_bytes": 8_000_000}
    with serve(
        data, require_key=True, **limits, **PLAIN
    ) as address:  # which starts where a key exists
        yield address


def text_of(result: CallToolResult) -> str:
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


def pictures_of(result: CallToolResult) -> list[Image.Image]:
    found = []
    for content in result.content:
        if isinstance(content, ImageContent):
            assert content.mime_type == "image/jpeg"
            found.append(Image.open(io.BytesIO(base64.b64decode(content.data))))
    return found


async def use(client: Client) -> None:
    """Everything that the tools do."""
    listed = await client.list_tools()
    assert {tool.name for tool in listed.tools} == {"collections", "search", "ask"}
    assert all("context" not in tool.input_schema["properties"] for tool in listed.tools)

    found = await client.call_tool("collections", {})
    assert "owls: 2 documents" in text_of(found)

    hits = await client.call_tool("search", {"collection": "owls", "query": "eagle cliffs", "k": 1})
    assert "Eagle owl" in text_of(hits)
    assert hits.structured_content is not None
    assert hits.structured_content["data"][0]["item"]["title"] == "Eagle owl"
    (picture,) = pictures_of(hits)
    assert picture.size == (60, 40)

    red = f"data:image/png;base64,{base64.b64encode(png((200, 60, 90))).decode()}"
    by_picture = await client.call_tool("search", {"collection": "owls", "images": [red], "k": 1})
    assert "Eagle owl" in text_of(by_picture)

    answer = await client.call_tool("ask", {"collection": "owls", "question": WEIGHT})
    assert not answer.is_error
    assert text_of(answer).startswith("The elf owl weighs 40 grams. [1]")
    assert "supported" in text_of(answer)
    assert len(pictures_of(answer)) == 1
    assert answer.structured_content is not None
    conversation = answer.structured_content["conversation_id"]
    more = {"collection": "owls", "question": "Where does it live?"}
    follow = await client.call_tool("ask", {**more, "conversation_id": conversation})
    assert "desert" in text_of(follow)

    used = answer.structured_content["citations"][0]["source"]["item_id"]
    less = {"question": WEIGHT, "exclude_items": [used], "require_support": True, "verify": "full"}
    without = await client.call_tool("ask", {"collection": "owls", **less})
    assert not without.is_error
    assert without.structured_content is not None
    shown = [each["item"]["id"] for each in without.structured_content["sources"]]
    assert used not in shown

    for tool, wrong, message in (
        ("ask", {"collection": "owls", "question": WEIGHT, "verify": "twice"}, "verify"),
        ("ask", {"collection": "owls", "question": WEIGHT, "max_tokens": 0}, "max_tokens"),
        ("ask", {"collection": "nothing", "question": WEIGHT}, "no collection 'nothing'"),
        ("ask", {"collection": "owls", "question": " "}, "the question is empty"),
        ("ask", {"collection": "owls", "question": WEIGHT, "model": "/etc"}, "no answering model"),
        ("ask", {"collection": "owls"}, "question"),
        ("search", {"collection": "owls", "images": ["x"]}, "data URL"),
        ("search", {"collection": "owls", "query": "x", "k": 0}, "greater than"),
        ("search", {"collection": "owls", "query": "x", "filters": {"op": "?"}}, "filter"),
    ):
        failed = await client.call_tool(tool, wrong)
        assert failed.is_error, (tool, wrong)
        assert message in text_of(failed)


ON_SQLITE = pytest.mark.parametrize("module_on_each_database", ["sqlite"], indirect=True)


@ON_SQLITE
def test_over_stdio(data: Path) -> None:
    variables = {
        **os.environ,
        "RAG_OWL_MODEL": "sentences",
        "RAG_OWL_PICTURE_EMBEDDER": "descriptor",
    }
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "rag_owl.api.cli", "mcp", "--data", str(data)],
        env=variables,
    )

    async def run() -> None:
        async with Client(command, read_timeout_seconds=500) as client:
            await use(client)
            everything = await client.call_tool("collections", {})
            assert "secrets" in text_of(everything)

    asyncio.run(run())


def connect(site: str, key: str, mode: str = "auto") -> Client:
    headers = {"Authorization": f"Bearer {key}"}
    http = httpx2.AsyncClient(headers=headers, timeout=60)
    return Client(streamable_http_client(f"{site}/mcp", http_client=http), mode=mode)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_http(site: str, key: str, mode: str) -> None:
    async def run() -> None:
        async with connect(site, key, mode) as client:
            await use(client)

    asyncio.run(run())


def test_a_key_sees_its_own_collections_alone(site: str, key: str, data: Path) -> None:
    other = make_key(data, "ask", only=["secrets"])

    async def seen(by: str) -> list[str]:
        async with connect(site, by) as client:
            listed = await client.call_tool("collections", {})
            found = [text_of(listed)]
            for name in ("owls", "secrets", "nothing"):
                for tool, more in (("ask", {"question": WEIGHT}), ("search", {"query": "owl"})):
                    told = await client.call_tool(tool, {"collection": name, **more})
                    found.append(text_of(told).replace(name, "…"))
            return found

    mine, theirs = asyncio.run(seen(key)), asyncio.run(seen(other))
    assert "secrets" not in mine[0]
    assert "owls" not in theirs[0]
    assert mine[3:5] == mine[5:7]  # what is theirs is as what does not exist
    assert theirs[1:3] == theirs[5:7]
    assert "40 grams" in mine[1]
    assert "40 grams" in theirs[3]


def initialize() -> dict[str, Any]:
    about = {"protocolVersion": "2025-06-18", "capabilities": {}}
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {**about, "clientInfo": {"name": "test", "version": "1"}},
    }


def test_without_a_key_or_with_the_wrong_scope_nothing_opens(
    site: str, key: str, data: Path
) -> None:
    accept = {"Accept": "application/json, text/event-stream"}

    def post(**headers: str) -> httpx.Response:
        sent = {**accept, **headers}
        return httpx.post(f"{site}/mcp", json=initialize(), headers=sent, timeout=PATIENCE)

    assert post().status_code == 401
    assert post(Authorization="Bearer owl_wrong").status_code == 401
    ingests = make_key(data, "ingest")
    assert post(Authorization=f"Bearer {ingests}").status_code == 403
    assert post(Authorization=f"Bearer {key}").status_code == 200
    for method in ("GET", "DELETE"):
        assert (
            httpx.request(method, f"{site}/mcp", headers=accept, timeout=PATIENCE).status_code
            == 401
        )
        opened = httpx.request(
            method, f"{site}/mcp", headers={**accept, **bearer(key)}, timeout=PATIENCE
        )
        problem(opened, 405)  # no stream that stays open and says nothing
        assert opened.headers["allow"] == "POST"


def test_a_call_that_is_too_large_is_a_problem_document(site: str, key: str) -> None:
    headers = {"Accept": "application/json, text/event-stream", **bearer(key)}
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        for body in (b"x" * 9_000_000, [b"x" * 3_000_000] * 3):
            headers["Content-Type"] = kind
            sent = httpx.post(f"{site}/mcp", content=body, headers=headers, timeout=PATIENCE)
            problem(sent, 413, "body")


@ON_SQLITE
def test_pages_of_other_origins_and_strange_hosts_are_refused(data: Path) -> None:
    accept = {"Accept": "application/json, text/event-stream"}
    with serve(data, **PLAIN) as open_site:

        def post(**headers: str) -> httpx.Response:
            sent = {**accept, **headers}
            return httpx.post(f"{open_site}/mcp", json=initialize(), headers=sent, timeout=PATIENCE)

        assert post().status_code == 200
        assert post(Origin="https://evil.example").status_code == 403
        assert post(Host="evil.example").status_code == 421
        for body in (b"{", b"[]", b"x" * 10, json.dumps({"jsonrpc": "2.0"}).encode()):
            sent = httpx.post(
                f"{open_site}/mcp",
                content=body,
                headers={**accept, "Content-Type": "application/json"},
                timeout=PATIENCE,
            )
            assert 400 <= sent.status_code < 500


@ON_SQLITE
def test_a_client_that_goes_frees_its_place(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)
    slowly = Send([b": still here\n\n", *([0.1, b": still here\n\n"] * 3_000)])
    headers = {"Accept": "application/json, text/event-stream"}
    call = {"name": "ask", "arguments": {"collection": "owls", "question": WEIGHT, "model": "big"}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    with ModelServer(slowly) as server:
        model = {"base_url": server.url, "model": MODEL, "api_key_env": "TEST_MODEL_KEY"}
        with (
            serve(data, remote_models={"big": model}, **PLAIN) as site,
            httpx.Client(base_url=site, timeout=PATIENCE) as http,
        ):

            def running() -> bool:
                line = 'rag_owl_lane{lane="remote",state="running"} 1.0'
                return line in http.get("/metrics").text

            with http.stream("POST", "/mcp", json=asked, headers=headers):
                wait_until(lambda: running() and bool(server.requests))
            wait_until(lambda: not running())
            assert server.gone.wait(PATIENCE)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@ON_SQLITE
def test_what_an_operator_must_mend_is_in_the_log_under_the_id_that_is_told(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = tmp_path / "secret-place"
    shutil.copytree(weights.FOLDER, damaged)
    (damaged / "reader.safetensors").write_bytes(b"no tensors")
    call = {"name": "ask", "arguments": {"collection": "owls", "question": WEIGHT}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    headers = {"Accept": "application/json, text/event-stream"}
    with running(data, **{**PLAIN, "model": str(damaged)}) as client:
        told = client.post("/mcp", json=asked, headers=headers).text
    assert "secret-place" not in told
    found = re.search(r"in the log under request ([0-9a-f]{32})", told)
    assert found is not None
    logged = [each.getMessage() for each in caplog.records if each.name == "rag_owl.api.mcp"]
    assert any(found[1] in line and "secret-place" in line for line in logged)
