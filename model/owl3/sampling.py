"""From the logits of one step to one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rag_owl.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request chooses its tokens, and when it ends.

    Temperature 0 is greedy, as the published model generates. `stop_ids` None: the end tokens of
    the model's config. `repetition_penalty` as in arXiv 1909.05858: above 1 makes every token of
    the prompt and the answer less likely to come again.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InvalidInput(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise InvalidInput(
                "temperature and top_k must not be negative and top_p in (0, 1], not "
                f"{self.temperature}, {self.top_k}, {self.top_p}."
            )
        if self.repetition_penalty <= 0:
            raise InvalidInput(f"repetition_penalty must be above 0: {self.repetition_penalty}.")


class Sampler:
    """One request's choices; its random numbers are its own, whoever shares the batch."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocab_size: int) -> None:
        self.sampling = sampling
        self._seen = torch.zeros(vocab_size, dtype=torch.bool)
        self._seen[list(prompt)] = True
        self._random = torch.Generator()
        if sampling.seed is not None:
            self._random.manual_seed(sampling.seed)
        else:
            self._random.seed()

    def choose(self, logits: Tensor) -> int:
        """logits (V,) -> a token."""
        how = self.sampling
        if how.repetition_penalty != 1.0:
            seen = self._seen.to(logits.device)
            lowered = torch.where(
                logits > 0, logits / how.repetition_penalty, logits * how.repetition_penalty
            )
            logits = torch.where(seen, lowered, logits)
        token = int(logits.argmax()) if how.temperature == 0 else self._draw(logits)
        self._seen[token] = True
        return token

    def _draw(self, logits: Tensor) -> int:
        how = self.sampling
        logits = logits / how.temperature
        if 0 < how.top_k < logits.numel():
            least = logits.topk(how.top_k).values[-1]
            logits = logits.masked_fill(logits < least, float("-inf"))
        probabilities = logits.softmax(dim=-1)
        if how.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            before = ordered.cumsum(dim=-1) - ordered  # the first is always kept
            probabilities[order[before >= how.top_p]] = 0
        # Drawn on the CPU: a seed gives the same answer on every device.
        return int(torch.multinomial(probabilities.cpu(), 1, generator=self._random))
