"""Generating with one row: greedy or drawn, token by token."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampler, Sampling
from rag_owl.model.spliced.attention import Watcher
from rag_owl.model.spliced.model import Spliced


def stream(
    model: Spliced,
    input_ids: Sequence[int] | Tensor,
    memory: VisualMemory | None = None,
    sampling: Sampling | None = None,
    watcher: Watcher | None = None,
) -> Generator[int, None, None]:
    """One row's new ids as they are chosen, the end token included.

    watcher: is told where each token's choice looked. Raises InvalidInput, OutOfMemory.
    """
    ids = torch.as_tensor(input_ids).view(1, -1)
    with torch.no_grad():
        embeds, _ = model.embed(ids, memory)
    yield from stream_embeds(model, ids[0].tolist(), embeds, None, sampling, watcher)


def stream_embeds(
    model: Spliced,
    input_ids: Sequence[int],
    embeds: Tensor,
    positions: Tensor | None = None,
    sampling: Sampling | None = None,
    watcher: Watcher | None = None,
) -> Generator[int, None, None]:
    """As `stream`, from what `Spliced.begin` makes of a prompt."""
    how = sampling or Sampling()
    stop = how.stop_ids if how.stop_ids is not None else model.eos_token_ids
    words = model.text_model.embed_tokens
    text = [int(token) for token in input_ids if token >= 0]
    sampler = Sampler(how, text, model.text_model.config.vocab_size)
    used = embeds.shape[1]
    last = None if positions is None else positions.max()
    with torch.no_grad():
        logits, cache = model.step(embeds, None, watcher, positions)
    for count in range(1, how.max_new_tokens + 1):
        token = sampler.choose(logits)
        yield token
        if token in stop or count == how.max_new_tokens or used >= model.max_positions:
            return
        with torch.no_grad():
            one = words(torch.tensor([[token]], device=model.device))
            # The next word's position is one more than the largest of the prompt, on all axes.
            at = None if last is None else (last + count).expand(3, 1, 1)
            logits, cache = model.step(one, cache, watcher, at)
        used += 1


def generate(
    model: Spliced,
    input_ids: Sequence[int] | Tensor,
    memory: VisualMemory | None = None,
    sampling: Sampling | None = None,
) -> list[int]:
    return list(stream(model, input_ids, memory, sampling))
