"""Chat completions with the official client against a live service."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rag_owl import RagOwl
from tests.browser import serve
from tests.model_server import KEY, MODEL, ModelServer, Send, delta, event, streamed
from tests.service import PATIENCE, bearer, make_key, png

WEIGHT = "How much does the elf owl weigh?"
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def model_server() -> Iterator[ModelServer]:
    def reply(request: dict[str, Any]) -> Send:
        if request["messages"][-1]["role"] == "tool":
            return streamed("It rains, and the elf owl weighs 40 grams [1].")
        if "tools" in request:
            call = {"index": 0, "id": "call_1", "type": "function"}
            function = {"name": "weather", "arguments": '{"city": "Tucson"}'}
            calls = delta(tool_calls=[{**call, "function": function}])
            return Send([calls, delta("tool_calls"), event("[DONE]")])
        if "moon" in request["messages"][-1]["content"][-1]["text"]:
            return streamed("The elf owl weighs 40 grams [1]. It lives on the moon [1].")
        if "break" in request["messages"][-1]["content"][-1]["text"]:
            return Send([delta(content="The elf owl ")])
        return streamed("The elf owl ", "weighs 40 grams [1].")

    with ModelServer(reply) as server:
        yield server


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory,
    model_server: ModelServer,
    module_on_each_database: None,
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("chat")
    (folder / "owls").mkdir()
    texts = {
        "elf": "Elf owl\n\nThe elf owl weighs 40 grams. The elf owl lives in the desert.",
        "eagle": "Eagle owl\n\nThe eagle owl weighs 2700 grams. The eagle owl nests on cliffs.",
    }
    for number, (name, text) in enumerate(texts.items()):
        (folder / "owls" / f"{name}.txt").write_text(text)
        (folder / "owls" / f"{name}.png").write_bytes(png((200 * number, 60, 90)))
    settings: dict[str, Any] = {"model": "sentences", "picture_embedder": "descriptor"}
    with RagOwl.open(folder / "data", **settings) as owl:
        owl.ingest("owls", [folder / "owls"])
        owl.ingest("secrets", [folder / "owls" / "elf.txt"])
    big = {"base_url": model_server.url, "model": MODEL, "api_key_env": "TEST_MODEL_KEY"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_MODEL_KEY", KEY)
        key = make_key(folder / "data", "ask", only=["owls"])
        with serve(folder / "data", remote_models={"big": big}, require_key=True, **settings) as at:
            yield f"{at} {key}"


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    at, key = address.split()
    with openai.OpenAI(base_url=f"{at}/v1", api_key=key, max_retries=0) as opened:
        yield opened


def say(text: str, *pictures: bytes) -> Any:
    urls = [f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in pictures]
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [{"type": "text", "text": text}, *images]}


def extra(value: Any, name: str) -> Any:
    return value.model_extra[name]


def test_text_is_answered_with_citations(client: openai.OpenAI, address: str) -> None:
    done = client.chat.completions.create(
        model="owls", messages=[{"role": "user", "content": WEIGHT}]
    )
    (choice,) = done.choices
    said = choice.message.content
    assert said is not None
    assert said.startswith("The elf owl weighs 40 grams. [")
    assert choice.finish_reason == "stop"
    (annotation,) = choice.message.annotations or []
    place = annotation.url_citation
    assert said[place.start_index : place.end_index] == "The elf owl weighs 40 grams."
    assert place.title == "Elf owl"
    key = address.split()[1]
    found = httpx.get(place.url, headers=bearer(key), timeout=PATIENCE)
    assert "40 grams" in found.json()["text"]
    (citation,) = extra(done, "citations")
    assert citation["quote"] == "The elf owl weighs 40 grams."
    assert citation["source"]["title"] == "Elf owl"
    assert done.usage is not None
    assert done.usage.prompt_tokens > 10
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.id == f"chatcmpl-{extra(done, 'answer')['id']}"


def test_pictures_are_shown_one_and_several(client: openai.OpenAI) -> None:
    red = png((200, 60, 90), (90, 60))
    one = client.chat.completions.create(
        model="owls", messages=[say("How much does this owl weigh?", red)]
    )
    assert "2700 grams" in (one.choices[0].message.content or "")
    two = client.chat.completions.create(
        model="owls@owl-nano",
        messages=[say("Do these two pictures show the same?", red, png((0, 60, 90), (90, 60)))],
    )
    assert extra(two, "answer")["model"] == "owl-nano"
    assert len(extra(two, "answer")["pictures"]) == 2


def test_earlier_messages_are_the_conversation(client: openai.OpenAI) -> None:
    red = png((200, 60, 90), (90, 60))
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        say("How much does this owl weigh?", red),
        {"role": "assistant", "content": "The Eagle Owl weighs 2700 grams. [1]"},
        {"role": "user", "content": "Where does it nest?"},
    ]
    done = client.chat.completions.create(model="owls", messages=messages)
    assert "cliffs" in (done.choices[0].message.content or "")
    assert "Eagle Owl" in extra(done, "answer")["reading"]


@pytest.mark.parametrize("model", ["owls", "owls@big"])
@pytest.mark.parametrize("usage", [True, False])
def test_streaming(client: openai.OpenAI, model: str, usage: bool) -> None:
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=[say(WEIGHT)],
            stream=True,
            stream_options={"include_usage": usage},
        )
    )
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "weighs 40 grams" in said
    assert chunks[0].choices[0].delta.role == "assistant"
    last = [chunk for chunk in chunks if chunk.choices][-1]
    assert last.choices[0].finish_reason == "stop"
    citations = extra(last, "citations")
    assert citations
    assert extra(last, "answer")["text"] == said
    assert len({chunk.id for chunk in chunks}) == 1
    assert (chunks[-1].usage is not None) is usage
    if usage:
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens > 0
        if model == "owls@big":
            assert chunks[-1].usage.completion_tokens == 7


def test_the_clients_own_stream_helper_gathers_it(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="owls@big", messages=[say(WEIGHT)]) as stream:
        done = stream.get_final_completion()
    assert done.choices[0].message.content == "The elf owl weighs 40 grams [1]."


def test_extensions_narrow_what_is_shown(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="owls", messages=[say(WEIGHT)])
    used = extra(first, "citations")[0]["source"]["item_id"]
    again = client.chat.completions.create(
        model="owls", messages=[say(WEIGHT)], extra_body={"exclude_items": [used], "k": 1}
    )
    assert used not in json.dumps(extra(again, "answer")["sources"])
    assert len(extra(again, "answer")["sources"]) == 1


def test_only_what_is_borne_out_is_said_where_that_is_asked_for(client: openai.OpenAI) -> None:
    asked: Any = {"model": "owls@big", "messages": [say("Does the elf owl live on the moon?")]}
    assert "moon" in str(client.chat.completions.create(**asked).choices[0].message.content)
    more = {"require_support": True, "verify": "full"}
    checked = client.chat.completions.create(**asked, extra_body=more)
    assert str(checked.choices[0].message.content).strip() == "The elf owl weighs 40 grams [1]."
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked, extra_body={"verify": "twice"})
    assert refused.value.param == "verify"


def test_models_are_listed_page_by_page(address: str) -> None:
    at, key = address.split()
    first = httpx.get(f"{at}/v1/models?limit=1", headers=bearer(key), timeout=PATIENCE).json()
    assert [each["id"] for each in first["data"]][:2] == ["owls", "owls@sentences"]
    assert first["next_cursor"] is None  # what the key may not see is on no page
    wrong = httpx.get(f"{at}/v1/models?cursor=x", headers=bearer(key), timeout=PATIENCE)
    assert wrong.json()["error"]["param"] == "cursor"


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["owls", "owls@sentences", "owls@owl-nano", "owls@big"]  # no secrets
    assert client.models.retrieve("owls@big").id == "owls@big"
    for name in ("secrets", "owls@bigger", "nothing"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)


def test_tools_reach_a_remote_model(client: openai.OpenAI, model_server: ModelServer) -> None:
    messages: Any = [{"role": "system", "content": "Be kind."}, say("And the weather?")]
    asked: Any = {"model": "owls@big", "tools": [TOOL], "tool_choice": "auto"}
    called = client.chat.completions.create(messages=messages, **asked)
    (choice,) = called.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Tucson"}
    assert model_server.requests[-1]["tools"] == [TOOL]
    assert "Be kind." in model_server.requests[-1]["messages"][0]["content"]
    chunks = list(client.chat.completions.create(messages=messages, stream=True, **asked))
    streamed_calls = [c.choices[0].delta.tool_calls for c in chunks if c.choices]
    assert any(calls and calls[0].id == "call_1" for calls in streamed_calls)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"

    messages += [
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    done = client.chat.completions.create(messages=messages, **asked)
    assert "It rains" in (done.choices[0].message.content or "")
    sent = model_server.requests[-1]["messages"]
    assert [message["role"] for message in sent[-3:]] == ["user", "assistant", "tool"]
    assert sent[-1]["tool_call_id"] == "call_1"
    assert sent[-2]["tool_calls"][0]["function"]["name"] == "weather"


# --- what fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kind", "param"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "model"),
        ({"model": "secrets"}, openai.NotFoundError, "model"),
        ({"model": "owls@/etc"}, openai.NotFoundError, "model"),
        ({"model": "owls@"}, None, None),
        ({"tools": [TOOL]}, openai.BadRequestError, "tools"),
        ({"n": 2}, openai.BadRequestError, "n"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, openai.BadRequestError, "question"),
        ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError,
         "messages.0.role"),
        ({"messages": [say("x"), {"role": "assistant", "content": "y"}]}, openai.BadRequestError,
         "messages"),
    ],
)  # fmt: skip
def test_errors_come_in_openais_form(
    client: openai.OpenAI, sent: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    request: Any = {"model": "owls", "messages": [say(WEIGHT)], **sent}
    if kind is None:
        assert client.chat.completions.create(**request).choices
        return
    for stream in (False, True):
        with pytest.raises(kind) as raised:
            client.chat.completions.create(**request, stream=stream)
        assert raised.value.param == param
        assert raised.value.type == "invalid_request_error"
        assert raised.value.message
        if kind is openai.NotFoundError:
            assert raised.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
         "messages.0.content.0.image_url"),
        ({"type": "image_url"}, "messages.0.content.0.image_url"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
         "messages.0.content.0"),
    ],
)  # fmt: skip
def test_bad_parts_are_named(client: openai.OpenAI, part: Any, where: str) -> None:
    messages: Any = [{"role": "user", "content": [part]}]
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="owls", messages=messages)
    assert raised.value.param == where


def test_a_wrong_key_and_none(address: str) -> None:
    at, _ = address.split()
    wrong = openai.OpenAI(base_url=f"{at}/v1", api_key="owl_wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError) as raised:
        wrong.chat.completions.create(model="owls", messages=[say(WEIGHT)])
    assert raised.value.type == "authentication_error"
    assert "owl_wrong" not in raised.value.message


def test_a_stream_that_breaks_raises_in_the_client(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="owls@big", messages=[say("break?")], stream=True)
    said: list[str] = []

    def listen() -> None:
        said.extend(chunk.choices[0].delta.content or "" for chunk in stream)

    with pytest.raises(openai.APIError, match="broke off after 12 characters"):
        listen()


def test_the_async_client_works_too(address: str) -> None:
    import asyncio

    at, key = address.split()

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{at}/v1", api_key=key) as client:
            stream = await client.chat.completions.create(
                model="owls", messages=[say(WEIGHT)], stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    assert "40 grams" in asyncio.run(ask())


def test_what_never_comes_to_the_route_is_told_in_openais_form_too(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": "sentences", "max_request_bytes": 1024}
    with (
        serve(tmp_path / "data", address_rate="4/day", **settings) as at,
        openai.OpenAI(base_url=f"{at}/v1", api_key="any", max_retries=0) as client,
    ):

        def refused(text: str = WEIGHT, **more: Any) -> openai.APIStatusError:
            with pytest.raises(openai.APIStatusError) as raised:
                client.chat.completions.create(model="owls", messages=[say(text)], **more)
            error = raised.value
            assert error.response.headers["content-type"] == "application/json"
            assert set(error.response.json()) == {"error"}
            assert error.message
            return error

        # Neither of these two is counted: they are refused before.
        error = refused(extra_headers={"Host": "owls.example"})
        assert (error.status_code, error.type) == (421, "invalid_request_error")
        assert error.param == "Host"
        error = refused(extra_headers={"Origin": "https://elsewhere.example"})
        assert isinstance(error, openai.PermissionDeniedError)
        assert error.type == "permission_error"
        error = refused("x" * 2000)
        assert (error.status_code, error.type) == (413, "invalid_request_error")
        assert "1,024 bytes" in error.message
        with pytest.raises(openai.APIStatusError) as raised:
            client.get("/chat/completions", cast_to=object)
        assert raised.value.status_code == 405
        assert raised.value.type == "invalid_request_error"
        assert raised.value.response.headers["allow"] == "POST"
        with pytest.raises(openai.NotFoundError) as unknown:
            client.models.retrieve("a/b")
        assert unknown.value.type == "invalid_request_error"
        assert refused().status_code == 404  # the fourth: there is no such collection
        error = refused()
        assert isinstance(error, openai.RateLimitError)
        assert error.type == "rate_limit_error"
        assert int(error.response.headers["retry-after"]) > 0
        with pytest.raises(openai.RateLimitError):
            client.models.list()
        other = httpx.get(f"{at}/v1/collections", timeout=PATIENCE)
        assert other.headers["content-type"] == "application/problem+json"
