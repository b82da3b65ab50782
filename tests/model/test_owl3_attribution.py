"""Attribution: sums to one, agrees with attention written out, changes nothing."""

from __future__ import annotations

import pytest
import torch

from rag_owl.model.attribution import AttentionRecord, region
from rag_owl.model.owl3.generate import Batch, Request, run
from rag_owl.model.owl3.pictures import look
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.sizes import random_model
from rag_owl.model.sight import HyperInputs, RowSpan

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
GATES = ("dynamic", "static", "fused")
MODELS = {gate: random_model("tiny", gate, seed=6) for gate in GATES}
every_gate = pytest.mark.parametrize("gate", GATES)
PROMPT = list(range(40, 66))
STARTS = [3, 12]
HOW = Sampling(max_new_tokens=5)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def remember(model, count: int = 2):
    random = torch.Generator().manual_seed(0)
    return model.remember(torch.randn(count, 3, 70, 70, generator=random))


@every_gate
def test_the_masses_of_a_token_sum_to_one(gate):
    model = MODELS[gate]
    one = Request(PROMPT, remember(model), STARTS, HOW, attention=True)
    run(model, [one])
    record = one.attention
    assert record is not None
    assert len(record) == len(one.tokens) == 5
    for i in range(5):
        here = range(i, i + 1)
        pictures = record.picture_mass(here, 2)
        (text,) = record.text_mass(here, [(0, 10_000)])
        assert pictures.shape == (2,)
        assert (pictures > 0).all()
        assert float(pictures.sum()) + text == pytest.approx(1, abs=5e-3)
    spans = record.text_mass(range(5), [(0, 6), (6, 20), (20, 26), (26, 99)])
    assert sum(spans) == pytest.approx(record.text_mass(range(5), [(0, 99)])[0], abs=1e-4)


@every_gate
def test_it_is_the_attention_written_out(gate):
    """The first token's record against plain formulas on the first hyper layer's inputs."""
    model = MODELS[gate]
    memory = remember(model)
    span = RowSpan(0, len(PROMPT), 0, 0)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class First:
        def see(self, row, patches, text):
            seen.append((patches, text))

    sight = look(model, memory, STARTS)
    ids = torch.tensor([PROMPT])
    model._run(ids, HyperInputs([sight], [span], First()), 0, None)
    layer = model.language_model.model.layers[0]
    attention = layer.self_attn
    H, K, E = attention.heads, attention.key_heads, attention.head_dim
    hidden = layer.input_layernorm(model.language_model.model.embed_tokens(ids))
    T = len(PROMPT)

    def heads(x, n):
        return x.view(T, n, E).transpose(0, 1)

    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

    cos, sin = model.language_model.model.rotary_emb(hidden, torch.arange(T)[None])
    query = heads(attention.q_proj(hidden)[0], H)[None]
    key = heads(attention.k_proj(hidden)[0], K)[None]
    value = repeat_kv(heads(attention.v_proj(hidden)[0], K)[None], H // K)[0]
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    last = query[0, :, -1:]  # (H, 1, E)
    text = (last @ repeat_kv(key, H // K)[0].transpose(1, 2))[:, 0] / E**0.5  # (H, T)
    visual = (last @ repeat_kv(sight.keys[0][None], H // K)[0].transpose(1, 2))[:, 0] / E**0.5
    if gate == "fused":
        weights = torch.cat((visual, text), dim=-1).softmax(-1).mean(0)
        patches, words = weights[: visual.shape[1]], weights[visual.shape[1] :]
    else:
        own = (text.softmax(-1)[:, None] @ value)[:, 0]  # (H, E)
        if gate == "dynamic":
            through = torch.sigmoid(attention.gate_proj[0](own)).mean(-1)
        else:
            through = torch.sigmoid(attention.gate).view(H, E).mean(-1)
        patches = (through[:, None] * visual.softmax(-1)).mean(0)
        words = ((1 - through)[:, None] * text.softmax(-1)).mean(0)
    assert torch.allclose(seen[0][0], patches, atol=1e-5)
    assert torch.allclose(seen[0][1], words, atol=1e-5)


@every_gate
def test_asking_for_it_changes_no_token(gate):
    model = MODELS[gate]
    plain = Request(PROMPT, remember(model), STARTS, HOW)
    watched = Request(PROMPT, remember(model), STARTS, HOW, attention=True)
    run(model, [plain])
    run(model, [watched])
    assert plain.tokens == watched.tokens
    assert plain.attention is None


@every_gate
def test_in_company_it_is_the_same(gate):
    """Padding, other rows and their pictures leave a row's record alone."""
    model = MODELS[gate]
    alone = Request(PROMPT, remember(model), STARTS, HOW, attention=True)
    run(model, [alone])
    together = Request(PROMPT, remember(model), STARTS, HOW, attention=True)
    batch = Batch(model)
    long = Request(list(range(80)), remember(model, 1), [40], Sampling(max_new_tokens=9))
    batch.join(long)
    batch.step()
    batch.join(together)
    while batch.requests:
        batch.step()
    assert alone.attention is not None
    assert together.attention is not None
    for i in range(5):
        a, b = alone.attention, together.attention
        assert torch.allclose(a.patches[i], b.patches[i], atol=2e-3)
        assert torch.allclose(a.text[i], b.text[i], atol=2e-3)


def test_without_pictures_all_mass_is_on_text():
    one = Request(PROMPT, sampling=HOW, attention=True)
    run(MODELS["dynamic"], [one])
    assert one.attention is not None
    assert one.attention.text_mass(range(5), [(0, 99)])[0] == pytest.approx(1, abs=2e-3)
    assert one.attention.picture_mass(range(5), 0).numel() == 0
    assert AttentionRecord().text_mass(range(0), [(0, 3)]) == [0.0]


def test_the_region_is_where_the_mass_is():
    mass = torch.zeros(10, 10)
    mass[2:4, 5:8] = 1.0
    mass[9, 0] = 0.4
    left, top, right, bottom = region(mass.flatten())
    assert 0.4 <= left <= 0.5
    assert 0.1 <= top <= 0.2
    assert 0.8 <= right <= 0.9
    assert 0.4 <= bottom <= 0.5
    assert region(torch.ones(25)) == (0.0, 0.0, 1.0, 1.0)
