"""Examples for every operation of the OpenAPI document, made from its schemas.

What a schema says itself (`examples`, `const`, `enum`, `default`) comes first, then the values here
by the field's name: so that an operation that is added tomorrow has its examples, too. A test holds
every one of them against its schema, and sends the requests to a running service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXT = "Japan is an island country in East Asia. Tokyo is the capital of Japan."
_DOCUMENT = "5f0c2b8e7d3a4c61b9e0f4a2d8c7136e"
_ANSWER = "c1d9a04e6f5b4a3e8d27b6c0913f5a84"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_BOX = [0.12, 0.2, 0.58, 0.64]

# By the field's name, or by the model's and the field's where that says more.
_VALUES: dict[str, Any] = {
    "id": _DOCUMENT,
    "Item.id": f"{_DOCUMENT}.1.0",
    "Answer.id": _ANSWER,
    "WholeAnswer.id": _ANSWER,
    "Replayed.id": "0b7e52c96a184fd3a1e0d5c37f92b648",
    "Replayed.replay_of": _ANSWER,
    "document": _DOCUMENT,
    "document_id": _DOCUMENT,
    "item_id": f"{_DOCUMENT}.1.0",
    "job_id": "7a3e9c15d2b84f06a5c8e1f70b964d23",
    "Job.id": "7a3e9c15d2b84f06a5c8e1f70b964d23",
    "answer_id": _ANSWER,
    "key_id": "e4b80d6a1c934f72b5d08a7e3f61c295",
    "Key.id": "e4b80d6a1c934f72b5d08a7e3f61c295",
    "CreatedKey.id": "e4b80d6a1c934f72b5d08a7e3f61c295",
    "Key.name": "the website",
    "CreatedKey.name": "the website",
    "conversation_id": "2d6f8b013c7e4a59b1f4d0e89a375c62",
    "previous": _ANSWER,
    "exclude_items": [],
    "collection": "flags",
    "collections": None,
    "name": "flags",
    "n": 0,
    "size": 256,
    "cursor": None,
    "next_cursor": None,
    "sha256": _SHA256,
    "picture": _SHA256,
    "document_name": "japan.txt",
    "title": "Japan",
    "heading": "",
    "text": _TEXT,
    "Answer.text": "Tokyo is the capital of Japan. [1]",
    "WholeAnswer.text": "Tokyo is the capital of Japan. [1]",
    "Replayed.text": "Tokyo is the capital of Japan. [1]",
    "Changes.text": False,
    "short": "Tokyo",
    "question": "What is the capital of Japan?",
    "quote": "Tokyo is the capital of Japan.",
    "model": "sentences",
    "abstained": False,
    "generation": 1,
    "revision": 1,
    "items": 1,
    "CollectionInfo.items": 240,
    "documents": 120,
    "text_embedder": "all-MiniLM-L6-v2@c9745ed1",
    "picture_embedder": "owl-nano-eyes",
    "metadata": {"year": 1990},
    "score": 0.0328,
    "channels": ["text", "words"],
    "similarities": {"text": 0.71, "words": 9.4},
    "marker": 1,
    "Citation.start": 0,
    "Citation.end": 34,
    "Statement.start": 0,
    "Statement.end": 30,
    "start": 41,
    "end": 71,
    "box": _BOX,
    "dangling_markers": [],
    "left_out": [],
    "notes": [],
    "reading": None,
    "contradicted_by": [],
    "contradicted": False,
    "filled": False,
    "prompt_tokens": 412,
    "completion_tokens": 11,
    "rating": 1,
    "Answer.rating": None,
    "WholeAnswer.rating": None,
    "Replayed.rating": None,
    "comment": "Just what I was looking for.",
    "added": [],
    "removed": [],
    "Job.added": 120,
    "found": 120,
    "done": 120,
    "failed": 0,
    "left": 0,
    "updated": 0,
    "unchanged": 0,
    "skipped": [],
    "skipped_count": 0,
    "state": "done",
    "JobState": "done",
    "reason": "this kind of file is not read",
    "created_at": 1_763_712_000.0,
    "finished_at": 1_763_712_042.5,
    "started_at": 1_763_712_001.0,
    "rate": 2.9,
    "expires_at": None,
    "ready": True,
    "waiting_for": [],
    "default": True,
    "limit": 50,
    "filter": '{"field": "year", "op": ">=", "value": 1990}',
    "files": ["Tokyo is the capital of Japan."],
    "video": None,
    "images": [],
    "seed": 0,
}
# Fields of a request that are no more than a choice: an example shows them only where it is theirs.
_CHOSEN = {"comment", "metadata", "filters", "query"}

_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_LOCATION = {"type": "text", "start": 41, "end": 71}
_CHUNK = (
    'data: {"id": "chatcmpl-…", "object": "chat.completion.chunk", "created": 1763712000, '
    '"model": "flags", "choices": [{"index": 0, "delta": {"content": "Tokyo is "}, '
    '"logprobs": null, "finish_reason": null}]}\n\ndata: [DONE]\n\n'
)
_MODEL = {"id": "flags", "object": "model", "created": 0, "owned_by": "rag-owl"}
# What no schema describes, by operation and media type.
_WHOLE: dict[tuple[str, str], Any] = {
    ("list_models", "application/json"): {"object": "list", "data": [_MODEL]},
    ("get_model", "application/json"): _MODEL,
    ("complete_chat", "application/json"): {
        "id": f"chatcmpl-{_ANSWER}",
        "object": "chat.completion",
        "created": 1_763_712_000,
        "model": "flags",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Tokyo is the capital of Japan. [1]",
                    "refusal": None,
                    "annotations": [
                        {
                            "type": "url_citation",
                            "url_citation": {
                                "start_index": 0,
                                "end_index": 34,
                                "title": "Japan",
                                "url": "http://127.0.0.1:8000/v1/collections/flags/items/"
                                f"{_DOCUMENT}.1.0",
                            },
                        }
                    ],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 412, "completion_tokens": 11, "total_tokens": 423},
    },
    ("complete_chat", "text/event-stream"): _CHUNK,
    ("ask", "text/event-stream"): (
        'event: retrieved\ndata: {"data": []}\n\n'
        'event: text\ndata: {"delta": "Tokyo is the capital of Japan. [1]"}\n\n'
        'event: done\ndata: {"id": "…", "text": "Tokyo is the capital of Japan. [1]"}\n\n'
    ),
    ("follow_job", "text/event-stream"): (
        'event: job\ndata: {"id": "…", "state": "running", "found": 120, "added": 32}\n\n'
        'event: done\ndata: {"id": "…", "state": "done", "found": 120, "added": 120}\n\n'
    ),
    ("figures", "text/plain"): 'rag_owl_requests_total{method="POST",route="/v1/answers",'
    'status="200"} 12.0\n',
    ("save_answer", "text/html"): "<!doctype html>\n<title>What is the capital of Japan?</title>\n",
}
_REQUESTS: dict[str, Any] = {
    "complete_chat": {
        "model": "flags",
        "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
    },
}


def add(document: dict[str, Any]) -> None:
    """An example for each parameter, each request and each good answer that has none."""
    schemas = document.get("components", {}).get("schemas", {})
    make = _Maker(schemas)
    for operations in document["paths"].values():
        for operation in operations.values():
            name = operation["operationId"]
            for parameter in operation.get("parameters", ()):
                _parameter(parameter, make)
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                if name in _REQUESTS:
                    content.setdefault("example", _REQUESTS[name])
                elif "schema" in content and not _has_one(content):
                    content["example"] = make.request(content["schema"], media_type)
            for status, response in operation["responses"].items():
                if status.startswith("2"):
                    for media_type, content in response.get("content", {}).items():
                        _response(name, media_type, content, make)


def _parameter(parameter: dict[str, Any], make: _Maker) -> None:
    schema = parameter["schema"]
    value = make.field("", parameter["name"], schema)
    # Null is how a parameter is left out, which no address can say.
    if not _has_one(parameter) and "examples" not in schema and value is not None:
        parameter["example"] = value


def _response(name: str, media_type: str, content: dict[str, Any], make: _Maker) -> None:
    if (name, media_type) in _WHOLE:
        content.setdefault("example", _WHOLE[name, media_type])
    elif "schema" in content and media_type == "application/json" and not _has_one(content):
        content["example"] = make.of(content["schema"])


def _has_one(holder: Mapping[str, Any]) -> bool:
    return "example" in holder or "examples" in holder


class _Maker:
    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas

    def request(self, schema: dict[str, Any], media_type: str) -> Any:
        """What must be sent, and what shows the point of it."""
        schema = self._resolved(schema)
        if schema.get("type") != "object":
            return self.of(schema)
        required = set(schema.get("required", ()))
        wanted = required | (_CHOSEN & set(schema["properties"]))
        found = {}
        for name, field in schema["properties"].items():
            if name in wanted and (name in required or media_type == "application/json"):
                found[name] = self.field(schema.get("title", ""), name, field)
        if "request" in found:  # a part of a form that is JSON itself
            found["request"] = self.request(schema["properties"]["request"], "")
        if isinstance(found.get("files"), list) and self._type(schema, "files") != "array":
            found["files"] = found["files"][0]
        return found

    def _type(self, schema: Mapping[str, Any], name: str) -> Any:
        return schema["properties"][name].get("type")

    def field(self, model: str, name: str, schema: dict[str, Any]) -> Any:
        if schema.get("examples"):
            return schema["examples"][0]
        for key in (f"{model}.{name}", name):
            if key in _VALUES and self._takes(schema, _VALUES[key]):
                return _VALUES[key]
        return self.of(schema)

    def _takes(self, schema: dict[str, Any], value: Any) -> bool:
        """As far as its kind goes: the same name may mean something else elsewhere."""
        schema = self._resolved(schema)
        choices = schema.get("anyOf") or schema.get("oneOf")
        if choices:
            return any(self._takes(each, value) for each in choices)
        if "enum" in schema or "const" in schema:
            return value in schema.get("enum", [schema.get("const")])
        kind = schema.get("type")
        return kind is None or type(value) in _KINDS[kind]

    def of(self, schema: dict[str, Any]) -> Any:
        schema = self._resolved(schema)
        if schema.get("examples"):
            return schema["examples"][0]
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        if "enum" in schema:
            return schema["enum"][0]
        choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if choices:
            shown = [each for each in choices if self._resolved(each).get("type") == "object"]
            null = any(each.get("type") == "null" for each in choices)
            return self.of(shown[0]) if shown else None if null else self.of(choices[0])
        return self._by_type(schema)

    def _by_type(self, schema: dict[str, Any]) -> Any:
        kind = schema.get("type")
        if kind == "object":
            if schema.get("title") == "Location":
                return _LOCATION
            title = schema.get("title", "")
            fields = schema.get("properties", {})
            return {name: self.field(title, name, field) for name, field in fields.items()}
        if kind == "array":
            return [self.of(schema["items"])] if schema.get("items") else []
        return {"string": "…", "integer": 1, "number": 0.5, "boolean": False}.get(str(kind))

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in schema:
            return schema
        found: dict[str, Any] = self._schemas[schema["$ref"].rpartition("/")[2]]
        return found
