"""The few places where an implementation can be exchanged. Chosen in `registry.py` and `app.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, runtime_checkable

from rag_owl.types import Bearing, Claim, Context, Draft, Question, Retrieved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


class TextEmbedder(Protocol):
    """Texts to unit vectors."""

    name: str  # with revision: what a generation is bound to
    dimension: int

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """(n,) -> (n, dimension), rows of unit length, in the order given."""
        ...

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """-> (dimension,): as `embed_texts`, with the model's query prompt where it has one."""
        ...


class PictureEmbedder(Protocol):
    """Pictures to unit vectors."""

    name: str
    dimension: int
    reads_text: bool  # whether `embed_query` puts text into the same space
    text_floor: float  # cosine below which a picture has nothing to do with a text

    def embed_pictures(self, pictures: Sequence[Image]) -> NDArray[np.float32]:
        """(n,) upright RGB -> (n, dimension), rows of unit length."""
        ...

    def embed_query(self, text: str) -> NDArray[np.float32]: ...


class BlobStore(Protocol):
    """Bytes by their own sha256. `put` returns only after the bytes are on the disk."""

    def put(self, data: bytes | IO[bytes]) -> str: ...
    def arrivals(self) -> BlobArrivals: ...
    def get(self, key: str) -> bytes: ...
    def path(self, key: str) -> Path:
        """A local file that holds the blob (a cached copy when the store is remote)."""
        ...

    def exists(self, key: str) -> bool: ...
    def delete(self, key: str) -> None: ...


class BlobArrivals(Protocol):
    """Blobs for one transaction. For one thread."""

    def put(self, data: bytes | IO[bytes]) -> str:
        """Take the bytes, which are stored only when `settle` has returned; their key."""
        ...

    def settle(self) -> None:
        """Return when all that was put is on the disk."""
        ...

    def drop(self) -> None:
        """Forget what was put and is not settled; nothing else."""
        ...


class Retriever(Protocol):
    def retrieve(self, question: Question, on_note: Callable[[str], None]) -> list[Retrieved]:
        """on_note: told in a sentence of what could not be searched."""
        ...


class Answerer(Protocol):
    """A model that reads a context and answers.

    `on_text` gets the answer's text as it comes; what it raises ends the answer. While there is no
    text it may be given an empty one, so that it can say that nobody listens any more.
    """

    name: str

    def answer(self, context: Context, on_text: Callable[[str], None] | None = None) -> Draft: ...


class Judge(Protocol):
    """Says how an item's text bears on a statement: what citations are checked with."""

    name: str
    supported_from: float  # probability from which on a statement counts as supported
    unsupported_below: float  # and below which as unsupported; between them as partly
    contradicted_from: float  # probability of contradiction that is reported as one

    def judge_all(self, claims: Sequence[Claim]) -> list[Bearing | None]:
        """In the order given; None where it cannot read the statement or the item."""
        ...


@runtime_checkable
class Ablator(Protocol):
    """An answerer that can be asked again without one of its sources."""

    def ablate(self, context: Context, draft: Draft) -> list[float | None]:
        """Per attribution of the draft: the log-probability (nats) that its statement loses when
        its source alone is masked out of the context. None: nothing of it was shown. What was
        seen in pictures is not computed again."""
        ...


@dataclass(frozen=True, slots=True)
class Grounding:
    """Calibrated thresholds of a model's own signs; None: not calibrated, shown without verdict."""

    attention_from: float | None = None  # share of attention from which on a source counts
    drop_from: float | None = None  # nats below which a statement does not rest on a source
    alike_from: float | None = None  # probability from which on two pictures show the same
    alike_below: float | None = None  # and below which they do not; between them: perhaps


@runtime_checkable
class Grounded(Protocol):
    """An answerer whose own signs are calibrated."""

    grounding: Grounding


@runtime_checkable
class Heatmapper(Protocol):
    """An answerer that can say where in pictures it looked."""

    def heatmap(
        self, context: Context, source: int
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.float32] | None]:
        """What it looked at while it read one source: per picture of the user's and for the
        source's own (None: it has none, or was not looked at) a (G, G) map of attention, row by
        row from the top left."""
        ...


@runtime_checkable
class Rememberer(Protocol):
    """An answerer with a visual memory: it can look at a picture before any question comes."""

    def remember_picture(self, key: str) -> bool:
        """Store what its vision computes of the blob; whether it is stored now."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """An answerer that takes `Question.video` as a video; others are shown a few pictures of it."""

    watches_video: bool
