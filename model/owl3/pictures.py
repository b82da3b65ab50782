"""From stored features to the keys and values of one prompt, and a bounded cache between them.

Keys and values before rotation depend only on the picture, so hot pictures keep theirs; MI-RoPE
is then applied for the place that the picture has in *this* prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from rag_owl.model.hyper_attention import HyperAttention, rotate
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.sight import Sight

if TYPE_CHECKING:
    from rag_owl.model.owl3.model import Owl3

# hyper layer -> (keys, values), (K, P, E) each, keys not rotated
Projected: TypeAlias = dict[int, tuple[Tensor, Tensor]]

CHUNK = 16  # pictures projected in one go: bounds what is in flight beside the result


class PictureCache:
    """Keys and values of the pictures used last, at most `max_bytes` of them."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[tuple[object, ...], tuple[Projected, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: tuple[object, ...]) -> Projected | None:
        entry = self._kept.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return entry[0]

    def put(self, key: tuple[object, ...], projected: Projected) -> None:
        size = sum(k.nbytes + v.nbytes for k, v in projected.values())
        if size > self.max_bytes or key in self._kept:
            return
        # Copies, so that no slice keeps its whole chunk alive.
        self._kept[key] = {i: (k.clone(), v.clone()) for i, (k, v) in projected.items()}, size
        self.nbytes += size
        while self.nbytes > self.max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self.nbytes -= freed

    def clear(self) -> None:
        self._kept.clear()
        self.nbytes = 0


def look(model: Owl3, memory: VisualMemory, starts: Sequence[int]) -> Sight:
    """Project a row's pictures once per hyper layer and rotate them to their places.

    `starts` are indices into the row's text without padding. With gradients on, nothing is cached
    and gradients reach the features, the projections and the layer norms.
    """
    config = model.config
    sight = Sight(list(starts), memory.patches, sees_own_start=config.gate == "fused")
    chunks = [
        _chunk(model, memory[i : i + CHUNK], starts[i : i + CHUNK], keep=False)
        for i in range(0, len(memory) if torch.is_grad_enabled() else 0, CHUNK)
    ]
    for layer in config.hyper_indices:
        if chunks:
            sight.keys[layer] = torch.cat([chunk[layer][0] for chunk in chunks], dim=1)
            sight.values[layer] = torch.cat([chunk[layer][1] for chunk in chunks], dim=1)
    if not chunks:
        _fill(model, memory, starts, sight)
    return sight


def _fill(model: Owl3, memory: VisualMemory, starts: Sequence[int], sight: Sight) -> None:
    """As the loop above, into buffers made once: no second copy of everything at any time."""
    K, E = model.config.num_key_value_heads, model.head_width
    shape = (K, len(memory) * memory.patches, E)
    weight = model.language_model.model.norm.weight
    needed = 2 * len(model.config.hyper_layers) * K * E * shape[1] * weight.element_size()
    # A prompt that is larger than the whole cache would only push the hot pictures out.
    keep = needed <= model.picture_cache.max_bytes
    for layer in model.config.hyper_indices:
        sight.keys[layer] = weight.new_empty(shape)
        sight.values[layer] = weight.new_empty(shape)
    for i in range(0, len(memory), CHUNK):
        chunk = _chunk(model, memory[i : i + CHUNK], starts[i : i + CHUNK], keep=keep)
        for layer, (keys, values) in chunk.items():
            place = slice(i * memory.patches, i * memory.patches + keys.shape[1])
            sight.keys[layer][:, place] = keys
            sight.values[layer][:, place] = values


def _chunk(
    model: Owl3, memory: VisualMemory, starts: Sequence[int], *, keep: bool
) -> dict[int, tuple[Tensor, Tensor]]:
    """A few pictures: layer -> rotated keys and values, (K, n * P, E) each."""
    cache = None if torch.is_grad_enabled() or model.training else model.picture_cache
    device = model.language_model.model.norm.weight.device
    shift = model.config.position_shift
    positions = torch.tensor([start + shift for start in starts], device=device)
    frequencies = model.language_model.model.rotary_emb.inv_freq
    kept: list[Projected | None] = [None] * len(memory)
    if cache is not None:
        state = model.projection_state()
        kept = [cache.get((*state, name)) for name in memory.ids]
    missing = [i for i, projected in enumerate(kept) if projected is None]
    if missing:
        fresh = _project(model, memory if len(missing) == len(memory) else memory[missing])
        if cache is not None:
            for at, i in enumerate(missing):
                one = {layer: (keys[at], values[at]) for layer, (keys, values) in fresh.items()}
                kept[i] = one
                if keep:
                    cache.put((*state, memory.ids[i]), one)
    rotated = {}
    for layer in model.config.hyper_indices:
        if len(missing) == len(memory):
            keys, values = fresh[layer]
        else:
            there = [projected[layer] for projected in kept if projected is not None]
            keys = torch.stack([k for k, _ in there])
            values = torch.stack([v for _, v in there])
        keys = rotate(keys, positions, frequencies)  # (n, K, P, E)
        rotated[layer] = (
            keys.transpose(0, 1).flatten(1, 2),  # (K, n * P, E)
            values.transpose(0, 1).flatten(1, 2),
        )
    return rotated


def _project(model: Owl3, memory: VisualMemory) -> Projected:
    """Every hyper layer's keys and values, (n, K, P, E) each: its own norm, then its projection.

    The norms of the layers differ in their weights only, so what they share is computed once.
    """
    weight = model.language_model.model.norm.weight
    features = memory.dense(weight.device, weight.dtype)
    wide = features.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps)
    normed = (wide * scale).to(features.dtype)
    projected = {}
    for index in model.config.hyper_indices:
        layer = model.language_model.model.layers[index]
        attention: HyperAttention = layer.self_attn
        projected[index] = attention.project_pictures(layer.input_layernorm.weight * normed)
    return projected
