"""The visual abstractor: learnt queries that gather a picture into a few vectors.

Source: the released checkpoint and the paper (arXiv 2304.14178, section 3.1). Parameter names are
those of the checkpoint.

    N pictures, Q queries, P patches with the class token, H heads, E head width, D width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)


class _Mlp(nn.Module):
    """SwiGLU with a norm over its inner width."""

    def __init__(self, width: int, inner: int, eps: float) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner)
        self.w2 = nn.Linear(inner, width)
        self.w3 = nn.Linear(width, inner)
        self.ffn_ln = nn.LayerNorm(inner, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(self.ffn_ln(F.silu(self.w1(x)) * self.w3(x)))
        return out


class _Output(nn.Module):
    def __init__(self, width: int, inner: int, eps: float) -> None:
        super().__init__()
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width, inner, eps)


class _CrossAttention(nn.Module):
    """Queries look at themselves and at the picture."""

    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention = _Attention(width)
        self.output = _Output(width, inner, eps)
        self.norm1 = nn.LayerNorm(width)  # torch's eps, not the config's, as released
        self.normk = nn.LayerNorm(width)

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """(N, Q, D), (N, P, D) -> (N, Q, D)."""
        N, Q, D = queries.shape
        normed = self.norm1(queries)
        seen = torch.cat((normed, self.normk(patches)), dim=1)  # (N, Q + P, D)
        query = self.attention.query(normed).view(N, Q, self.heads, -1).transpose(1, 2)
        key = self.attention.key(seen).view(N, seen.shape[1], self.heads, -1).transpose(1, 2)
        value = self.attention.value(seen).view(N, seen.shape[1], self.heads, -1).transpose(1, 2)
        context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(N, Q, D)
        # The residual starts from the normed queries: the queries themselves are dropped.
        hidden = normed + self.output.out_proj(context)
        out: Tensor = hidden + self.output.mlp(self.output.norm2(hidden))
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.crossattention = _CrossAttention(width, inner, heads, eps)


class _Encoder(nn.Module):
    def __init__(self, layers: int, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, inner, heads, eps) for _ in range(layers))


class Abstractor(nn.Module):
    def __init__(
        self, layers: int, width: int, inner: int, heads: int, eps: float, text_width: int
    ) -> None:
        super().__init__()
        self.encoder = _Encoder(layers, width, inner, heads, eps)
        self.visual_fc = nn.Linear(width, text_width)
        self.vit_eos = nn.Parameter(torch.zeros(1, 1, text_width))

    def forward(
        self, queries: Tensor, patches: Tensor, trace: dict[str, Tensor] | None = None
    ) -> Tensor:
        """(1, Q, D), (N, P, D) -> (N, Q + 1, text width); the last vector ends the picture."""
        hidden = queries.expand(len(patches), -1, -1)
        layers: Any = self.encoder.layers
        for i, layer in enumerate(layers):
            hidden = layer.crossattention(hidden, patches)
            if trace is not None:
                trace[f"abstractor_layer_{i}_out"] = hidden
        ends = self.vit_eos.expand(len(patches), -1, -1)
        return torch.cat((self.visual_fc(hidden), ends), dim=1)
