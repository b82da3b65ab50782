"""The reader: all-MiniLM-L6-v2 with hyper attention, a pointer, and heads for items and support.

A row is `[CLS] question [SEP] item [SEP] item … [SEP]`. The [SEP] before an item stands for it.
Pictures never enter the row: a hyper layer (mPLUG-Owl3, arXiv 2408.04840, section 3) lets the
layer's own queries attend to patch features through a key-value projection of its own, rotated
by MI-RoPE to where the picture stands in the row, and mixes both results by an adaptive gate.

B rows, T tokens, I items, N pictures of a row, P visual tokens of a picture, H heads,
E head width, D model width
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BF16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
"""Whether this CPU multiplies in bf16, as the weights were trained; elsewhere fp32 is faster."""
SIMILARITIES = 9
SUPPORT = ("supported", "contradicted", "unrelated")


@dataclass(frozen=True)
class ReaderConfig:
    vocabulary: int = 30522
    positions: int = 512
    width: int = 384
    heads: int = 12
    layers: int = 6
    inner: int = 1536
    hyper_layers: tuple[int, ...] = (2, 4)
    patch_width: int = 192
    pooled_width: int = 640
    rope_base: float = 10_000.0

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclass
class Sight:
    """The pictures of a batch: what the eyes saw, where it stands, which tokens may look.

    `patches` (B, N, G*G, C), `pooled` (B, N, C2), `positions` (B, N) token index of the picture,
    `visible` (B, T, N) bool. Rows with fewer pictures are padded with invisible ones.
    """

    patches: Tensor
    pooled: Tensor
    positions: Tensor
    visible: Tensor


@dataclass
class Rows:
    """A batch of windows; padding has id 0 and `mask` False.

    `ids`, `types` (B, T) long; `mask` (B, T) bool; `pointable` (B, T) bool: text that an answer
    may be pointed at, and position 0, "no answer here"; `separators` (B, I) token index of the
    item's [SEP], -1 where there is none; `similarities` (B, T, SIMILARITIES): of the item's
    picture and the user's, on every token of the item, zeros elsewhere.
    """

    ids: Tensor
    types: Tensor
    mask: Tensor
    pointable: Tensor
    separators: Tensor
    similarities: Tensor | None = None
    sight: Sight | None = None


@dataclass
class Reading:
    start: Tensor  # (B, T) logits, -inf where not pointable
    end: Tensor  # (B, T)
    item: Tensor  # (B, I) logit that the item supports an answer
    support: Tensor  # (B, I, 3) logits over SUPPORT, the question read as a statement


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotary positions, half-split: x (B, H, S, E) at `positions` (B, S)."""
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=x.device).float() / half)
    angle = positions.float()[:, None, :, None] * frequencies  # (B, 1, S, E/2)
    cos, sin = angle.cos(), angle.sin()
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """`mask` True where visible; None: everything is.

    In training attention is written out: rows are short, and on a CPU its backward pass in bf16 is
    a fifth of a whole training step faster than the fused kernel's. Without gradients the fused
    kernel is three times as fast.
    """
    if not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, scores.dtype)
    attended: Tensor = weights @ value
    return attended


class Layer(nn.Module):
    """A BERT layer (post-norm); with `hyper` it also looks at pictures."""

    def __init__(self, config: ReaderConfig, hyper: bool) -> None:
        super().__init__()
        c = self.config = config
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.out = nn.Linear(c.width, c.width)
        self.attention_norm = nn.LayerNorm(c.width, eps=1e-12)
        self.up = nn.Linear(c.width, c.inner)
        self.down = nn.Linear(c.inner, c.width)
        self.norm = nn.LayerNorm(c.width, eps=1e-12)
        self.hyper = hyper
        if hyper:
            self.visual_kv = nn.Linear(c.width, 2 * c.width)
            self.gate = nn.Linear(c.head_width, 1)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, -2.0)
        self.watched: Tensor | None = None  # (B, H, T, N, P): attention, when asked for

    def _split(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        return x.view(B, T, self.config.heads, -1).transpose(1, 2)  # (B, H, T, E)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        sight: Sight | None,
        visual: Tensor | None,
        watch: bool,
    ) -> Tensor:
        query, key, value = (self._split(p) for p in self.qkv(x).chunk(3, -1))
        attended = attend(query, key, value, mask)
        if self.hyper and sight is not None and visual is not None:
            attended = self._look(query, attended, sight, visual, watch)
        B, _, T, _ = attended.shape
        attended = attended.transpose(1, 2).reshape(B, T, -1)
        x = self.attention_norm(x + self.out(attended))
        normed: Tensor = self.norm(x + self.down(F.gelu(self.up(x))))
        return normed

    def _look(
        self, query: Tensor, attended: Tensor, sight: Sight, visual: Tensor, watch: bool
    ) -> Tensor:
        """visual (B, N, P, D), normed by the layer norm that the text went through."""
        B, N, P, _ = visual.shape
        T, base = query.shape[2], self.config.rope_base
        key, value = (self._split(p) for p in self.visual_kv(visual.flatten(1, 2)).chunk(2, -1))
        where = sight.positions[:, :, None].expand(B, N, P).flatten(1)
        key = rotate(key, where, base)
        tokens = torch.arange(T, device=query.device).expand(B, T)
        turned = rotate(query, tokens, base)
        visible = sight.visible  # (B, T, N)
        blind = ~visible.any(-1)  # (B, T)
        allowed = (visible | blind[..., None])[:, None, :, :, None]
        allowed = allowed.expand(B, 1, T, N, P).flatten(3)  # (B, 1, T, N * P)
        seen = attend(turned, key, value, allowed)
        gate = torch.sigmoid(self.gate(attended).float()).to(attended.dtype)  # (B, H, T, 1)
        gate = gate * (~blind)[:, None, :, None].to(gate.dtype)
        if watch:
            scores = (turned @ key.transpose(-1, -2)).float() / self.config.head_width**0.5
            mass = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            looks = (~blind)[:, None, :, None]
            self.watched = (mass * looks).view(B, -1, T, N, P)
        return attended * (1 - gate) + seen * gate


