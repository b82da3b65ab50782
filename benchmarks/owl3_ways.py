"""The ways to answer that `benchmarks.owl3` compares."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

from rag_owl.model.hyper_attention import rotate
from rag_owl.model.owl3 import Owl3, VisualMemory
from rag_owl.model.owl3.pictures import look
from rag_owl.model.owl3.state import DecodingState

WAYS = {
    "a": "(a) stored features",
    "b": "(b) no visual memory, as published",
    "r": "(r) this runtime, projected again",
    "c": "(c) visual tokens in the sequence",
}
LEAD, PER_PICTURE, QUESTION = 16, 6, 24  # tokens: before, for each picture, after


class Prompt:
    def __init__(self, model: Owl3, pictures: int) -> None:
        random = torch.Generator().manual_seed(pictures)
        length = LEAD + PER_PICTURE * pictures + QUESTION
        self.ids = torch.randint(0, model.config.vocab_size - 8, (1, length), generator=random)
        self.ids = self.ids.to(model.device)
        self.starts = [LEAD + PER_PICTURE * i for i in range(pictures)]


def features(model: Owl3, pictures: int) -> VisualMemory:
    """Random features in bf16, as they come from a store, on the model's device."""
    shape = (pictures, model.config.vision.patches, model.config.hidden_size)
    values = torch.empty(shape, dtype=torch.bfloat16, device=model.device)
    random = torch.Generator(model.device).manual_seed(1)
    values.normal_(0, 0.1, generator=random)
    ids = tuple(f"{pictures}-{i}" for i in range(pictures))
    return VisualMemory(values, model.memory_identity, ids)


class Hyper:
    """Way (a)."""

    def __init__(self, model: Owl3, pictures: int) -> None:
        self.model = model
        self.memory, self.prompt = features(model, pictures), Prompt(model, pictures)
        self.state = DecodingState()

    def first(self) -> Tensor:
        self.model.picture_cache.clear()
        self.state = DecodingState()
        return self.model(
            self.prompt.ids, self.memory, [self.prompt.starts], state=self.state, last_only=True
        )

    def step(self, token: Tensor) -> Tensor:
        return self.model(token, state=self.state, last_only=True)


class Again(Hyper):
    """Way (r). Features are kept in the model's own numbers, as the published code keeps them."""

    def __init__(self, model: Owl3, pictures: int) -> None:
        super().__init__(model, pictures)
        dense = self.memory.features.to(model.dtype)
        self.memory = VisualMemory(dense, self.memory.identity, self.memory.ids)

    def step(self, token: Tensor) -> Tensor:
        self.model.picture_cache.clear()
        self.state.sights[0] = None
        self.state.sights[0] = look(self.model, self.memory, self.prompt.starts)
        return super().step(token)


class Published(Again):
    """Way (b): the hyper layers' forward as it is published, while this one decodes."""

    def step(self, token: Tensor) -> Tensor:
        layers = [
            self.model.language_model.model.layers[i] for i in self.model.config.hyper_indices
        ]
        for layer in layers:
            layer.self_attn.forward = functools.partial(self._attend, layer)
        try:
            return self.model(token, state=self.state, last_only=True)
        finally:
            for layer in layers:
                del layer.self_attn.forward

    def _attend(
        self,
        layer: Any,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: DecodingState,
        **_: Any,
    ) -> tuple[Tensor, None]:
        attention = layer.self_attn
        groups, shape = attention.num_key_value_groups, (1, 1, -1, attention.head_dim)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        key, value = past_key_values.update(key, value, attention.layer_idx)
        own = scaled_dot_product_attention(query, repeat_kv(key, groups), repeat_kv(value, groups))
        keys, values = attention.project_pictures(layer.input_layernorm(self.memory.features))
        shift = self.model.config.position_shift
        places = torch.tensor(self.prompt.starts, device=query.device) + shift
        keys = rotate(keys, places, self.model.language_model.model.rotary_emb.inv_freq)
        keys, values = (x.transpose(0, 1).flatten(1, 2)[None] for x in (keys, values))
        seen = scaled_dot_product_attention(
            query, repeat_kv(keys, groups), repeat_kv(values, groups)
        )
        own, seen = own.transpose(1, 2), seen.transpose(1, 2)  # (1, 1, H, E)
        gate = attention.gate_of(own)
        merged = own * (1 - gate) + seen * gate
        return attention.o_proj(merged.reshape(1, 1, -1)), None


class Interleaved:
    """Way (c): the same language model reads the visual tokens as if they were words."""

    def __init__(self, model: Owl3, pictures: int) -> None:
        self.model = model
        self.memory, self.prompt = features(model, pictures), Prompt(model, pictures)
        self.cache: Any = None

    def first(self) -> Tensor:
        language = self.model.language_model
        words = language.model.embed_tokens(self.prompt.ids)[0]
        pieces, last = [], 0
        for i, start in enumerate(self.prompt.starts):
            pieces += [words[last:start], self.memory.features[i].to(words.dtype)]
            last = start
        embedded = torch.cat([*pieces, words[last:]])[None]
        self.cache = transformers.DynamicCache(config=language.config)
        return self._run(inputs_embeds=embedded)

    def step(self, token: Tensor) -> Tensor:
        return self._run(input_ids=token)

    def _run(self, **inputs: Tensor) -> Tensor:
        language = self.model.language_model
        out = language.model(**inputs, past_key_values=self.cache, use_cache=True)
        return language.lm_head(out.last_hidden_state[:, -1:]).float()


KINDS: dict[str, Any] = {"a": Hyper, "b": Published, "r": Again, "c": Interleaved}


@torch.no_grad()
def check_same_work(model: Owl3, pictures: int) -> float:
    """The ways (a), (r) and (b) must compute the same -> the largest difference of their logits.

    Raises AssertionError when they do not: then the comparison would mean nothing.
    """
    logits = []
    for kind in (Hyper, Again, Published):
        runner = kind(model, pictures)
        runner.first()
        logits.append(runner.step(torch.tensor([[7]])))
    scale = logits[0].abs().max()
    worst = max(float((other - logits[0]).abs().max() / scale) for other in logits[1:])
    if worst > (1e-4 if model.dtype == torch.float32 else 0.05):
        raise AssertionError(f"the ways differ by {worst:.1e} of the logits' range")
    return worst
