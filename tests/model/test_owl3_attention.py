"""What hyper attention must hold to in any variant, shown on small random models."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_owl.model.owl3.model import Owl3
from rag_owl.model.owl3.sizes import random_model, sized
from rag_owl.model.sight import Sight

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
GATES = ("dynamic", "static", "fused")
MODELS = {gate: random_model("tiny", gate, seed=3) for gate in GATES}
every_gate = pytest.mark.parametrize("gate", GATES)


def ids(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 259, (1, count), generator=random)


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 70, 70, generator=torch.Generator().manual_seed(seed))


@every_gate
@torch.no_grad()
def test_a_picture_changes_no_token_before_it(gate):
    model = MODELS[gate]
    prompt, starts = ids(30), [[4, 12, 20]]
    memory = model.remember(pixels(3))
    other = model.remember(pixels(3, seed=9))
    mixed = memory.cat([memory[:2], other[2:]])
    a, b = model(prompt, memory, starts), model(prompt, mixed, starts)
    first = 20 if gate == "fused" else 21  # fused: the first placeholder token sees its picture
    assert torch.equal(a[:, :first], b[:, :first])
    assert (a[:, first:] - b[:, first:]).abs().max() > 1e-2


@every_gate
@settings(max_examples=15, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_pictures_permuted_with_their_positions_give_the_same(gate, data):
    model = MODELS[gate]
    count = data.draw(st.integers(2, 5))
    order = data.draw(st.permutations(range(count)))
    starts = [3 * i + 1 for i in range(count)]
    memory = model.remember(pixels(count))
    prompt = ids(3 * count + 4)
    logits = model(prompt, memory, [starts])
    together = model(prompt, memory[list(order)], [[starts[i] for i in order]])
    assert torch.allclose(logits, together, atol=1e-5)
    if list(order) != list(range(count)):  # permuted without their positions: another prompt
        assert not torch.allclose(logits, model(prompt, memory[list(order)], [starts]), atol=1e-3)


@every_gate
@torch.no_grad()
def test_cached_equals_uncached(gate):
    model = MODELS[gate]
    prompt, starts = ids(25), [[2, 9]]
    memory = model.remember(pixels(2))
    new = model.generate(prompt, memory, starts, max_new_tokens=8)
    tokens = prompt
    for i in range(8):  # everything again for every token
        model.picture_cache.clear()
        token = model(tokens, memory, starts)[:, -1].argmax(dim=-1)
        assert int(token) == int(new[0, i])
        tokens = torch.cat((tokens, token[None]), dim=1)


@every_gate
@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(8, 24), min_size=2, max_size=4), left=st.booleans())
@torch.no_grad()
def test_a_batch_of_unequal_prompts_equals_singles(gate, lengths, left):
    model = MODELS[gate]
    longest = max(lengths)
    rows = [ids(n, seed=n + i)[0] for i, n in enumerate(lengths)]
    pictures = [i % 3 for i in range(len(rows))]  # some rows have none
    memory = model.remember(pixels(max(1, sum(pictures))))[: sum(pictures)]
    batch = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(batch)
    starts, first, singles = [], 0, []
    for row, text in enumerate(rows):
        shift = longest - len(text) if left else 0
        batch[row, shift : shift + len(text)] = text
        mask[row, shift : shift + len(text)] = 1
        places = [1 + 3 * i for i in range(pictures[row])]
        starts.append([shift + place for place in places])
        mine = memory[first : first + len(places)] if places else None
        first += len(places)
        singles.append(model(text[None], mine, [places])[0])
    together = model(batch, memory if len(memory) else None, starts, mask)
    for row, alone in enumerate(singles):
        assert torch.allclose(together[row][mask[row].bool()], alone, atol=2e-4)


@torch.no_grad()
def test_a_row_never_sees_another_rows_pictures():
    model = MODELS["dynamic"]
    prompt = ids(20).repeat(2, 1)
    memory, other = model.remember(pixels(2)), model.remember(pixels(1, seed=5))
    a = model(prompt, memory, [[3], [3]])
    b = model(prompt, memory.cat([memory[:1], other]), [[3], [3]])
    assert torch.equal(a[0], b[0])
    assert not torch.allclose(a[1], b[1], atol=1e-3)


@every_gate
def test_stretches_cover_every_token_once(gate):
    sight = Sight([0, 3, 4, 10], 4, sees_own_start=gate == "fused")
    for first in range(12):
        pieces = list(sight.stretches(first, 15))
        tokens = [t for begin, end, _ in pieces for t in range(begin, end)]
        assert tokens == list(range(first, 15))
        for begin, end, count in pieces:
            assert all(sight.visible(t) == count for t in range(begin, end))


@torch.no_grad()
def test_a_picture_whose_placeholder_ends_the_prompt_is_seen_by_the_answer():
    model = MODELS["dynamic"]
    prompt, starts = ids(9), [[8]]
    tokens = {
        tuple(
            model.generate(prompt, model.remember(pixels(1, seed)), starts, max_new_tokens=6)[
                0
            ].tolist()
        )
        for seed in range(4)
    }
    assert len(tokens) > 1


@every_gate
def test_gradients_reach_every_trained_part(gate):
    model = Owl3(sized("tiny", gate))
    model.train()
    prompt = ids(16)
    memory = model.remember(pixels(2))
    logits = model(prompt, memory, [[2, 8]])
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], prompt[0, 1:])
    loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A key's bias moves all scores of a softmax alike, so its gradient is zero up to rounding.
    assert [n for n in without if not n.endswith("k_proj.bias")] == []


def test_a_step_of_training_lowers_the_loss():
    torch.manual_seed(0)
    model = random_model("tiny", "dynamic", seed=1, deviation=0.05).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    prompt, pictures = ids(16), pixels(2)
    losses = []
    for _ in range(15):
        logits = model(prompt, model.remember(pictures), [[2, 8]])
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], prompt[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
