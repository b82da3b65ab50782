"""Generating: batches, sampling, streams, cancelling, further turns."""

from __future__ import annotations

import pytest
import torch

from rag_owl.errors import InvalidInput
from rag_owl.model.owl3.conversation import Conversation
from rag_owl.model.owl3.generate import Batch, Request, run, stream
from rag_owl.model.owl3.sampling import Sampler, Sampling
from rag_owl.model.owl3.sizes import random_model

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
GATES = ("dynamic", "static", "fused")
MODELS = {gate: random_model("tiny", gate, seed=4) for gate in GATES}
MODEL = MODELS["dynamic"]
every_gate = pytest.mark.parametrize("gate", GATES)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def ids(count: int, seed: int = 0) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 259, (count,), generator=random).tolist()


def remember(model, count: int, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    return model.remember(torch.randn(count, 3, 70, 70, generator=random))


def request(model, seed: int, **more) -> Request:
    """A prompt of its own length with its own pictures, by seed."""
    pictures = seed % 3
    memory = remember(model, pictures, seed) if pictures else None
    starts = [2 + 5 * i for i in range(pictures)]
    more.setdefault("sampling", Sampling(max_new_tokens=6 + seed))
    return Request(ids(14 + 3 * seed, seed), memory, starts, **more)


def alone(model, seed: int) -> list[int]:
    one = request(model, seed)
    run(model, [one])
    return one.tokens


@every_gate
def test_a_request_that_joins_a_running_batch_gets_what_it_gets_alone(gate):
    model = MODELS[gate]
    requests = [request(model, seed) for seed in range(5)]
    batch = Batch(model)
    waiting = list(requests)
    ended = []
    while waiting or batch.requests:
        if waiting:
            batch.join(waiting.pop(0))
        ended += batch.step()
        if waiting and len(batch.requests) > 1:
            ended += batch.step()
    assert {id(r) for r in ended} == {id(r) for r in requests}
    for seed, done in enumerate(requests):
        assert done.ending == "length"
        assert done.tokens == alone(model, seed)


@every_gate
def test_a_batch_of_unequal_rows(gate):
    model = MODELS[gate]
    rows = [ids(10, 1), ids(17, 2), ids(13, 3)]
    memory = remember(model, 3)
    batch, mask = torch.zeros(3, 17, dtype=torch.long), torch.zeros(3, 17, dtype=torch.long)
    for row, text in enumerate(rows):
        batch[row, -len(text) :] = torch.tensor(text)
        mask[row, -len(text) :] = 1
    starts = [[7 + 2, 7 + 6], [], [4 + 3]]
    together = model.generate(batch, memory, starts, mask, max_new_tokens=7)
    singles = [
        model.generate(torch.tensor(rows[0])[None], memory[:2], [[2, 6]], max_new_tokens=7),
        model.generate(torch.tensor(rows[1])[None], max_new_tokens=7),
        model.generate(torch.tensor(rows[2])[None], memory[2:], [[3]], max_new_tokens=7),
    ]
    assert torch.equal(together, torch.cat(singles))


def test_a_stream_gives_the_same_tokens_one_by_one():
    wanted = alone(MODEL, 2)
    heard: list[int] = []
    tokens = stream(MODEL, request(MODEL, 2, on_token=heard.append))
    assert next(tokens) == wanted[0]
    assert heard == wanted[:1]  # no token is computed before it is asked for
    assert [wanted[0], *tokens] == wanted == heard


def test_generation_ends_at_an_end_token():
    wanted = alone(MODEL, 2)
    stop = wanted[3]
    one = request(MODEL, 2, sampling=Sampling(max_new_tokens=50, stop_ids=(stop,)))
    run(MODEL, [one])
    assert one.ending == "stop"
    assert one.tokens == wanted[: wanted.index(stop) + 1]


def test_rows_that_end_early_are_padded():
    prompt = torch.tensor([ids(12, 5), ids(12, 6)])
    free = MODEL.generate(prompt, max_new_tokens=6)
    stop = int(free[0, 1])
    ended = MODEL.generate(prompt, max_new_tokens=6, stop_ids=(stop,))
    assert (
        ended[0, : list(free[0]).index(stop) + 1].tolist()
        == free[0, : list(free[0]).index(stop) + 1].tolist()
    )
    assert set(ended[0, list(free[0]).index(stop) + 1 :].tolist()) <= {MODEL.config.pad_token_id}


def test_a_cancelled_request_leaves_and_the_others_go_on():
    wanted = alone(MODEL, 1)
    tokens: list[int] = []
    first = request(MODEL, 2, on_token=tokens.append, cancel=lambda: len(tokens) == 2)
    second = request(MODEL, 1)
    run(MODEL, [first, second])
    assert first.ending == "cancelled"
    assert len(first.tokens) == 2
    assert second.tokens == wanted


def test_cancelled_before_it_began():
    one = request(MODEL, 1, cancel=lambda: True)
    run(MODEL, [one])
    assert (one.ending, one.tokens) == ("cancelled", [])


def test_a_failed_request_leaves_the_batch_as_it_was():
    wanted = alone(MODEL, 1)
    batch = Batch(MODEL)
    good = request(MODEL, 1)
    batch.join(good)
    with pytest.raises(InvalidInput):
        batch.join(Request([1, 2, 3], remember(MODEL, 1), []))
    while batch.requests:
        batch.step()
    assert good.tokens == wanted


def test_sampling_with_a_seed_is_repeatable_and_its_own():
    how = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9, top_k=50, seed=11)
    first, second, other = (request(MODEL, 1, sampling=how) for _ in range(3))
    run(MODEL, [first])
    run(MODEL, [other, second])  # in company
    assert first.tokens == second.tokens
    different = request(MODEL, 1, sampling=Sampling(max_new_tokens=8, temperature=1.0, seed=12))
    run(MODEL, [different])
    assert different.tokens != first.tokens


