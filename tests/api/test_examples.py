"""The OpenAPI document's examples: every operation has them, they fit, and they work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient

from rag_owl.api import examples
from rag_owl.api.app import create_app
from rag_owl.settings import read_settings
from tests.service import finished, png, running, upload

BINARY = ("image/", "video/", "application/octet-stream", "application/pdf", "text/plain")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("examples")
    found: dict[str, Any] = json.loads(json.dumps(create_app(read_settings(data=folder)).openapi()))
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(
        value
    )


def test_every_request_and_every_answer_has_an_example_that_fits(document: dict[str, Any]) -> None:
    lacking = []
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        contents = [("request", operation.get("requestBody", {}).get("content", {}))]
        contents += [
            (status, response.get("content", {}))
            for status, response in operation["responses"].items()
            if status.startswith("2")
        ]
        for kind, content in contents:
            for media_type, described in content.items():
                if "example" in described:
                    check(document, described.get("schema", {}), described["example"])
                elif not (kind != "request" and media_type.startswith(BINARY)):
                    lacking.append(f"{where} {kind} {media_type}")
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            if "example" in parameter:
                check(document, schema, parameter["example"])
            for each in schema.get("examples", ()):
                check(document, schema, each)
            if parameter["required"] and "example" not in parameter and "examples" not in schema:
                lacking.append(f"{where} parameter {parameter['name']}")
    assert not lacking


def test_an_operation_of_tomorrow_gets_its_example() -> None:
    thing = {
        "type": "object",
        "title": "Thing",
        "properties": {
            "collection": {"type": "string"},
            "colour": {"type": "string", "enum": ["red", "blue"]},
            "many": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}
    operation = {"operationId": "look", "responses": {"200": {"content": content}}}
    examples.add({"paths": {"/x": {"get": operation}}, "components": {"schemas": {"Thing": thing}}})
    assert content["application/json"]["example"] == {
        "collection": "flags", "colour": "red", "many": None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[TestClient]:
    with running(tmp_path_factory.mktemp("examples") / "data") as client:
        text = b"Japan is an island country in East Asia. Tokyo is the capital of Japan."
        upload(client, "flags", {"japan.txt": text, "japan.png": png()})
        yield client


def test_the_requests_can_be_sent(client: TestClient, document: dict[str, Any]) -> None:
    """Those that change nothing which they name by an id of their own."""
    base = "/v1/collections/flags"
    item = client.get(f"{base}/items").json()["data"][0]
    names = {
        "name": "flags",
        "document_id": item["document_id"],
        "item_id": item["id"],
        "model": "flags",
    }
    sent = set()
    for path, method, operation in operations(document):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            name = operation["operationId"]
            if name == "rate_answer":
                asked = {"collection": "flags", "question": "What is the capital of Japan?"}
                names["answer_id"] = client.post("/v1/answers", json=asked).json()["id"]
            if any(part not in names for part in parts(path)) or "reindex" in path:
                continue
            body = content["example"]
            if name == "add_documents" and media_type == "application/json":
                continue  # documents by URL are off
            how: dict[str, Any] = {"json": body}
            if media_type == "multipart/form-data":
                how = {"files": form(body)}
            answered = client.request(method, path.format(**names), **how)
            assert answered.is_success, (name, media_type, body, answered.text)
            sent.add((name, media_type))
            if answered.status_code == 202:
                assert finished(client, answered.json()["job"]["id"])["state"] == "done"
    kinds = {"application/json", "multipart/form-data"}
    assert {(name, kind) for name in ("ask",) for kind in kinds} <= sent
    assert {"search", "create_key", "complete_chat", "rate_answer"} <= {name for name, _ in sent}


def parts(path: str) -> list[str]:
    return [each[1:-1] for each in path.split("/") if each.startswith("{")]


def form(body: dict[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in body.items():
        if name == "files":
            texts = value if isinstance(value, list) else [value]
            found += [("files", ("japan.txt", text.encode())) for text in texts]
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found.append((name, (None, text.encode())))
    return found
