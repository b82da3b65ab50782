"""OpenAI's chat completions as a server sends them: pieces of a stream to one checked reply."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from rag_owl.types import Usage

_LONGEST = 1_000_000  # characters of one answer
_MOST_TOKENS = 100_000_000  # of one call: what a server counts beyond that is no count


@dataclass(slots=True)
class Reply:
    """What the server said, complete."""

    text: str = ""
    finish_reason: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)  # OpenAI's form
    usage: Usage | None = None


class Unreadable(Exception):
    """What the server said is not the protocol; the message continues "model server … "."""


class Reading:
    """A reply as it comes in."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self.reply = Reply()
        self.complete = False
        self._on_text = on_text

    def add(self, data: str) -> None:
        """One event's data. Raises `Unreadable`."""
        if data.strip() == "[DONE]":
            self.complete = True
            return
        chunk = _parsed(data)
        if isinstance(chunk.get("usage"), dict):
            self.reply.usage = _usage(chunk["usage"])
        choice = _choice(chunk, optional=True)
        if choice is not None:
            self._take(choice, _of(choice, "delta", dict) or {})

    def add_whole(self, data: str) -> None:
        chunk = _parsed(data)
        choice = _choice(chunk, optional=False)
        assert choice is not None
        message = _of(choice, "message", dict)
        if message is None:
            raise Unreadable("answered without a message: not an OpenAI-compatible server?")
        if isinstance(chunk.get("usage"), dict):
            self.reply.usage = _usage(chunk["usage"])
        self._take(choice, message)
        self.complete = True

    def _take(self, choice: dict[str, Any], said: dict[str, Any]) -> None:
        for place, call in enumerate(_of(said, "tool_calls", list) or []):
            self._take_call(place, call)
        text = _of(said, "content", str) or ""
        if len(self.reply.text) + len(text) > _LONGEST:
            raise Unreadable(f"went on for more than {_LONGEST:,} characters")
        if text:
            # Lone surrogates ("\\ud800" in JSON) can be neither stored nor sent on.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            text = text.replace("\0", " ")
            self.reply.text += text
            self._on_text(text)
        reason = _of(choice, "finish_reason", str)
        if reason:
            self.reply.finish_reason = reason
            self.complete = True

    def _take_call(self, place: int, piece: Any) -> None:
        if not isinstance(piece, dict):
            raise Unreadable("sent a tool call that is no object")
        at = piece.get("index", place)
        calls = self.reply.tool_calls
        if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at <= min(len(calls), 127):
            raise Unreadable(f"sent tool call {at!r} out of order")
        if at == len(calls):
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        function = _of(piece, "function", dict) or {}
        calls[at]["id"] = calls[at]["id"] or _of(piece, "id", str) or ""
        for name in ("name", "arguments"):
            calls[at]["function"][name] += _of(function, name, str) or ""
        if len(calls[at]["function"]["arguments"]) > _LONGEST:
            raise Unreadable(f"sent a tool call of more than {_LONGEST:,} characters")


def _parsed(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable(f"sent what is not JSON: {data[:100]!r}") from None
    if not isinstance(chunk, dict):
        raise Unreadable(f"sent a {type(chunk).__name__} where an object belongs")
    if chunk.get("error"):
        raise Unreadable(f"reported an error while answering: {server_message(data)}")
    return chunk


def _choice(chunk: dict[str, Any], optional: bool) -> dict[str, Any] | None:
    choices = _of(chunk, "choices", list)
    if not choices:
        if optional and (choices is not None or "usage" in chunk):
            return None
        raise Unreadable("answered without choices: not an OpenAI-compatible server?")
    if not isinstance(choices[0], dict):
        raise Unreadable("sent a choice that is no object")
    return choices[0]


def _of(holder: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = holder.get(name)
    if value is not None and not isinstance(value, kind):
        raise Unreadable(f"sent {name!r} as a {type(value).__name__}, not a {kind.__name__}")
    return value


def _usage(given: dict[str, Any]) -> Usage | None:
    """None for what can be no count: it would stand in the database, in figures and in bills."""
    prompt, completion = given.get("prompt_tokens"), given.get("completion_tokens")
    return Usage(prompt, completion) if _is_count(prompt) and _is_count(completion) else None


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MOST_TOKENS


def server_message(text: str) -> str:
    """The server's own words: OpenAI's `error.message`, FastAPI's `detail`, or the start of it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text[:300]
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    if isinstance(found, dict):
        found = found.get("message", found)
    return found if isinstance(found, str) else json.dumps(found)[:300]