class Reader(nn.Module):
    def __init__(self, config: ReaderConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or ReaderConfig()
        self.words = nn.Embedding(c.vocabulary, c.width)
        self.positions = nn.Embedding(c.positions, c.width)
        self.types = nn.Embedding(2, c.width)
        self.embedding_norm = nn.LayerNorm(c.width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(c, i in c.hyper_layers) for i in range(c.layers))
        self.patch_in = nn.Linear(c.patch_width, c.width)
        self.pooled_in = nn.Linear(c.pooled_width, c.width)
        self.similarity_in = nn.Linear(SIMILARITIES, c.width)
        nn.init.zeros_(self.similarity_in.weight)
        nn.init.zeros_(self.similarity_in.bias)
        self.pointer = nn.Linear(c.width, 2)
        self.item_head = nn.Linear(c.width, 1)
        self.support_head = nn.Linear(c.width, len(SUPPORT))
        # An item whose picture stands out is leaned towards from the first step on.
        self.lean = nn.Linear(SIMILARITIES, 1, bias=False)
        with torch.no_grad():
            self.lean.weight.copy_(torch.tensor([[0.0] * 5 + [1.0, 0.5, 1.0, 1.0]]))

    def forward(self, rows: Rows, watch: bool = False) -> Reading:
        """Read a batch. With `watch`, each hyper layer keeps its attention in `watched`."""
        T = rows.ids.shape[1]
        places = torch.arange(T, device=rows.ids.device)
        x = self.words(rows.ids) + self.positions(places) + self.types(rows.types)
        if rows.similarities is not None:
            x = x + self.similarity_in(rows.similarities)
        norm: nn.Module = self.embedding_norm
        x = norm(x)
        visual = self._visual_tokens(rows.sight) if rows.sight is not None else None
        mask = None if bool(rows.mask.all()) else rows.mask[:, None, None, :]
        for layer in self.layers:
            seen = norm(visual) if layer.hyper and visual is not None else None
            x = layer(x, mask, rows.sight, seen, watch)
            # what the next layer reads, text and pictures, went through this one
            norm = layer.get_submodule("norm")
        x = x.float()
        with torch.autocast(x.device.type, enabled=False):
            logits = self.pointer(x).masked_fill(~rows.pointable[..., None], -torch.inf)
            start, end = logits.unbind(-1)
            index = rows.separators.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1])
            items = x.gather(1, index)  # (B, I, D)
            item = self.item_head(items)[..., 0]
            return self.leaned(Reading(start, end, item, self.support_head(items)), rows)

    def leaned(self, reading: Reading, rows: Rows) -> Reading:
        """With what the likeness of its picture adds to each item's logits."""
        if rows.similarities is None:
            return reading
        lean = self.lean(rows.similarities)[..., 0]  # (B, T), 0 outside of items
        item = reading.item + lean.gather(1, rows.separators.clamp(min=0))
        return Reading(reading.start + lean, reading.end + lean, item, reading.support)

    def infer(self, rows: Rows, watch: bool = False) -> Reading:
        """`forward` without gradients, in bf16 where the CPU can."""
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            return self(rows, watch)  # type: ignore[no-any-return]

    def encode_plain(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The last layer (B, T, D) of text alone; with the published weights, MiniLM itself."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.positions(places) + self.types(torch.zeros_like(ids))
        x = self.embedding_norm(x)
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :], None, None, False)
        hidden: Tensor = x
        return hidden

    def _visual_tokens(self, sight: Sight) -> Tensor:
        """The patches and, last, the pooled vector as one more: (B, N, P, D)."""
        patches = self.patch_in(sight.patches)
        pooled = self.pooled_in(sight.pooled)[:, :, None]
        return torch.cat([patches, pooled], 2)

    def load_minilm(self, tensors: dict[str, Tensor]) -> None:
        """Start from the published all-MiniLM-L6-v2 tensors (BERT's names)."""
        with torch.no_grad():
            for own, theirs in self.published_names().items():
                parts = [tensors[name] for name in theirs]
                self.get_parameter(own).copy_(torch.cat(parts) if len(parts) > 1 else parts[0])

    def published_names(self) -> dict[str, list[str]]:
        """Own parameter -> the published tensors that it is the concatenation of."""
        names = {
            "words.weight": ["embeddings.word_embeddings.weight"],
            "positions.weight": ["embeddings.position_embeddings.weight"],
            "types.weight": ["embeddings.token_type_embeddings.weight"],
            "embedding_norm.weight": ["embeddings.LayerNorm.weight"],
            "embedding_norm.bias": ["embeddings.LayerNorm.bias"],
        }
        parts = {
            "out": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm",
            "up": "intermediate.dense",
            "down": "output.dense",
            "norm": "output.LayerNorm",
        }
        for i in range(self.config.layers):
            base = f"encoder.layer.{i}"
            for kind in ("weight", "bias"):
                names[f"layers.{i}.qkv.{kind}"] = [
                    f"{base}.attention.self.{p}.{kind}" for p in ("query", "key", "value")
                ]
                for own, theirs in parts.items():
                    names[f"layers.{i}.{own}.{kind}"] = [f"{base}.{theirs}.{kind}"]
        return names
