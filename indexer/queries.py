"""A question as each search takes it: what its words and pictures are embedded to."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rag_owl import media
from rag_owl.errors import InvalidCheckpoint, ModelNotFound
from rag_owl.media import Limits
from rag_owl.ports import BlobStore, PictureEmbedder, TextEmbedder
from rag_owl.steps import step
from rag_owl.store.collections import Generation
from rag_owl.types import Channel, Question

log = logging.getLogger(__name__)

T = TypeVar("T")

_GONE_HOLDS = 60.0  # seconds; asking a hub that cannot be reached takes several each time


@dataclass(frozen=True, slots=True)
class Embedders:
    text: TextEmbedder
    picture: PictureEmbedder


class Library(Protocol):
    """Embedders by the names that generations have; both raise `ModelError`."""

    def text_embedder(self, name: str) -> TextEmbedder: ...
    def picture_embedder(self, name: str) -> PictureEmbedder: ...


class _EmbedderGone(ModelNotFound):
    """Says no more than strangers may read: no folder, no file.

    name: as generations have it, with its revision. damaged: it is here, its files are not whole.
    """

    def __init__(self, name: str, damaged: bool) -> None:
        plain = Path(name.rpartition("@")[0] or name).name
        super().__init__(
            f"the files of the model {plain} are damaged"
            if damaged
            else f"{plain}, as it made the vectors, is not here"
        )
        self.damaged = damaged


@dataclass(frozen=True, slots=True)
class Queries:
    """A question as each channel searches for it."""

    text: str
    by_text: NDArray[np.float32] | None
    by_picture: Sequence[NDArray[np.float32]]
    text_floor: float  # for pictures that are searched by text
    wanted: Sequence[Channel]

    @property
    def any(self) -> bool:
        """Whether there is a way of looking at all."""
        by_text = self.by_text is not None and "text" in self.wanted
        return by_text or bool(self.text and "words" in self.wanted) or bool(self.by_picture)


class QueryEmbedder:
    """Makes the queries of questions. Safe for many threads.

    library: the embedders; asked at every question, so it should remember them.
    """

    def __init__(self, library: Library, blobs: BlobStore, limits: Limits) -> None:
        self._library = library
        self._blobs = blobs
        self._limits = limits
        self._gone: dict[tuple[Channel, str], tuple[float, bool]] = {}

    def queries(
        self,
        name: str,
        generation: Generation,
        question: Question,
        on_note: Callable[[str], None],
    ) -> Queries:
        """What cannot be searched by because its embedder is gone is left out, with a note."""
        text = question.text.strip()
        wanted = question.channels or ("text", "words", "picture")
        by_text: NDArray[np.float32] | None = None
        by_picture: Sequence[NDArray[np.float32]] = ()
        floor = -1.0
        gone: dict[Channel, _EmbedderGone] = {}
        with step("embed"):
            if text and wanted != ("words",):
                try:
                    by_text = self._embed_text(generation, text)
                except _EmbedderGone as error:
                    gone["text"] = error
            if "picture" in wanted:
                try:
                    by_picture, floor = self._embed_pictures(generation, question, text)
                except _EmbedderGone as error:
                    gone["picture"] = error
        found = Queries(text, by_text, by_picture, floor, wanted)
        for channel, cause in gone.items():
            what = "Pictures were" if channel == "picture" else "Meanings were"
            again = f"`rag-owl reindex {name} --{channel}-embedder NAME` makes its vectors anew"
            if cause.damaged:  # other vectors are no remedy for that
                again = "its operator finds in the log which, and how to mend it"
            if (channel == "picture" and question.pictures) or not found.any:
                raise ModelNotFound(f"{name} cannot be searched so: {cause}; {again}") from cause
            if channel in wanted:
                on_note(f"{what} not searched: {cause}; {again}.")
        return found

    def _embed_text(self, generation: Generation, text: str) -> NDArray[np.float32]:
        name = generation.text_embedder
        load = self._library.text_embedder
        return self._unless_gone("text", name, lambda: load(name).embed_query(text))

    def _embed_pictures(
        self, generation: Generation, question: Question, text: str
    ) -> tuple[Sequence[NDArray[np.float32]], float]:
        """What to search pictures by, and the least that counts where that is text."""
        name = generation.picture_embedder

        def embed() -> tuple[Sequence[NDArray[np.float32]], float]:
            embedder = self._library.picture_embedder(name)
            return self._picture_queries(embedder, question, text), embedder.text_floor

        return self._unless_gone("picture", name, embed)

    def _unless_gone(self, channel: Channel, name: str, embed: Callable[[], T]) -> T:
        """Raises `_EmbedderGone`, at once where the embedder could not be used a moment ago."""
        since, damaged = self._gone.get((channel, name), (-math.inf, False))
        if time.monotonic() - since < _GONE_HOLDS:
            raise _EmbedderGone(name, damaged)
        try:
            return embed()
        except (ModelNotFound, InvalidCheckpoint) as error:
            # The cause may name files and folders of this machine: it is the operator's alone.
            log.error("the %s embedder %s cannot be used: %s", channel, name, error)
            damaged = isinstance(error, InvalidCheckpoint)
            self._gone[channel, name] = (time.monotonic(), damaged)
            raise _EmbedderGone(name, damaged) from error

    def _picture_queries(
        self, embedder: PictureEmbedder, question: Question, text: str
    ) -> list[NDArray[np.float32]]:
        if question.pictures:
            pictures = [
                media.decode_picture(self._blobs.get(key), self._limits)
                for key in question.pictures
            ]
            return list(embedder.embed_pictures(pictures))
        if text and embedder.reads_text:
            return [embedder.embed_query(text)]
        return []
