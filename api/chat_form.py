"""Chat requests to questions, and answers to chat completions, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rag_owl.api import data_urls, wire
from rag_owl.api.chat_schemas import Completion, Message
from rag_owl.api.errors import Problem
from rag_owl.conversation import MOST_TURNS
from rag_owl.types import Answer, Retrieved, Turn, Usage


@dataclass(slots=True)
class Said:
    """One message of the user's."""

    text: str
    pictures: list[bytes]
    answered: str = ""  # by the assistant's messages after it
    since: list[Mapping[str, Any]] = field(default_factory=list)  # calls and results after it


@dataclass(slots=True)
class Asked:
    """A chat request, understood."""

    collection: str
    model: str | None  # as it was given; None: the default
    system: str
    turns: list[Said]  # the last is the question

    @property
    def question(self) -> Said:
        return self.turns[-1]

    def history(self, pictures: Mapping[int, tuple[str, ...]]) -> list[Turn]:
        """pictures: blob keys by turn."""
        return [
            Turn(said.text, said.text, said.answered, pictures=pictures.get(at, ()))
            for at, said in enumerate(self.turns[:-1])
        ]


def understand(sent: Completion, most_pictures: int) -> Asked:
    """Raises `Problem` 400 or 422 that names the field."""
    _refuse(sent)
    collection, _, model = sent.model.partition("@")
    system: list[str] = []
    turns: list[Said] = []
    for at, message in enumerate(sent.messages):
        place = f"messages.{at}"
        if message.role in ("system", "developer"):
            system.append(_text(message, place))
        elif message.role == "user":
            turns.append(Said(_text(message, place), _pictures(message, most_pictures, place)))
        elif turns:
            # Only what follows the question goes on as it is; the rest is told as text.
            turns[-1].since.append(message.model_dump(exclude_none=True))
            if message.role == "assistant":
                turns[-1].answered += _text(message, place)
    if not turns:
        raise Problem(400, "messages: there is no message of role user", "messages")
    question = turns[-1]
    if question.answered and not any(
        step.get("tool_calls") for step in question.since
    ):  # nothing is asked any more
        raise Problem(400, "messages: the last message is not the user's", "messages")
    return Asked(collection, model or None, "\n\n".join(filter(None, system)), turns[-MOST_TURNS:])


def _refuse(sent: Completion) -> None:
    if sent.n not in (None, 1):
        raise Problem(400, "n: one answer is given to a question", "n")
    if sent.functions is not None:
        raise Problem(400, "functions: send `tools`, to a remote model", "functions")
    if sent.response_format and sent.response_format.get("type") != "text":
        raise Problem(400, "response_format: answers are text", "response_format")
    if sent.logprobs:
        raise Problem(400, "logprobs: there are none", "logprobs")
    if sent.modalities and sent.modalities != ["text"]:
        raise Problem(400, "modalities: answers are text", "modalities")


def _text(message: Message, place: str) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    texts = []
    for at, part in enumerate(message.content):
        if part.type == "text":
            texts.append(part.text or "")
        elif part.type != "image_url":
            raise Problem(
                400,
                f"{place}.content.{at}: parts of type {part.type[:50]!r} are not understood; send "
                "text and image_url",
                f"{place}.content.{at}",
            )
    return "\n".join(texts)


def _pictures(message: Message, most: int, place: str) -> list[bytes]:
    if message.content is None or isinstance(message.content, str):
        return []
    found = [
        (f"{place}.content.{at}.image_url", part.image_url.url if part.image_url else "")
        for at, part in enumerate(message.content)
        if part.type == "image_url"
    ]
    if len(found) > most:
        raise Problem(400, f"{place}: {len(found):,} pictures, at most {most} at once", place)
    return [data_urls.read(url, where) for where, url in found]


# --- what goes out --------------------------------------------------------------------------------


def completion(
    answer: Answer, shown: Sequence[Retrieved], model: str, base: str, limit: int | None
) -> dict[str, Any]:
    """base: this service's address, for the links of annotations; limit: tokens allowed."""
    document = wire.whole_answer(answer, shown)
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": int(answer.created_at),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": answer.text,
                    "refusal": None,
                    "annotations": url_citations(answer, base),
                },
                "logprobs": None,
                "finish_reason": finish_reason(answer, limit),
            }
        ],
        "usage": usage_document(answer.usage or count(answer, shown)),
        "citations": document["citations"],
        "answer": document,
    }


def called(
    identity: str, created: int, model: str, draft: str, calls: Sequence[Any], usage: Usage | None
) -> dict[str, Any]:
    message = {"role": "assistant", "content": draft or None, "tool_calls": list(calls)}
    return {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
        ],
        "usage": usage_document(usage or Usage(0, 0)),
    }


def chunk(
    identity: str,
    created: int,
    model: str,
    delta: Mapping[str, Any] | None,
    finish: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """delta None: without a choice, as the chunk with the usage is."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [] if delta is None else [choice],
        **more,
    }


def url_citations(answer: Answer, base: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": citation.start,
                "end_index": citation.end,
                "title": citation.title,
                "url": f"{base}v1/collections/{answer.collection}/items/{citation.item_id}",
            },
        }
        for citation in answer.citations
    ]


def finish_reason(answer: Answer, limit: int | None) -> str:
    full = answer.usage is not None and limit and answer.usage.completion_tokens >= limit
    return "length" if full else "stop"


def usage_document(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def count(answer: Answer, shown: Sequence[Retrieved]) -> Usage:
    """For models that count nothing: what was read and said, in word pieces of MiniLM."""
    read = [answer.question, *(source.item.text or "" for source in shown)]
    counts = [len(each.ids) for each in _tokenizer().encode_batch([*read, answer.text])]
    return Usage(sum(counts[:-1]), counts[-1])


@cache
def _tokenizer() -> Any:
    from rag_owl.model.nano import minilm

    return minilm.tokenizer()
