"""The values that pass between the parts: frozen, and free of database rows, tensors and HTTP.

Offsets are Unicode code points of a document's extracted text, end exclusive.
A box is `(left, top, right, bottom)` in fractions of the upright page or picture, origin top left.
Pictures travel as blob keys (`rag_owl.blobs`), never as pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Box: TypeAlias = tuple[float, float, float, float]
Metadata: TypeAlias = Mapping[str, Any]  # JSON values
ItemKind: TypeAlias = Literal["passage", "page", "picture", "video"]
Channel: TypeAlias = Literal["text", "picture", "words"]  # dense text, dense picture, lexical
Verdict: TypeAlias = Literal["supported", "partly", "unsupported", "unchecked"]
Verify: TypeAlias = Literal["default", "full"]  # full: each cited item is also masked out


# --- where something is in its document -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextLocation:
    start: int
    end: int
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class PageLocation:
    page: int  # from 1
    boxes: tuple[Box, ...]  # what holds the text; empty: the whole page
    start: int | None = None
    end: int | None = None
    type: Literal["page"] = "page"


@dataclass(frozen=True, slots=True)
class ImageLocation:
    box: Box | None = None  # None: the whole picture
    heatmap_url: str | None = None
    type: Literal["image_region"] = "image_region"


@dataclass(frozen=True, slots=True)
class VideoLocation:
    start_seconds: float
    end_seconds: float
    type: Literal["video"] = "video"


Location: TypeAlias = TextLocation | PageLocation | ImageLocation | VideoLocation


@dataclass(frozen=True, slots=True)
class TextBox:
    """A run of text on a page and where it stands: offsets of the document, box on the page."""

    start: int
    end: int
    box: Box


@dataclass(frozen=True, slots=True)
class TextTime:
    """A run of an item's text and when it is said: offsets of the item's text, seconds."""

    start: int
    end: int
    start_seconds: float
    end_seconds: float


# --- what is stored -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """What a user adds and deletes: the newest revision of it."""

    id: str
    collection: str
    name: str
    title: str
    revision: int  # from 1
    sha256: str  # of the content: the identity within a collection
    media_type: str
    metadata: Metadata = field(default_factory=dict)
    items: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """What is retrieved and cited: a passage, a page, a picture or a stretch of video.

    `text` is exactly `document_text[start:end]`; `heading` is what a reader needs before it (the
    headings above, a table's column names) and belongs to no offset. A picture item may have text
    as well, a passage may have a picture: what belongs together is shown to the model together.
    """

    id: str
    document_id: str
    document_name: str
    revision: int
    ordinal: int  # position within the revision, from 0
    kind: ItemKind
    title: str
    location: Location
    text: str | None = None
    heading: str = ""
    picture: str | None = None  # blob key
    text_boxes: tuple[TextBox, ...] = ()
    text_times: tuple[TextTime, ...] = ()  # of a stretch of video
    metadata: Metadata = field(default_factory=dict)
    video: str | None = None  # of a stretch of video: the whole film, as a blob key


@dataclass(frozen=True, slots=True)
class Skipped:
    """A piece of input that could not be used; the job went on without it."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """A durable job as it stands now. Counters count documents; `found` may still grow.

    Of kinds that add no documents `found`, `done`, `failed` and `left` count what they handle.
    """

    id: str
    kind: str
    collection: str | None  # None: it is of the whole installation
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    found: int = 0
    added: int = 0  # new documents
    updated: int = 0  # new revisions of known documents
    unchanged: int = 0  # the same bytes again
    skipped: list[Skipped] = field(default_factory=list)  # the first thousand
    skipped_count: int = 0
    items: int = 0  # made searchable
    error: str | None = None
    created_at: float = 0.0  # seconds since the epoch
    finished_at: float | None = None
    done: int = 0  # added, updated and unchanged ones, or what else it does
    failed: int = 0
    left: int = 0  # of what was found so far
    rate: float | None = None  # handled per second since it was taken up last
    started_at: float | None = None
    expected_end: float | None = None  # seconds since the epoch; None: nobody knows
    cancelling: bool = False  # it was asked to stop and has not stopped yet

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def handled(self) -> int:
        return self.done + self.skipped_count + self.failed


# --- one question ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier question of the same conversation, and what was answered."""

    question: str  # in the user's words
    reading: str  # the same, understood without what went before it
    text: str
    short: str | None = None
    abstained: bool = False
    pictures: tuple[str, ...] = ()  # blob keys
    video: str | None = None
    cited: tuple[str, ...] = ()  # item ids
    titles: tuple[str, ...] = ()  # of the cited items, in the order of their citations


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the model itself counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Question:
    collection: str
    text: str
    pictures: tuple[str, ...] = ()  # blob keys, in the order the user gave them
    filters: Mapping[str, Any] | None = None
    k: int = 5
    channels: tuple[Channel, ...] | None = None  # only these searches; None: all that fit
    video: str | None = None  # blob key of the user's own video
    conversation_id: str | None = None
    history: tuple[Turn, ...] = ()  # the conversation so far, oldest first
    words: str | None = None  # the user's own, where `text` is how a follow-up was understood
    exclude_items: tuple[str, ...] = ()  # item ids that must not be shown to the model
    max_tokens: int | None = None  # the longest answer; None: as the settings say
    seed: int | None = None
    budget: int | None = None  # characters of text shown to the model; None: as the settings say
    model: str | None = None  # the answerer by the name it was asked for; None: the default
    replay_of: str | None = None  # id of the answer that is asked for again
    asked_by: str | None = None  # id of a key
    verify: Verify = "default"
    require_support: bool = False  # statements without support are left out of the answer


@dataclass(frozen=True, slots=True)
class Retrieved:
    item: Item
    score: float  # weighted reciprocal-rank fusion, higher is better
    similarities: Mapping[Channel, float] = field(default_factory=dict)
    """What each channel that found it says: cosine for `text` and `picture`, BM25 for `words`."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(self.similarities)


@dataclass(frozen=True, slots=True)
class Context:
    """What the answering model is shown: `sources[i]` *is* the marker `[i+1]`."""

    question: Question
    sources: tuple[Retrieved, ...]
    left_out: tuple[str, ...] = ()  # item ids that did not fit the budget, best first


@dataclass(frozen=True, slots=True)
class Attribution:
    """The model's own word that `draft.text[start:end]` rests on `context.sources[source]`."""

    start: int
    end: int
    source: int  # index into Context.sources
    item_start: int | None = None  # the ground within the item's text, when it can be pointed at
    item_end: int | None = None
    attention: float | None = None  # share of attention mass, 0 to 1
    box: Box | None = None  # where in the item's picture
    seconds: tuple[float, float] | None = None  # from and to, of the document's video
    filled: bool = False  # the text has no marker: attention or a judge says so
    alike: float | None = None  # probability that the item's picture shows what the user's does:
    # then it is this that the statement says, and not what is written in the item
    relevance: float | None = None  # probability that what is pointed to answers the question


@dataclass(frozen=True, slots=True)
class Look:
    """`text[start:end]` of the answer rests on the user's own pictures of these numbers, from 1."""

    start: int
    end: int
    pictures: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """`text[start:end]` of the answer rests on a stretch of the user's own video."""

    start: int
    end: int
    start_seconds: float
    end_seconds: float
    attention: float | None = None  # share of attention mass, 0 to 1


@dataclass(frozen=True, slots=True)
class Draft:
    """What an answerer says, before its evidence is checked."""

    text: str
    attributions: tuple[Attribution, ...] = ()
    short: str | None = None  # the answer alone
    answerable: float | None = None  # the model's probability that the sources hold the answer
    abstained: bool = False
    model: str = ""
    moments: tuple[Moment, ...] = ()
    left_out: tuple[str, ...] = ()  # ids of sources that the model was not shown, or not whole
    notes: tuple[str, ...] = ()  # what the reader should know, as whole sentences
    usage: Usage | None = None  # None: the model does not count
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement and an item that may bear it out, and the question that it answers."""

    statement: str
    item: Item
    question: str | None = None


@dataclass(frozen=True, slots=True)
class Bearing:
    """How a text bears on a statement: two probabilities; the rest: it says nothing of it."""

    supported: float
    contradicted: float


@dataclass(frozen=True, slots=True)
class Support:
    """What was checked of one citation, and how it came out; None: not checked."""

    verdict: Verdict = "unchecked"
    attention: float | None = None  # share of attention mass on the item
    ablation_drop: float | None = None  # nats that the statement loses without the item
    entailment: float | None = None  # probability that the item bears the statement out
    contradicted: bool = False
    alike: float | None = None  # probability that the item's picture shows what the user's does
    relevance: float | None = None  # probability that what the item says answers the question


@dataclass(frozen=True, slots=True)
class Citation:
    start: int  # characters of Answer.text
    end: int
    marker: int  # from 1
    item_id: str
    document_id: str
    document_name: str
    revision: int
    title: str
    location: Location
    quote: str | None
    support: Support
    picture: str | None = None  # blob key of the item's picture
    filled: bool = False  # the text has no marker here: attention or a judge says so


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of an answer, and the best that its citations say for it."""

    start: int  # characters of Answer.text, markers not included
    end: int
    verdict: Verdict  # "unsupported" also where nothing is cited
    contradicted_by: tuple[int, ...] = ()  # markers of sources that say otherwise


@dataclass(frozen=True, slots=True)
class Answer:
    id: str
    collection: str
    question: str
    text: str
    abstained: bool
    citations: tuple[Citation, ...]
    model: str
    generation: int
    short: str | None = None
    answerable: float | None = None
    dangling_markers: tuple[int, ...] = ()  # markers in the text that point to nothing
    left_out: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    created_at: float = 0.0  # seconds since the epoch
    video: str | None = None  # blob key
    moments: tuple[Moment, ...] = ()  # what rests on that video, and where in it
    notes: tuple[str, ...] = ()  # such as: a picture could not be read and was left out
    conversation_id: str | None = None
    reading: str | None = None  # how a follow-up was understood, where that differs
    sources: tuple[str, ...] = ()  # item ids that the model was shown: sources[i] is marker [i+1]
    exclude_items: tuple[str, ...] = ()
    replay_of: str | None = None  # id of the answer that was asked for again
    usage: Usage | None = None
    rating: int | None = None  # -1, 0 or 1, by the user
    rating_comment: str | None = None
    statements: tuple[Statement, ...] = ()  # none of an abstention
    looks: tuple[Look, ...] = ()  # what rests on the user's own pictures
    heatmaps: bool = False  # the model can say where in pictures it looked
