"""From pictures and frames of the store to their features: remembered ones, and else fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from rag_owl.errors import CorruptData, NotFound, UnreadableMedia
from rag_owl.media import DEFAULT_LIMITS, Limits, decode_picture
from rag_owl.model.evidence_prompt import View
from rag_owl.model.owl3.features import AT_ONCE, FeatureStore
from rag_owl.model.owl3.memory import MemoryIdentity, VisualMemory
from rag_owl.model.prompting import ManySizes, Piece
from rag_owl.ports import BlobStore
from rag_owl.steps import step
from rag_owl.video import open_video

if TYPE_CHECKING:
    from PIL.Image import Image

Call: TypeAlias = Callable[[Callable[[], Any]], Any]
"""Runs something where the model may be used."""

UNREADABLE = (UnreadableMedia, NotFound, CorruptData, OSError)


class Seer(Protocol):
    """A model as far as it looks at pictures."""

    @property
    def memory_identity(self) -> MemoryIdentity: ...

    def remember(self, pixel_values: Tensor, ids: Sequence[str] | None = None) -> VisualMemory: ...


@runtime_checkable
class PieceSeer(Protocol):
    """A model whose pictures differ in size."""

    def remember_piece(self, piece: Piece, name: str) -> VisualMemory: ...


class Preprocessor(Protocol):
    image_size: int

    def pixels(self, pictures: Sequence[Image]) -> Tensor:
        """-> (N, 3, S, S)."""
        ...


class Looker:
    """Decodes in the caller's thread; the vision tower runs where `call` runs it, a few pictures
    at a time, so that others' answers go on in between."""

    def __init__(
        self,
        model: Seer,
        processor: Preprocessor,
        blobs: BlobStore,
        features: FeatureStore | None = None,
        *,
        call: Call | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._model = model
        self._processor = processor
        self._blobs = blobs
        self.features = features
        self._call: Call = call or (lambda work: work())
        self._limits = limits

    def look(
        self,
        views: Sequence[View],
        *,
        keep: bool,
        between: Callable[[], None] | None = None,
    ) -> tuple[dict[str, VisualMemory], dict[str, str]]:
        """-> features by the views' keys, and of those that cannot be read the reason.

        keep: use and fill the store of features, where there is one. Both ways give the same
        numbers then: those of the store. between: called after every few pictures. Raises
        OutOfMemory.
        """
        store = self.features if keep else None
        identity = self._model.memory_identity
        seen: dict[str, VisualMemory] = {}
        wanted = {view.key: view for view in views}
        if store is not None:
            with step("load_features") as loading:
                for key in wanted:
                    if (stored := store.get(identity, key)) is not None:
                        seen[key] = stored
                loading.note(pictures=len(wanted), found=len(seen))
        failed: dict[str, str] = {}
        waiting: list[tuple[str, Tensor | Piece]] = []
        new = [view for key, view in wanted.items() if key not in seen]
        for piece in self._pieces(new, failed):
            waiting.append(piece)
            if len(waiting) == (AT_ONCE if isinstance(piece[1], Tensor) else 1):
                seen |= self._encoded(waiting, store)
                waiting = []
                if between is not None:
                    between()
        if waiting:
            seen |= self._encoded(waiting, store)
        return seen, failed

    @property
    def identity(self) -> MemoryIdentity:
        return self._model.memory_identity

    def seconds(self, film: str) -> float:
        """How long a film of the store lasts. Raises UnreadableMedia, NotFound."""
        return open_video(self._blobs.path(film), self._limits).seconds

    def _encoded(
        self, pictures: list[tuple[str, Tensor | Piece]], store: FeatureStore | None
    ) -> dict[str, VisualMemory]:
        keys = [key for key, _ in pictures]
        with step("encode_pictures", pictures=len(keys)):
            remember = partial(self._remember, [p for _, p in pictures], keys)
            fresh: VisualMemory = self._call(remember)
        if store is not None:
            fresh = store.put_all(fresh, keys)
        return {key: fresh[i : i + 1] for i, key in enumerate(keys)}

    @torch.no_grad()
    def _remember(self, pictures: list[Tensor | Piece], keys: list[str]) -> VisualMemory:
        (*_, last) = pictures
        if isinstance(last, Piece):  # alone: others have other sizes
            assert isinstance(self._model, PieceSeer)
            return self._model.remember_piece(last, keys[-1])
        return self._model.remember(
            torch.stack([p for p in pictures if isinstance(p, Tensor)]), keys
        )

    def _pieces(
        self, views: Sequence[View], failed: dict[str, str]
    ) -> Iterator[tuple[str, Tensor | Piece]]:
        """(key, (3, S, S) or piece) of each view that can be read, one at a time; films are read
        once."""
        for view in views:
            if view.seconds is None:
                try:
                    picture = decode_picture(self._blobs.get(view.blob), self._limits)
                except UNREADABLE as error:
                    failed[view.key] = _why(error)
                else:
                    yield view.key, self._piece([picture], view)
        frames = [view for view in views if view.seconds is not None]
        frames.sort(key=lambda view: (view.blob, view.seconds or 0.0))
        for film, of_film in groupby(frames, key=lambda view: view.blob):
            yield from self._frames(film, list(of_film), failed)

    def _piece(self, frames: Sequence[Image], view: View) -> Tensor | Piece:
        if isinstance(self._processor, ManySizes):
            return self._processor.piece(frames, view.most, view.least)
        return self._processor.pixels(frames)[0]

    def _frames(
        self, film: str, views: list[View], failed: dict[str, str]
    ) -> Iterator[tuple[str, Tensor | Piece]]:
        waiting, why = dict(enumerate(views)), "the film ends before"
        moments = sorted(
            (t, i) for i, v in waiting.items() for t in (v.seconds, v.also) if t is not None
        )
        seen: dict[int, list[Image]] = {i: [] for i in waiting}
        try:
            video = open_video(self._blobs.path(film), self._limits)
            frames = video.frames_at(
                [t for t, _ in moments], max_side=2 * self._processor.image_size
            )
            for (_, i), frame in zip(moments, frames, strict=False):
                seen[i].append(frame.image)
                if len(seen[i]) == (1 if waiting[i].also is None else 2):
                    view = waiting.pop(i)
                    yield view.key, self._piece(seen.pop(i), view)
        except UNREADABLE as error:
            why = _why(error)
        failed.update((view.key, why) for view in waiting.values())


def _why(error: Exception) -> str:
    if isinstance(error, NotFound):
        return "it is gone"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
