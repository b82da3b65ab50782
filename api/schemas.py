"""What goes over the wire, for the OpenAPI document and for checking what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from rag_owl.settings import MOST_ITEMS
from rag_owl.store.names import is_storable

T = TypeVar("T")


def _storable(value: str) -> str:
    if not is_storable(value):
        raise ValueError("it holds a NUL or a lone surrogate; leave it out")
    return value


Text = Annotated[str, AfterValidator(_storable)]
CollectionName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$"), Field(examples=["flags"])
]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class In(BaseModel):
    """What is sent to us: no field that we do not know, no number written as text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(BaseModel):
    """RFC 9457: what is wrong, with which part of the request, and what to do."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no collection 'birds'; there are: flags."])
    field: str | None = Field(None, description="The part of the request that it is about.")
    request_id: str | None = None


class Page(BaseModel, Generic[T]):
    data: list[T]
    next_cursor: str | None = Field(description="For the next page; null: there is none.")


class Listed(BaseModel, Generic[T]):
    data: list[T]


# --- knowledge ------------------------------------------------------------------------------------


class NewCollection(In):
    name: CollectionName


class CollectionInfo(BaseModel):
    name: str = Field(examples=["flags"])
    documents: int = Field(examples=[120])
    items: int = Field(examples=[240])
    text_embedder: str | None = Field(description="null: nothing was ingested yet.")
    picture_embedder: str | None


class Reindex(In):
    action: Literal["build", "switch", "rollback", "drop"] = "build"
    text_embedder: Annotated[Text, Field(min_length=1, max_length=500)] | None = Field(
        None, description="null: as it is.", examples=["all-MiniLM-L6-v2"]
    )
    picture_embedder: Annotated[Text, Field(min_length=1, max_length=500)] | None = Field(
        None, examples=["owl-nano-eyes"]
    )
    index_type: Literal["auto", "flat", "hnsw", "ivf"] | None = None
    vector_engine: Literal["faiss", "milvus"] | None = None
    answerer: Annotated[Text, Field(min_length=1, max_length=500)] | None = Field(
        None, description="It looks at every picture now, where it remembers them."
    )
    hold: bool = Field(False, description="Build and compare; leave the switch for later.")


class Comparison(BaseModel):
    """Overlaps are fractions of the k best, from 0 to 1; times are of a whole search."""

    basis: Literal["questions", "items"] = Field(
        description="Stored questions; where there are none, texts of items."
    )
    questions: int
    failed: int = Field(description="That one of the two could not be asked.")
    same_documents: float | None
    same_locations: float | None
    same_first: float | None
    live_ms: float | None
    live_p95_ms: float | None
    new_ms: float | None
    new_p95_ms: float | None
    note: str | None


class Generation(BaseModel):
    generation: int
    state: Literal["building", "ready", "live", "kept"]
    splitter: int
    text_embedder: str
    text_dimension: int
    picture_embedder: str
    picture_dimension: int
    vector_engine: str
    index_type: str
    vectors: int
    created_at: float = Field(description="Seconds since the epoch.")
    live_since: float | None
    comparison: Comparison | None = Field(description="With the one that was live then.")


class Document(BaseModel):
    id: str
    collection: str = Field(examples=["flags"])
    name: str = Field(examples=["japan.png"])
    title: str = Field(examples=["Japan"])
    revision: int = Field(examples=[1])
    sha256: str
    media_type: str = Field(examples=["image/png"])
    metadata: dict[str, Any]
    items: int


class Location(BaseModel):
    """Where it is in its document; what does not apply is left out."""

    model_config = ConfigDict(extra="allow")

    type: Literal["text", "page", "image_region", "video"]


class Item(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str
    document_id: str
    document_name: str
    revision: int
    kind: Literal["passage", "page", "picture", "video"]
    title: str
    heading: str
    text: str | None
    picture: str | None = Field(description="The key of its picture; null: it has none.")
    location: Location
    metadata: dict[str, Any]


class Retrieved(BaseModel):
    item: Item
    score: float = Field(description="Weighted reciprocal-rank fusion: higher is better.")
    channels: list[Literal["text", "picture", "words"]]
    similarities: dict[str, float]


DataUrl = Annotated[
    str,
    StringConstraints(pattern=r"^data:[a-z]+/[a-z0-9.+-]+;base64,"),
    Field(examples=["data:image/png;base64,iVBORw0KGgo…"]),
]
Filters = Annotated[
    dict[str, Any] | None,
    Field(
        description="`and`, `or`, `not`; ops `== != in < <= > >= exists`.",
        examples=[{"field": "year", "op": ">=", "value": 1990}],
    ),
]


class Search(In):
    query: Annotated[Text, Field(max_length=10_000, examples=["landlocked country"])] = ""
    images: list[DataUrl] = []
    filters: Filters = None
    k: int = Field(5, ge=1, le=MOST_ITEMS)
    channels: list[Literal["text", "picture", "words"]] | None = Field(
        None, min_length=1, max_length=3, description="Only these searches; null: all that fit."
    )


class Found(BaseModel):
    data: list[Retrieved]
    notes: list[str] = Field(description="What could not be searched, and how to mend it.")


# --- jobs -----------------------------------------------------------------------------------------


class Skipped(BaseModel):
    name: str = Field(examples=["notes.docx"])
    reason: str


class Job(BaseModel):
    """A durable job. Counters count documents, or what else it handles; `found` may still grow."""

    id: str
    kind: str = Field(examples=["ingest"])
    collection: str | None = Field(
        examples=["flags"],
        description="`null`: it is of the whole installation. Of the job that removes a deleted "
        "collection: the name it had. Of other jobs of a collection that is being deleted: empty.",
    )
    state: JobState
    found: int
    added: int
    updated: int
    unchanged: int
    skipped: list[Skipped] = Field(description="The first of them; see `/skipped` for all.")
    skipped_count: int
    items: int
    error: str | None
    created_at: float = Field(description="Seconds since the epoch.")
    finished_at: float | None
    done: int = Field(description="Added, updated and unchanged ones, or what else it does.")
    failed: int
    left: int = Field(description="Of what was found so far.")
    rate: float | None = Field(description="Handled per second since it was taken up last.")
    started_at: float | None
    expected_end: float | None = Field(description="Seconds since the epoch, while it runs.")
    cancelling: bool = Field(description="It was asked to stop and has not stopped yet.")


class Received(BaseModel):
    name: str = Field(examples=["japan.png"], description="As it was made safe.")
    sha256: str


class Uploaded(BaseModel):
    job: Job
    documents: list[Received]


class FromUrl(In):
    url: Annotated[Text, Field(max_length=2_000, examples=["https://example.org/owls.pdf"])]
    metadata: dict[str, Any] = {}


# --- keys and health ------------------------------------------------------------------------------

Scope = Literal["ask", "ingest", "admin"]


class NewKey(In):
    name: Annotated[Text, Field(min_length=1, max_length=200, examples=["the website"])]
    scopes: list[Scope] = Field(min_length=1, max_length=3, examples=[["ask"]])
    collections: list[CollectionName] | None = Field(
        None, max_length=1_000, description="The only ones that it may see; null: all."
    )
    expires_at: float | None = Field(None, description="Seconds since the epoch; null: never.")


class Key(BaseModel):
    id: str
    name: str
    scopes: list[Scope]
    collections: list[str] | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None


class CreatedKey(Key):
    key: str = Field(description="Shown this once.", examples=["owl_…"])


class Health(BaseModel):
    status: Literal["ok"]


class Readiness(BaseModel):
    ready: bool
    waiting_for: list[str]
