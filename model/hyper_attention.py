"""Hyper attention: text attends to itself and to pictures inside one decoder layer (mPLUG-Owl3).

The pictures never enter the text sequence. A hyper layer projects their features to keys and
values of its own, rotates the keys to each picture's place in the text (MI-RoPE), and lets the
layer's own queries attend to the pictures that stand before them. How the two results become
one is what differs between the released checkpoints (paper: arXiv 2408.04840, section 3):

    dynamic gate  (240728)  g = sigmoid(W c + b) per token and head;   c (1 - g) + v g
    static gate   (241014)  g = sigmoid(gate), the same for all tokens; c (1 - g) + v g
    fused         (241101)  one softmax over visual and text keys; no gate

A token sees a *prefix* of its row's pictures. So each stretch of text between two pictures is
one plain attention call over a view of the keys, and no (text x patches) mask ever exists.

    B batch, T text tokens, N pictures, P patches, H heads, K key-value heads,
    G heads per key-value head, E head width, D model width, S keys
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    apply_rotary_pos_emb,
    rotate_half,
)

from rag_owl.model.sight import HyperInputs, RowSpan, Sight, Stretch

GateKind: TypeAlias = Literal["dynamic", "static", "fused"]

# The fused variant needs a causal corner in its mask; rows x keys of one call stay below this.
MAX_MASK_ELEMENTS = 16 * 1024 * 1024


def rotate(keys: Tensor, positions: Tensor, inverse_frequencies: Tensor) -> Tensor:
    """MI-RoPE: all patches of a picture share one position (paper, section 3.2).

    keys (N, K, P, E), positions (N,) -> (N, K, P, E). Angles in float32, the result cast back.
    """
    angles = positions.float()[:, None] * inverse_frequencies.float()  # (N, E / 2)
    angles = torch.cat((angles, angles), dim=-1)[:, None, None, :]  # (N, 1, 1, E)
    wide = keys.float()
    rotated: Tensor = wide * angles.cos() + rotate_half(wide) * angles.sin()
    return rotated.to(keys.dtype)


class HyperAttention(Qwen2Attention):  # type: ignore[misc]  # transformers is untyped here
    """A Qwen2 attention that also looks at pictures. Same parameter names as the checkpoints."""

    def __init__(self, config: Any, layer_idx: int, gate: GateKind) -> None:
        super().__init__(config, layer_idx)
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.gate_kind = gate
        width = 2 * self.key_heads * self.head_dim
        self.v_kv_proj = nn.Linear(config.hidden_size, width, bias=True)
        if gate == "dynamic":
            self.gate_proj = nn.Sequential(nn.Linear(self.head_dim, self.head_dim), nn.Sigmoid())
        elif gate == "static":
            self.gate = nn.Parameter(torch.zeros(self.heads * self.head_dim))

    def project_pictures(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Normed features (N, P, D) -> keys and values, (N, K, P, E) each, not yet rotated.

        The projection is laid out per key-value head as [key, value].
        """
        N, P, _ = features.shape
        both = self.v_kv_proj(features).view(N, P, self.key_heads, 2, self.head_dim)
        keys, values = both.unbind(dim=3)  # (N, P, K, E)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def forward(
        self,
        hidden_states: Tensor,  # (B, T, D), normed
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,  # (B, 1, T, S), True where visible
        past_key_values: Any | None = None,
        hyper: HyperInputs | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        B, T, _width = hidden_states.shape
        shape = (B, T, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)  # (B, H, T, E)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)  # (B, K, T, E)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if hyper is None:
            none: list[Sight | None] = [None] * B
            hyper = HyperInputs(none, [RowSpan(0, T, 0, 0)] * B)

        if T == 1 and not torch.is_grad_enabled():
            merged = self._one_token(query, key, value, attention_mask, hyper)
        else:
            merged = self._many_tokens(query, key, value, attention_mask, hyper)
            if hyper.observer is not None:  # where did the last token look?
                last = attention_mask[:, :, -1:] if attention_mask is not None else None
                self._one_token(query[:, :, -1:], key, value, last, hyper)
        if hyper.trace is not None:
            hyper.trace[f"hyper.{self.layer_idx}.merged_ctx"] = merged.reshape(B, T, -1)
        return self.o_proj(merged.reshape(B, T, -1)), None

    # --- gate ---------------------------------------------------------------------------------

    def gate_of(self, own: Tensor) -> Tensor:
        """How much of the visual result passes: own (..., H, E) -> broadcastable to it."""
        if self.gate_kind == "dynamic":
            gate: Tensor = self.gate_proj(own)
            return gate
        return torch.sigmoid(self.gate).view(self.heads, self.head_dim)

    # --- many tokens: a prompt, a further turn, training --------------------------------------

    def _many_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, hyper: HyperInputs
    ) -> Tensor:
        """-> (B, T, H, E)."""
        causal = mask is None and query.shape[2] > 1
        own = F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, scale=self.scaling, enable_gqa=True
        ).transpose(1, 2)  # (B, T, H, E)
        if hyper.trace is not None and self.gate_kind != "fused":
            hyper.trace[f"hyper.{self.layer_idx}.self_ctx"] = own.flatten(2)
        rows = []
        for row, (sight, span) in enumerate(zip(hyper.sights, hyper.spans, strict=True)):
            if sight is None:
                rows.append(own[row])
            else:
                text = key[row], value[row]
                rows.append(self._row(query[row], *text, own[row], sight, span))
        return torch.stack(rows)

    def _row(
        self, query: Tensor, key: Tensor, value: Tensor, own: Tensor, sight: Sight, span: RowSpan
    ) -> Tensor:
        """query (H, T, E), key and value (K, S, E) of the text, own (T, H, E) -> (T, H, E)."""
        stretches = [s for s in sight.stretches(span.offset, span.end) if s[2]]
        if not stretches:  # no picture yet: the gate is not applied either
            return own
        first, K, E = stretches[0][0] + span.column_shift, self.key_heads, self.head_dim
        # Heads that share keys become rows of one matrix, a stretch of them one view.
        grouped = query.view(K, -1, query.shape[1], E).transpose(1, 2).contiguous()  # (K, T, G, E)
        if self.gate_kind == "fused":
            pieces = self._see_with_text(grouped, key, value, sight, span, stretches)
        else:
            pieces = self._see(grouped, sight, span, stretches)
        folded = torch.cat(list(pieces), dim=1)  # (K, t * G, E)
        seen = folded.view(K, span.hi - first, -1, E).transpose(0, 1).flatten(1, 2)  # (t, H, E)
        if self.gate_kind != "fused":
            here = own[first : span.hi]
            gate = self.gate_of(here)
            seen = here * (1 - gate) + seen * gate
        return torch.cat((own[:first], seen, own[span.hi :]))

    def _see(
        self, grouped: Tensor, sight: Sight, span: RowSpan, stretches: Sequence[Stretch]
    ) -> Iterator[Tensor]:
        """Each stretch: plain attention to the visible prefix of the pictures -> (K, t * G, E)."""
        keys, values = sight.keys[self.layer_idx], sight.values[self.layer_idx]
        for begin, end, count in stretches:
            rows = grouped[:, begin + span.column_shift : end + span.column_shift].flatten(1, 2)
            visible = count * sight.patches
            yield F.scaled_dot_product_attention(
                rows[None], keys[None, :, :visible], values[None, :, :visible], scale=self.scaling
            )[0]

    def _see_with_text(
        self,
        grouped: Tensor,
        key: Tensor,
        value: Tensor,
        sight: Sight,
        span: RowSpan,
        stretches: Sequence[Stretch],
    ) -> Iterator[Tensor]:
        """Each stretch: one softmax over the visible pictures and the text -> (K, t * G, E).

        A softmax does not mind the order of its keys: with the text's keys reversed and the
        pictures' behind them, what a stretch sees is one view of one buffer. The view's first t
        keys are the stretch's own tokens, last first; its token i sees the last i + 1 of them.
        """
        text, G = span.end, grouped.shape[2]
        until = span.first_key + text
        keys, values = (
            torch.cat((own[:, span.first_key : until].flip(1), visual[self.layer_idx]), dim=1)[None]
            for own, visual in ((key, sight.keys), (value, sight.values))
        )
        for begin, end, count in stretches:
            seen = slice(text - end, text + count * sight.patches)
            columns = torch.arange(seen.stop - seen.start, device=keys.device)
            rows_at_once = max(1, MAX_MASK_ELEMENTS // (len(columns) * G))
            for a in range(begin, end, rows_at_once):
                b = min(end, a + rows_at_once)
                hidden = end - 1 - torch.arange(a, b, device=keys.device)  # own keys behind each
                mask = columns >= hidden[:, None]  # (b - a, keys)
                rows = grouped[:, a + span.column_shift : b + span.column_shift].flatten(1, 2)
                yield F.scaled_dot_product_attention(
                    rows[None],
                    keys[:, :, seen],
                    values[:, :, seen],
                    mask.repeat_interleave(G, dim=0),
                    scale=self.scaling,
                )[0]

    # --- one token: decoding ------------------------------------------------------------------

    def _one_token(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, hyper: HyperInputs
    ) -> Tensor:
        """The last token of every row -> (B, 1, H, E).

        Attention is written out here: the weights of one token are small, they are what
        attribution needs, and each key and value is read once.
        """
        B, S = query.shape[0], key.shape[2]
        grouped = (query * self.scaling).reshape(B, self.key_heads, -1, self.head_dim)
        scores = (grouped @ key.transpose(-1, -2)).float()  # (B, K, G, S)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        if self.gate_kind == "fused":
            rows = [
                self._one_fused(grouped[row], scores[row], value[row], row, hyper)
                for row in range(B)
            ]
            return torch.stack(rows)[:, None]
        weights = scores.softmax(dim=-1)
        own: Tensor = (weights.to(value.dtype) @ value).reshape(B, self.heads, self.head_dim)
        gate = self.gate_of(own).expand_as(own)
        merged = own
        if any(sight is not None for sight in hyper.sights):
            merged = own.clone()
        for row, (sight, span) in enumerate(zip(hyper.sights, hyper.spans, strict=True)):
            token = span.end - 1
            count = sight.visible(token) if sight is not None else 0
            text_weights = weights[row].view(self.heads, S)[:, span.first_key :]
            if sight is None or count == 0:
                if hyper.observer is not None:
                    hyper.observer.see(row, None, text_weights.mean(dim=0))
                continue
            visible = count * sight.patches
            keys = sight.keys[self.layer_idx][:, :visible]  # (K, S, E)
            values = sight.values[self.layer_idx][:, :visible]
            looks = (grouped[row] @ keys.transpose(-1, -2)).float().softmax(dim=-1)  # (K, G, S)
            seen = (looks.to(values.dtype) @ values).view(self.heads, self.head_dim)
            merged[row] = own[row] * (1 - gate[row]) + seen * gate[row]
            if hyper.observer is not None:
                passes = gate[row].float().mean(dim=-1) / self.heads  # (H,)
                stays = 1 / self.heads - passes
                looks = looks.view(self.heads, -1)
                hyper.observer.see(row, passes @ looks, stays @ text_weights)
        return merged[:, None]

    def _one_fused(
        self, grouped: Tensor, scores: Tensor, value: Tensor, row: int, hyper: HyperInputs
    ) -> Tensor:
        """grouped (K, G, E), scores (K, G, S) over the text, value (K, S, E) -> (H, E)."""
        sight, span = hyper.sights[row], hyper.spans[row]
        count = sight.visible(span.end - 1) if sight is not None else 0
        if sight is None or count == 0:
            weights = scores.softmax(dim=-1)
            visible = 0
            out = weights.to(value.dtype) @ value
        else:
            visible = count * sight.patches
            keys = sight.keys[self.layer_idx][:, :visible]
            values = sight.values[self.layer_idx][:, :visible]
            looks = (grouped @ keys.transpose(-1, -2)).float()
            weights = torch.cat((looks, scores), dim=-1).softmax(dim=-1)
            narrow = weights.to(value.dtype)
            out = narrow[..., :visible] @ values + narrow[..., visible:] @ value
        if hyper.observer is not None:
            mean = weights.flatten(0, 1).mean(dim=0)
            patches = mean[:visible] if visible else None
            hyper.observer.see(row, patches, mean[visible + span.first_key :])
        return out.reshape(self.heads, self.head_dim)