def test_sampled_frequencies_follow_the_probabilities():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    sampler = Sampler(Sampling(temperature=1.0, seed=0), [], 4)
    drawn = torch.bincount(torch.tensor([sampler.choose(logits) for _ in range(4000)]), minlength=4)
    assert torch.allclose(drawn / 4000, logits.exp(), atol=0.03)
    top_two = Sampler(Sampling(temperature=1.0, top_k=2, seed=0), [], 4)
    assert {top_two.choose(logits) for _ in range(200)} == {0, 1}
    nucleus = Sampler(Sampling(temperature=1.0, top_p=0.75, seed=0), [], 4)
    assert {nucleus.choose(logits) for _ in range(200)} == {0, 1}


def test_repetition_penalty_is_that_of_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    prompt = [3, 3, 17, 20]
    reference = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt]), logits[None].clone())
    order = reference[0].argsort(descending=True)
    sampler = Sampler(Sampling(repetition_penalty=1.7), prompt, 50)
    assert sampler.choose(logits) == int(order[0])
    plain, punished = (
        MODEL.generate(torch.tensor([ids(12)]), max_new_tokens=30, repetition_penalty=p)
        for p in (1.0, 5.0)
    )
    assert len(set(punished[0].tolist())) > len(set(plain[0].tolist()))


def test_id_zero_is_a_token_like_any_other():
    """It is "!" in Qwen2's vocabulary; the published code masks it out of every prompt."""
    prompt = ids(12, 8)
    with_zero = [*prompt[:5], 0, *prompt[5:]]
    logits = MODEL(torch.tensor([with_zero]))
    assert logits.shape[1] == 13
    assert not torch.allclose(logits[:, -1], MODEL(torch.tensor([prompt]))[:, -1], atol=1e-3)
    explicit = MODEL(torch.tensor([with_zero]), attention_mask=torch.ones(1, 13))
    assert torch.equal(logits, explicit)


@every_gate
def test_a_second_turn_reuses_the_cache_and_changes_nothing(gate):
    model = MODELS[gate]
    how = Sampling(max_new_tokens=5)
    talk = Conversation(model)
    memory = remember(model, 3)
    first_turn, starts = ids(20, 1), [2, 9]
    answer = talk.generate(first_turn, memory[:2], starts, how)
    assert talk.reused == 0
    second_turn = [*first_turn, *answer, *ids(12, 2)]
    more_starts = [*starts, len(first_turn) + len(answer) + 4]
    again = talk.generate(second_turn, memory, more_starts, how)
    assert talk.reused == len(first_turn) + len(answer) - 1
    fresh = Conversation(model).generate(second_turn, memory, more_starts, how)
    assert again == fresh
    # A third turn that goes back: the first question asked differently.
    edited = [*first_turn[:15], *ids(6, 3)]
    third = talk.generate(edited, memory[:2], starts, how)
    assert talk.reused == 15
    assert third == Conversation(model).generate(edited, memory[:2], starts, how)
    # Another picture at a place that was read already.
    other = memory.cat([memory[:1], memory[2:]])
    fourth = talk.generate(edited, other, starts, how)
    assert talk.reused == 9
    assert fourth == Conversation(model).generate(edited, other, starts, how)


def test_a_conversation_survives_a_refused_turn():
    talk = Conversation(MODEL)
    talk.generate(ids(10), sampling=Sampling(max_new_tokens=2))
    with pytest.raises(InvalidInput):
        talk.generate(ids(10), remember(MODEL, 1), [], Sampling(max_new_tokens=2))
    assert len(talk.generate(ids(10), sampling=Sampling(max_new_tokens=2))) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": -1},
        {"repetition_penalty": 0},
    ],
)
def test_wrong_sampling(wrong):
    with pytest.raises(InvalidInput):
        Sampling(**wrong)


def test_generation_ends_with_the_last_position():
    limit = MODEL.config.max_position_embeddings
    one = Request(ids(limit - 2), sampling=Sampling(max_new_tokens=10))
    run(MODEL, [one])
    assert one.ending == "positions"
    assert len(one.prompt) + len(one.tokens) == limit + 1  # the last token is never read
