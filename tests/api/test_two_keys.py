"""Two keys, two collections: through no endpoint does one key learn that the other's data exist.

Every endpoint of the OpenAPI document and every tool of `/mcp` is called with everything that can
name something (paths, queries, bodies) naming, in turn, what is the key's own, what is the other's,
and what does not exist. Of the last two the answers must be the same, down to their wording and to
how many statements the database is asked; and what is the other's must be unchanged afterwards.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event

from tests.service import bearer, make_key, opened, png, running, upload

METHODS = ("get", "post", "put", "delete")


@dataclass
class Side:
    """One key, and the names of all that is its own."""

    key: str
    collection: str
    secret: str  # a word of its documents
    names: dict[str, str] = field(default_factory=dict)

    def call(self, client: TestClient, method: str, url: str, **more: Any) -> Any:
        headers = {"Accept": "application/json, text/event-stream", **bearer(self.key)}
        return client.request(method, url, headers=headers, **more)


@dataclass
class World:
    client: TestClient
    mine: Side
    theirs: Side
    engine: Engine


NOWHERE = {
    "name": "nowhere",
    "document_id": "0" * 32,
    "item_id": f"{'0' * 32}.1.0",
    "job_id": "0" * 32,
    "answer_id": "0" * 32,
    "key_id": "0" * 32,
    "conversation_id": "0" * 32,
    "model": "nowhere",
    "n": "0",
}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[World]:
    data = tmp_path_factory.mktemp("two") / "data"
    mine = Side(make_key(data, only=["mine", "mine-too"]), "mine", "zebra")
    theirs = Side(make_key(data, only=["theirs"]), "theirs", "quagga")
    with running(data, key_rate="100000/minute", address_rate="100000/minute") as client:
        for side in (mine, theirs):
            fill(client, side)
        yield World(client, mine, theirs, opened(client).engine)


def fill(client: TestClient, side: Side) -> None:
    more = {"headers": bearer(side.key)}
    files = {
        f"{side.secret}.png": png((1, 2, len(side.secret))),
        f"{side.secret}.txt": f"The {side.secret} has stripes. It lives in Africa.".encode(),
        f"broken-{side.secret}.png": b"\x89PNG\r\n\x1a\nno picture",
    }
    job = upload(client, side.collection, files, **more)
    base = f"/v1/collections/{side.collection}"
    document = client.get(f"{base}/documents", **more).json()["data"][0]
    item = client.get(f"{base}/items", **more).json()["data"][0]
    key = client.post(
        "/v1/keys",
        json={"name": f"{side.secret}-key", "scopes": ["ask"], "collections": [side.collection]},
        **more,
    ).json()
    side.names = {
        "name": side.collection,
        "document_id": document["id"],
        "item_id": item["id"],
        "job_id": job["id"],
        "key_id": key["id"],
        "model": side.collection,
        "n": "0",
    }
    asked = client.post(
        "/v1/answers",
        json={"collection": side.collection, "question": f"Where does the {side.secret} live?"},
        **more,
    )
    if asked.status_code == 200:
        answer = asked.json()
        side.names |= {"answer_id": answer["id"], "conversation_id": answer["conversation_id"]}


def operations(client: TestClient) -> list[tuple[str, str, dict[str, Any]]]:
    document = client.get("/openapi.json").json()
    tools = [("/mcp", "post", {"operationId": name, "requestBody": {}}) for name in TOOLS]
    return tools + [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]


# What each operation is sent, made from the names of a side. `{…}` are filled in.
FORM = {"files": [("files", ("new.txt", b"new words"))]}
BODIES: dict[str, dict[str, Any]] = {
    "create_collection": {"json": {"name": "{name}"}},
    "add_documents": FORM,
    "replace_document": FORM,
    "search": {"json": {"query": "stripes", "k": 50}},
    "reindex_collection": {"json": {"index_type": "hnsw"}},
    "cancel_job": {},
    "retry_job": {},
    "create_key": {"json": {"name": "x", "scopes": ["ask"], "collections": ["{name}"]}},
    "ask": {
        "json": {
            "collection": "{name}",
            "question": "Where does it live?",
            "conversation_id": "{conversation_id}",
            "exclude_items": ["{item_id}"],
        }
    },
    "replay_answer": {"json": {}},
    "rate_answer": {"json": {"rating": -1, "comment": "spoiled"}},
    "complete_chat": {
        "json": {"model": "{model}", "messages": [{"role": "user", "content": "Where is it?"}]}
    },
}
TOOLS: dict[str, dict[str, Any]] = {
    "mcp_collections": {},
    "mcp_search": {"collection": "{name}", "query": "stripes", "k": 50},
    "mcp_ask": {
        "collection": "{name}",
        "question": "Where does it live?",
        "conversation_id": "{conversation_id}",
        "exclude_items": ["{item_id}"],
    },
}


def rpc(method: str, **parameters: Any) -> dict[str, Any]:
    return {"json": {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}}


BODIES |= {
    name: rpc("tools/call", name=name.removeprefix("mcp_"), arguments=arguments)
    for name, arguments in TOOLS.items()
}
QUERIES = {  # parameters of the query that name something
    "collection": "{name}",
    "document": "{document_id}",
    "conversation_id": "{conversation_id}",
}


def fillings(text: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", text)


def sent(path: str, operation: dict[str, Any], queries: tuple[str, ...]) -> tuple[str, Any]:
    """(URL, arguments) with `{…}` still in them."""
    body = BODIES[operation["operationId"]] if "requestBody" in operation else {}
    if queries:
        path += "?" + "&".join(f"{name}={QUERIES[name]}" for name in queries)
    return path, body


def filled(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: names[found[1]], value)
    if isinstance(value, dict):
        return {key: filled(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, names) for each in value]
    return value


def cases(
    world: World,
) -> Iterator[tuple[str, str, Any, dict[str, str], dict[str, str], dict[str, str]]]:
    """(method, url, body, names with at least one of theirs, the same with none that exist)."""
    for path, method, operation in operations(world.client):
        parameters = operation.get("parameters", [])
        known = [each["name"] for each in parameters if each["in"] == "query"]
        naming = tuple(name for name in known if name in QUERIES)
        for queries in itertools.chain([()], ((name,) for name in naming)):
            url, body = sent(path, operation, queries)
            wanted = sorted(set(fillings(url) + fillings(json.dumps(body, default=str))))
            wanted = [name for name in wanted if name != "n"]
            for choice in itertools.product(("mine", "theirs", "nowhere"), repeat=len(wanted)):
                if "theirs" not in choice:
                    continue
                hidden, missing = {"n": "0"}, {"n": "0"}
                for name, owner in zip(wanted, choice, strict=True):
                    side = world.mine if owner == "mine" else world.theirs
                    nowhere = NOWHERE[name]
                    chosen = nowhere if owner == "nowhere" else side.names.get(name, nowhere)
                    hidden[name] = chosen
                    missing[name] = nowhere if owner == "theirs" else chosen
                yield method, url, body, hidden, missing, operation


class Statements:
    """How many statements the database is asked meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.count = 0

    def __enter__(self) -> Statements:
        event.listen(self._engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._note)

    def _note(self, _c: object, _cursor: object, statement: str, *_: object) -> None:
        # The runner of jobs looks for work all the time, whoever asks what.
        if threading.current_thread().name != "rag-owl-jobs" and "BEGIN" not in statement:
            self.count += "UPDATE keys SET last_used_at" not in statement


