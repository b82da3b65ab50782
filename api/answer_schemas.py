"""Answers over the wire, for the OpenAPI document and for checking what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from rag_owl.api.schemas import CollectionName, DataUrl, Filters, In, Location, Retrieved, Text
from rag_owl.ask import LEAST_BUDGET, LONGEST_QUESTION, MOST_BUDGET, MOST_TOKENS
from rag_owl.settings import MOST_ITEMS
from rag_owl.types import Verify

Id = Annotated[Text, StringConstraints(min_length=1, max_length=64)]
ModelName = Annotated[
    Text, StringConstraints(min_length=1, max_length=200), Field(examples=["sentences"])
]
VideoUrl = Annotated[
    str, StringConstraints(pattern=r"^data:[a-z]+/[a-z0-9.+-]+;base64,"), Field(examples=[None])
]


class Ask(In):
    collection: CollectionName
    question: Annotated[
        Text, Field(min_length=1, max_length=LONGEST_QUESTION, examples=["What is the capital?"])
    ]
    images: list[DataUrl] = Field([], description="Pictures shown with the question.")
    video: VideoUrl | None = Field(None, description="A film shown with it, as a data URL.")
    filters: Filters = None
    k: int | None = Field(None, ge=1, le=MOST_ITEMS, description="Items retrieved.")
    model: ModelName | None = Field(None, description="One of `/v1/answerers`; null: the default.")
    conversation_id: Id | None = Field(None, description="Of an earlier answer, to go on from it.")
    exclude_items: list[Id] = Field(
        [], max_length=MOST_ITEMS, description="Items that the model must not be shown."
    )
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS, description="Of the answer.")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="For models that draw.")
    verify: Verify = Field(
        "default",
        description="`full`: also how much less likely each statement is without each item that "
        "it cites, where the model can say it.",
    )
    require_support: bool = Field(
        False,
        description="Leave out statements that no item bears out; text comes sentence by sentence.",
    )
    budget: int | None = Field(
        None,
        ge=LEAST_BUDGET,
        le=MOST_BUDGET,
        description="Characters of text that the model is shown; at most what the service allows.",
    )
    stream: bool = Field(False, description="Answer with server-sent events.")


class Replay(In):
    exclude_items: list[Id] | None = Field(
        None, max_length=MOST_ITEMS, description="Instead of those of the first time."
    )
    model: ModelName | None = Field(None, description="Instead of that of the first time.")


class Rate(In):
    rating: Literal[-1, 0, 1]
    comment: Annotated[Text, Field(max_length=2_000)] | None = None


class Source(BaseModel):
    document_id: str
    document_name: str
    item_id: str
    revision: int
    title: str


class Support(BaseModel):
    """What was checked, and how it came out; null: not checked."""

    verdict: Literal["supported", "partly", "unsupported", "unchecked"]
    attention: float | None = Field(description="Share of the model's attention on the item.")
    ablation_drop: float | None = Field(
        description="Log-probability (nats) that the statement loses without the item."
    )
    entailment: float | None = Field(
        description="The judge's probability that the item bears the statement out."
    )
    contradicted: bool
    alike: float | None = Field(
        description="The model's probability that the item's picture shows what the user's does, "
        "where that is what the statement says."
    )
    relevance: float | None = Field(
        description="The probability that what is cited answers the question: a source may bear "
        "out what was not asked."
    )


class Citation(BaseModel):
    start: int = Field(description="Code points of the answer's text; the end is exclusive.")
    end: int
    marker: int = Field(description="As in the text: `[1]`.")
    source: Source
    location: Location
    quote: str | None
    filled: bool = Field(description="The text has no marker here; attention or a judge says so.")
    support: Support


class Statement(BaseModel):
    start: int = Field(description="Code points of the answer's text, markers not included.")
    end: int
    verdict: Literal["supported", "partly", "unsupported", "unchecked"] = Field(
        description="The best of its citations; `unsupported` also where nothing is cited."
    )
    contradicted_by: list[int] = Field(description="Markers of sources that say otherwise.")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str
    collection: str
    question: str
    text: str
    short: str | None = Field(description="The answer alone, where the model can say it.")
    abstained: bool
    answerable: float | None
    model: str
    generation: int
    citations: list[Citation]
    dangling_markers: list[int] = Field(description="Markers that point to nothing.")
    statements: list[Statement]
    left_out: list[str]
    notes: list[str]
    conversation_id: str | None
    reading: str | None = Field(description="How a follow-up was understood.")
    exclude_items: list[str]
    replay_of: str | None
    usage: Usage | None
    rating: Literal[-1, 0, 1] | None
    rating_comment: str | None
    created_at: float


class ShownSource(Retrieved):
    marker: int


class WholeAnswer(Answer):
    sources: list[ShownSource] = Field(
        description="What the model was shown. What was deleted since then is missing."
    )


class Changed(BaseModel):
    added: list[str] = Field(description="Item ids.")
    removed: list[str]


class Changes(BaseModel):
    """What is different from the answer that was asked for again."""

    previous: str
    text: bool
    abstained: bool
    sources: Changed
    cited: Changed


class Replayed(WholeAnswer):
    changes: Changes


class Answerer(BaseModel):
    name: str = Field(examples=["sentences"])
    default: bool


def plain_schema(model: type[BaseModel]) -> dict[str, Any]:
    """For a body that FastAPI does not read itself: whole, without references."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return whole(parts[value["$ref"].rpartition("/")[2]])
            return {name: whole(each) for name, each in value.items()}
        return [whole(each) for each in value] if isinstance(value, list) else value

    found: dict[str, Any] = whole(schema)
    return found
