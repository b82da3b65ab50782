"""Generating: requests that share one batch and join and leave it between steps.

A request is prefilled alone when it joins, so what it gets does not depend on who else is there.
From then on every step gives each running row one token.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.attribution import AttentionRecord, BatchObserver
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampler, Sampling
from rag_owl.model.owl3.state import DecodingState

if TYPE_CHECKING:
    from rag_owl.model.owl3.model import Owl3

Ending: TypeAlias = Literal["stop", "length", "cancelled", "positions", "failed"]


class Request:
    """One prompt and what becomes of it. `tokens` grows by one per step, the end token included.

    `on_token` gets each token as it is chosen. `cancel` is asked between steps. `attention` says,
    per token, where the model looked when it chose it. What `on_token` raises ends the request
    (`error`) and no other.
    """

    def __init__(
        self,
        input_ids: Sequence[int] | Tensor,
        memory: VisualMemory | None = None,
        image_starts: Sequence[int] = (),
        sampling: Sampling | None = None,
        on_token: Callable[[int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        attention: bool = False,
    ) -> None:
        if isinstance(input_ids, Tensor):
            input_ids = input_ids.flatten().tolist()
        self.prompt = [int(token) for token in input_ids]
        self.memory = memory
        self.image_starts = list(image_starts)
        self.sampling = sampling or Sampling()
        self.on_token = on_token
        self.cancel = cancel
        self.attention: AttentionRecord | None = AttentionRecord() if attention else None
        self.history: list[int] = []  # what a given state has read already, before `prompt`
        self.tokens: list[int] = []
        self.ending: Ending | None = None
        self.sampler: Sampler | None = None
        self.error: Exception | None = None

    @property
    def finished(self) -> bool:
        return self.ending is not None


class Batch:
    """Running requests. Used from one thread at a time; a failed step leaves it as it was."""

    def __init__(self, model: Owl3) -> None:
        self.model = model
        self.requests: list[Request] = []
        self.state = DecodingState()

    @torch.no_grad()
    def join(self, request: Request, state: DecodingState | None = None) -> None:
        """Prefill a request and choose its first token; it runs from the next step on.

        `state`: a row that already holds the beginning of the prompt; then the request's prompt
        and starts are what follows. Raises InvalidInput, OutOfMemory; others are not touched.
        """
        if _cancelled(request):
            return
        alone = state if state is not None else DecodingState()
        logits = self._run(alone, [request], [request.prompt], request.memory)
        request.sampler = Sampler(
            request.sampling, request.history + request.prompt, self.model.config.vocab_size
        )
        self._choose([request], logits)
        if not request.finished:
            if not self.requests:
                self.state = alone
            else:
                self.state.join(alone)
            self.requests.append(request)

    @torch.no_grad()
    def step(self) -> list[Request]:
        """One token for every running request -> those that ended, which leave the batch."""
        for request in self.requests:
            _cancelled(request)
        ended = self._leave()
        if self.requests:
            last = [[request.tokens[-1]] for request in self.requests]
            logits = self._run(self.state, self.requests, last, None)
            self._choose(self.requests, logits)
            ended += self._leave()
        return ended

    def _run(
        self,
        state: DecodingState,
        requests: list[Request],
        tokens: list[list[int]],
        memory: VisualMemory | None,
    ) -> Tensor:
        """-> the logits of each row's last token, (B, V)."""
        records = [request.attention for request in requests]
        observer = BatchObserver(records) if any(r is not None for r in records) else None
        starts = [requests[0].image_starts] if memory is not None else None
        if memory is None and len(requests) == 1 and not requests[0].tokens:
            starts = [requests[0].image_starts]  # so that a missing memory is noticed
        logits: Tensor = self.model(
            torch.tensor(tokens), memory, starts, state=state, last_only=True, observer=observer
        )
        if observer is not None:
            observer.finish()
        return logits[:, -1]

    def _choose(self, requests: list[Request], logits: Tensor) -> None:
        stop = self.model.config.eos_token_ids
        for request, row in zip(requests, logits, strict=True):
            assert request.sampler is not None
            token = request.sampler.choose(row)
            request.tokens.append(token)
            how = request.sampling
            if token in (stop if how.stop_ids is None else how.stop_ids):
                request.ending = "stop"
            elif len(request.tokens) >= how.max_new_tokens:
                request.ending = "length"
            if request.on_token is not None:
                try:
                    request.on_token(token)
                except Exception as error:  # the listener's; whoever waits for the request gets it
                    request.ending, request.error = "failed", error

    def _leave(self) -> list[Request]:
        """Drop the rows of finished requests, and of those that have no position left."""
        for row, request in enumerate(self.requests):
            if self.state.length(row) >= self.model.config.max_position_embeddings:
                request.ending = request.ending or "positions"
        ended = [request for request in self.requests if request.finished]
        if ended:
            self._keep([row for row, request in enumerate(self.requests) if not request.finished])
        return ended

    def drop(self, request: Request) -> None:
        """Take a request out, whatever became of it."""
        self._keep([row for row, other in enumerate(self.requests) if other is not request])

    def _keep(self, rows: list[int]) -> None:
        self.requests = [self.requests[row] for row in rows]
        if rows:
            self.state.keep(rows)
        else:
            self.state = DecodingState()