def plain(response: Any, names: dict[str, str]) -> str:
    """The answer without what differs because the question did."""
    text = response.text
    for name, value in names.items():
        if name != "n":
            text = text.replace(value, f"<{name}>")
    text = re.sub(r'"request_id":\s*"[^"]*"', "", text)
    text = re.sub(r'"(id|key|created_at|last_used_at)":\s*("[^"]*"|[0-9.]+)', "", text)
    return f"{response.status_code} {text}"


def test_every_operation_is_walked(world: World) -> None:
    for path, method, operation in operations(world.client):
        if "requestBody" in operation:
            assert operation["operationId"] in BODIES, f"say what {method} {path} is sent"
        for name in fillings(path):
            assert name in NOWHERE, f"say what names nothing in {path}"
    listed = world.mine.call(world.client, "post", "/mcp", **rpc("tools/list")).text
    named = re.findall(r'"name":\s*"(\w+)"', listed)
    assert {f"mcp_{name}" for name in named} == set(TOOLS)
    walked = {operation["operationId"] for *_, operation in cases(world)}
    assert {"get_collection", "search", "get_media", "follow_job", "revoke_key"} <= walked
    assert {"mcp_search", "mcp_ask"} <= walked


def test_what_is_theirs_is_as_what_is_not(world: World) -> None:
    before = snapshot(world)
    different = []
    for method, url, body, hidden, missing, operation in cases(world):
        for _ in range(3):  # what else the service looks up meanwhile may fall into one of them
            counts, answers = [], []
            for names in (hidden, missing):
                with Statements(world.engine) as asked:
                    response = world.mine.call(
                        world.client, method, filled(url, names), **filled(body, names)
                    )
                counts.append(asked.count)
                answers.append(plain(response, names))
            if counts[0] == counts[1]:
                break
        what = f"{method} {filled(url, hidden)} ({operation['operationId']})"
        if answers[0] != answers[1]:
            different.append(f"{what}: {answers[0][:300]}\n   but nothing: {answers[1][:300]}")
        elif counts[0] != counts[1]:
            different.append(f"{what}: {counts[0]} statements, for nothing {counts[1]}")
        else:
            leaked = [word for word in secrets(world, hidden) if word in answers[0]]
            if leaked:
                different.append(f"{what}: names {leaked}")
    assert not different, "\n".join(different)
    assert snapshot(world) == before


