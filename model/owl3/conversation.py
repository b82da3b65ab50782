"""Several turns with one cache: what was read stays read.

A turn is given as the whole conversation so far, as its template writes it. What it shares with
what the cache holds, token by token and picture by picture, is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rag_owl.model.owl3.generate import Batch, Request
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.state import DecodingState

if TYPE_CHECKING:
    from rag_owl.model.owl3.model import Owl3


class Conversation:
    """One user's turns. Not shared between threads."""

    def __init__(self, model: Owl3) -> None:
        self.model = model
        self.reused = 0  # tokens that the last turn did not have to read again
        self._state = DecodingState()
        self._ids: list[int] = []  # what the cache holds
        self._pictures: list[tuple[int, str]] = []  # start and name of each picture in it

    def generate(
        self,
        input_ids: Sequence[int],
        memory: VisualMemory | None = None,
        image_starts: Sequence[int] = (),
        sampling: Sampling | None = None,
        on_token: Callable[[int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> list[int]:
        """The whole conversation in, the new ids out; equals a run without a cache.

        Raises as `Owl3.forward`; the cache is then empty and the conversation can go on.
        """
        ids = list(input_ids)
        starts = list(image_starts)
        if memory is not None and len(memory) == len(starts):
            memory, starts = memory.by_place(starts)
        names = memory.ids if memory is not None else ()
        pictures = list(zip(starts, names, strict=False))
        # The last token is read again in any case: its logits choose the first new one.
        shared = min(self._shared(ids, pictures), len(ids) - 1)
        if len(pictures) != len(starts) or len(pictures) != len(names):
            shared = 0  # refused below, with the numbers
        state = self._rewound(shared)
        seen = sum(start < shared for start in starts)
        new_memory = memory[seen:] if memory is not None and seen < len(memory) else None
        request = Request(
            ids[shared:],
            new_memory,
            [start - shared for start in starts[seen:]],
            sampling,
            on_token,
            cancel,
        )
        request.history = ids[:shared]
        self._state, self._ids, self._pictures = DecodingState(), [], []
        self.reused = shared
        batch = Batch(self.model)
        batch.join(request, state)
        while batch.requests:
            state = batch.state
            batch.step()
        if request.error is not None:
            raise request.error
        # The last token was chosen but never read.
        self._ids = (ids + request.tokens)[: state.columns]
        self._state = state
        self._pictures = pictures
        return request.tokens

    def _shared(self, ids: list[int], pictures: list[tuple[int, str]]) -> int:
        """How many leading tokens of the cache and of this turn are the same."""
        shared = 0
        for old, new in zip(self._ids, ids, strict=False):
            if old != new:
                break
            shared += 1
        # Up to the first place where only one of them, or another one, has a picture.
        differing = set(self._pictures) ^ set(pictures)
        return min([shared, *(start for start, _ in differing)])

    def _rewound(self, columns: int) -> DecodingState:
        state = self._state
        if not columns:
            return DecodingState()
        state.columns = columns
        sight = state.sights[0]
        if sight is not None:
            kept = sum(start < columns for start in sight.starts)
            state.sights[0] = sight.first(kept) if kept else None
        return state