def _cancelled(request: Request) -> bool:
    if not request.finished and request.cancel is not None and request.cancel():
        request.ending = "cancelled"
    return request.finished


def run(model: Owl3, requests: Sequence[Request]) -> None:
    """Run requests in one batch until all have ended."""
    batch = Batch(model)
    for request in requests:
        batch.join(request)
    while batch.requests:
        batch.step()
    for request in requests:
        if request.error is not None:
            raise request.error


def stream(model: Owl3, request: Request) -> Generator[int, None, None]:
    """One request's tokens as they are chosen."""
    batch = Batch(model)
    batch.join(request)
    sent = 0
    while True:
        yield from request.tokens[sent:]
        sent = len(request.tokens)
        if request.error is not None:
            raise request.error
        if request.finished:
            return
        batch.step()


def generate(
    model: Owl3,
    input_ids: Tensor,
    memory: VisualMemory | None = None,
    image_starts: Sequence[Sequence[int]] | None = None,
    attention_mask: Tensor | None = None,
    max_new_tokens: int = 256,
    **sampling: object,
) -> Tensor:
    """input_ids (B, T), as `Owl3.forward` takes them -> new ids (B, <= max_new_tokens).

    Greedy unless `temperature` is given; see `Sampling` for the rest. Rows that end early are
    padded behind their end token. Raises InvalidInput, OutOfMemory.
    """
    from rag_owl.model.owl3.prompt import check_prompt

    spans = check_prompt(model.config, input_ids, image_starts, attention_mask, None)
    starts = (
        [list(row) for row in image_starts] if image_starts is not None else [[] for _ in spans]
    )
    held = len(memory) if memory is not None else 0
    if sum(map(len, starts)) != held:
        raise InvalidInput(
            f"image_starts names {sum(map(len, starts))} pictures, but the memory holds {held}."
        )
    how = Sampling(max_new_tokens=max_new_tokens, **sampling)  # type: ignore[arg-type]
    requests, first = [], 0
    for row, (span, here) in enumerate(zip(spans, starts, strict=True)):
        mine = memory[first : first + len(here)] if memory is not None and here else None
        first += len(here)
        places = [start - span.lo for start in here]
        requests.append(Request(input_ids[row, span.lo : span.hi], mine, places, how))
    run(model, requests)
    longest = max(len(request.tokens) for request in requests)
    out = torch.full((len(requests), longest), model.config.pad_token_id, dtype=torch.long)
    for row, request in enumerate(requests):
        out[row, : len(request.tokens)] = torch.tensor(request.tokens)
    return out.to(input_ids.device)