def secrets(world: World, named: dict[str, str]) -> list[str]:
    """What only they know; what the request itself named may be repeated."""
    known = {world.theirs.secret, *world.theirs.names.values()} - {"0"}
    return sorted(known - set(named.values()))


def test_lists_and_counts_hold_only_what_is_mine(world: World) -> None:
    seen = 0
    for path, method, _ in operations(world.client):
        if method != "get" or path == "/metrics":
            continue
        url = filled(path, {**NOWHERE, **world.mine.names})
        text = world.mine.call(world.client, method, url).text
        # My own answers say what I asked to leave out, whatever that was.
        text = re.sub(r'"exclude_items":\s*\[[^]]*\]', "", text)
        leaked = [word for word in secrets(world, {}) if word in text]
        assert not leaked, f"{url}: {leaked}"
        seen += world.mine.secret in text
    assert seen >= 5  # or nothing at all was looked at
    listed = world.mine.call(world.client, "post", "/mcp", **BODIES["mcp_collections"]).text
    assert "mine: 1 documents" in listed
    assert not [word for word in secrets(world, {}) if word in listed]
    found = world.mine.call(
        world.client, "post", "/v1/collections/mine/search", json={"query": "quagga", "k": 50}
    )
    assert "quagga" not in found.text


def test_what_the_others_are_is_in_no_error(world: World) -> None:
    there = world.mine.call(world.client, "get", "/v1/collections/nowhere").json()["detail"]
    assert "mine" in there
    assert "theirs" not in there


def test_a_limited_admin_gives_no_more_than_it_has(world: World) -> None:
    for only in (None, ["theirs"], ["mine", "theirs"]):
        made = world.mine.call(
            world.client,
            "post",
            "/v1/keys",
            json={"name": "more", "scopes": ["ask"], "collections": only},
        )
        assert made.status_code == 403, only


def test_cursors_of_theirs_lead_to_nothing_of_theirs(world: World) -> None:
    for url in ("/v1/jobs", "/v1/collections/theirs/items", "/v1/collections/theirs/documents"):
        page = world.theirs.call(world.client, "get", f"{url}?limit=1").json()
        cursor = page["next_cursor"] or base64.urlsafe_b64encode(b"[1]").decode().rstrip("=")
        mine = url.replace("theirs", "mine")
        response = world.mine.call(world.client, "get", f"{mine}?cursor={cursor}")
        assert not [word for word in secrets(world, {}) if word in response.text]


def snapshot(world: World) -> dict[str, Any]:
    """All that is theirs, as they see it."""
    found = {}
    for path, method, _ in operations(world.client):
        if method == "get" and path not in ("/metrics", "/readyz", "/v1/keys"):
            url = filled(path, {**NOWHERE, **world.theirs.names})
            response = world.theirs.call(world.client, "get", url)
            text = re.sub(r'"request_id":\s*"[^"]*"', "", response.text)
            found[url] = response.status_code, text
    keys = world.theirs.call(world.client, "get", "/v1/keys").json()["data"]
    found["keys"] = [(key["id"], key["revoked_at"]) for key in keys]  # type: ignore[assignment]
    return found


def test_the_data_folder_is_one(world: World) -> None:
    """Or nothing above was tested: an unlimited view sees both."""
    names = [info.name for info in opened(world.client).collections()]
    assert {"mine", "theirs"} <= set(names)
    assert Path(opened(world.client).folder).is_dir()
