"""Is this prompt one that the model can run? One check, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.owl3.config import Owl3Config
from rag_owl.model.owl3.state import DecodingState
from rag_owl.model.sight import RowSpan


def check_prompt(
    config: Owl3Config,
    input_ids: Tensor,
    image_starts: Sequence[Sequence[int]] | None,
    attention_mask: Tensor | None,
    state: DecodingState | None,
) -> list[RowSpan]:
    """Where each row's tokens lie. Raises InvalidInput with what does not fit."""
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise InvalidInput(f"input_ids must be (B, T) and not empty, not {tuple(input_ids.shape)}.")
    if input_ids.is_floating_point():
        raise InvalidInput(f"input_ids must be whole numbers, not {input_ids.dtype}.")
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= config.vocab_size:
        raise InvalidInput(
            f"input_ids from {low} to {high}; this model knows 0 to {config.vocab_size - 1}."
        )
    B, T = input_ids.shape
    spans = _spans(B, T, attention_mask, state)
    longest = max(span.end for span in spans)
    if longest > config.max_position_embeddings:
        raise InvalidInput(
            f"a row of {longest} tokens; this model has {config.max_position_embeddings} "
            "positions. Shorten the prompt or show fewer pictures."
        )
    if image_starts is not None:
        if len(image_starts) != B:
            raise InvalidInput(f"image_starts has {len(image_starts)} rows, input_ids {B}.")
        for row, (starts, span) in enumerate(zip(image_starts, spans, strict=True)):
            _check_starts(config, row, list(starts), span)
    return spans


def _check_starts(config: Owl3Config, row: int, starts: list[int], span: RowSpan) -> None:
    if len(starts) > span.hi - span.lo:
        raise InvalidInput(
            f"row {row} has {len(starts)} pictures but {span.hi - span.lo} positions for them."
        )
    if len(set(starts)) < len(starts):
        raise InvalidInput(f"row {row}: two pictures start at one index; image_starts {starts}.")
    outside = [start for start in starts if not span.lo <= start < span.hi]
    if outside:
        raise InvalidInput(
            f"row {row}: picture starts {outside[:5]} lie outside its tokens "
            f"({span.lo} to {span.hi - 1})."
        )
    last = max(starts) - span.column_shift + config.position_shift if starts else 0
    if last >= config.max_position_embeddings:
        raise InvalidInput(
            f"row {row}: a picture at position {last}; this model has "
            f"{config.max_position_embeddings} positions."
        )


def _spans(
    B: int, T: int, attention_mask: Tensor | None, state: DecodingState | None
) -> list[RowSpan]:
    if state is not None and len(state):
        if len(state) != B:
            raise InvalidInput(f"the state holds {len(state)} rows, input_ids {B}.")
        if attention_mask is not None and not bool(attention_mask.all()):
            raise InvalidInput("padding may stand only before a row's first tokens.")
        return [RowSpan(0, T, state.length(row), state.padding[row]) for row in range(B)]
    if attention_mask is None:
        return [RowSpan(0, T, 0, 0)] * B
    if tuple(attention_mask.shape) != (B, T):
        raise InvalidInput(
            f"attention_mask {tuple(attention_mask.shape)} does not fit input_ids {(B, T)}."
        )
    spans = []
    for row, mask in enumerate(attention_mask.cpu().bool()):
        real = torch.nonzero(mask).flatten().tolist()
        if not real:
            raise InvalidInput(f"row {row} of the batch is all padding.")
        lo, hi = real[0], real[-1] + 1
        if len(real) != hi - lo:
            raise InvalidInput(f"row {row}: attention_mask has padding between its tokens.")
        if state is not None and hi != T:
            raise InvalidInput(f"row {row}: for generating, padding must stand before the text.")
        spans.append(RowSpan(lo, hi, 0, lo))
    return spans
