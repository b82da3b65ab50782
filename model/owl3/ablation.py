"""How likely an answer is under several prompts: with all of its evidence, and without one item.

Every prompt is a row of one batch; features of pictures were computed before, and their keys and
values come from the model's cache. The answer's tokens are given, not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.state import DecodingState
from rag_owl.model.prompting import Prompt

if TYPE_CHECKING:
    from rag_owl.model.owl3.model import Owl3

ROWS = 4  # prompts in one batch
CHUNK = 32  # tokens of the answer per step: logits over the vocabulary are large

Shown = tuple[Prompt, VisualMemory | None]


@torch.no_grad()
def log_probabilities(model: Owl3, prompts: Sequence[Shown], answer: Sequence[int]) -> Tensor:
    """Of each token of the answer under each prompt -> (prompts, tokens), natural logarithms.

    Raises OutOfMemory.
    """
    rows = [_batch(model, prompts[i : i + ROWS], answer) for i in range(0, len(prompts), ROWS)]
    return torch.cat(rows)


def _batch(model: Owl3, prompts: Sequence[Shown], answer: Sequence[int]) -> Tensor:
    state, last = DecodingState(), []
    for prompt, memory in prompts:
        alone = DecodingState()
        starts = [list(prompt.image_starts)]
        ids = torch.tensor([prompt.input_ids])
        last.append(model(ids, memory, starts, state=alone, last_only=True)[:, -1])
        if len(state):
            state.join(alone)
        else:
            state = alone
    before = torch.cat(last)[:, None]  # (B, 1, V): what stands before the first token
    found = []
    for first in range(0, len(answer), CHUNK):
        tokens = torch.tensor(answer[first : first + CHUNK])
        given = tokens.repeat(len(prompts), 1)  # (B, t)
        logits = model(given, state=state)
        ahead = torch.cat([before, logits[:, :-1]], dim=1).float().log_softmax(-1)
        index = tokens.to(ahead.device).repeat(len(prompts), 1)[..., None]
        found.append(ahead.gather(-1, index)[..., 0].cpu())
        before = logits[:, -1:]
    return torch.cat(found, dim=1)
