"""Plain attention that can say where the newest token looked.

transformers calls it instead of its own kernels wherever a model's `_attn_implementation` is
`WATCHED`. It does what they do, soft-capped scores (Gemma 2) included, which torch's kernel cannot.

    B batch, H heads, T queries, S keys, E head width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

WATCHED = "rag_owl_watched"
# Capped scores are written out: rows x keys x heads of one step stay below this.
MAX_SCORES = 64 * 1024 * 1024


class Watcher:
    """Where one row's newest token looked: the mean over layers and heads, (S,) per token."""

    def __init__(self) -> None:
        self.tokens: list[Tensor] = []
        self._sum: Tensor | None = None
        self._layers = 0

    def see(self, weights: Tensor) -> None:
        """weights (H, S) of one layer; of one with a sliding window the last S positions alone."""
        mean = weights.float().mean(dim=0)
        if self._sum is not None:
            longer, shorter = sorted((self._sum, mean), key=len, reverse=True)
            mean = longer + F.pad(shorter, (len(longer) - len(shorter), 0))
        self._sum = mean
        self._layers += 1

    def finish(self) -> None:
        """All layers have been seen: the next token begins."""
        if self._sum is not None:
            self.tokens.append((self._sum / self._layers).to(torch.float16))
        self._sum, self._layers = None, 0


def watched_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    watcher: Watcher | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query (B, H, T, E), key and value (B, K, S, E), mask (B, 1, T, S) True where visible.

    -> (B, T, H, E). With a watcher, B is 1.
    """
    H, T = query.shape[1], query.shape[2]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if watcher is not None:
        last = attention_mask[:, :, -1:] if attention_mask is not None else None
        watcher.see(_weights(query[:, :, -1:], key, last, scale, softcap)[0, :, 0])
    if softcap is None:
        causal = attention_mask is None and T > 1
        out = F.scaled_dot_product_attention(
            query, key, value, attention_mask, is_causal=causal, scale=scale, enable_gqa=True
        )
        return out.transpose(1, 2), None
    if attention_mask is None and T > 1:
        columns = torch.arange(key.shape[2], device=query.device)
        attention_mask = (columns <= columns[-T:, None])[None, None]
    rows = max(1, MAX_SCORES // (H * key.shape[2]))
    values = value.repeat_interleave(H // value.shape[1], dim=1)
    pieces = []
    for i in range(0, T, rows):
        mask = attention_mask[:, :, i : i + rows] if attention_mask is not None else None
        weights = _weights(query[:, :, i : i + rows], key, mask, scale, softcap)
        pieces.append(weights.to(value.dtype) @ values)
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def _weights(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """(B, H, t, S) in float32, each row's sum one."""
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query @ keys.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(torch.float32).min)
    return scores.softmax(dim=-1)


AttentionInterface.register(WATCHED, watched_attention)
AttentionMaskInterface.register(WATCHED, sdpa_mask)
