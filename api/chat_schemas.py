"""OpenAI's chat completions, as far as they mean something here.

Unknown fields are left alone, as clients send many; what would change the answer's meaning and is
not to be had is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from rag_owl.api.answer_schemas import Id
from rag_owl.api.schemas import Filters, Text
from rag_owl.ask import LEAST_BUDGET, MOST_BUDGET, MOST_TOKENS
from rag_owl.settings import MOST_ITEMS
from rag_owl.types import Verify


class _Sent(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class ImageUrl(_Sent):
    url: str


class Part(_Sent):
    type: str
    text: Text | None = None
    image_url: ImageUrl | None = None


class Message(BaseModel):
    model_config = ConfigDict(
        extra="allow", strict=True
    )  # tool calls and their results go on as they are

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None


class StreamOptions(_Sent):
    include_usage: bool | None = None


ToolChoice: TypeAlias = str | dict[str, Any] | None


class Completion(_Sent):
    model: Annotated[
        Text,
        Field(
            min_length=1,
            max_length=300,
            description="`<collection>` or `<collection>@<answerer>`.",
            examples=["flags"],
        ),
    ]
    messages: list[Message] = Field(min_length=1, max_length=200)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    n: int | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_choice: ToolChoice = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    filters: Filters = Field(None, description="An extension: metadata filters.")
    k: int | None = Field(None, ge=1, le=MOST_ITEMS, description="An extension.")
    budget: int | None = Field(
        None, ge=LEAST_BUDGET, le=MOST_BUDGET, description="An extension: characters shown."
    )
    exclude_items: list[Id] = Field([], max_length=MOST_ITEMS, description="An extension.")
    verify: Verify = Field("default", description="An extension: as of `/v1/answers`.")
    require_support: bool = Field(False, description="An extension: as of `/v1/answers`.")
