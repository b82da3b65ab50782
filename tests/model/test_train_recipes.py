"""Recipes on tiny models: what moves, that it learns, that a killed run ends as others do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rag_owl.errors import InvalidCheckpoint, InvalidInput, ModelNotFound
from rag_owl.model import adapter
from rag_owl.model.owl3.sizes import random_model
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer
from rag_owl.model.registry import Surroundings, called, load_answerer
from rag_owl.model.train.examples import Example, Pictures, Shown, drawn, read_examples, split
from rag_owl.model.train.figures import figures
from rag_owl.model.train.learner import Learner, load_local, row_of
from rag_owl.model.train.recipes import RECIPES, recipe
from rag_owl.model.train.run import Plan, choose, run_stage
from rag_owl.types import Attribution, Draft
from tests.model.families import write_model

torch.set_num_threads(1)
PLAN = Plan(steps=6, batch=2, save_every=3, log_every=1, held_back=0.25, rate=5e-3, asked=1)


def write_owl3(folder: Path) -> Path:
    random_model("tiny", seed=1).save_pretrained(folder)
    Owl3Tokenizer.of_bytes().save(folder)
    return folder


def model_of(family: str, folder: Path) -> Path:
    return write_owl3(folder) if family == "owl3" else write_model(folder, family)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight questions about squares of one colour; one of two items says which."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "pictures").mkdir()
    lines = []
    for number, colour in enumerate(("red", "green", "blue", "white") * 2):
        file = folder / "square.png"
        Image.new("RGB", (40 + number, 40), colour).save(file)
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(folder / "pictures" / name)
        items = (Shown("a", "One", f"It is {colour}.", picture=name), Shown("b", "Two", "No."))
        example = Example(str(number), "Which?", items, f"{colour} [1]", (name,), colour, (0,))
        lines.append(example.line())
    (folder / "examples.jsonl").write_text("\n".join(lines))
    return folder


STAGES = [
    ("owl1", "owl1", 1),
    ("owl1", "owl1", 2),
    ("ovis", "gemma", 1),
    ("ovis", "gemma", 2),
    ("ovis", "llama", 3),
    ("owl3", "owl3", 1),
    ("owl3", "owl3", 2),
    ("lora", "owl3", 1),
    ("lora", "gemma", 1),
]
MOVES = {  # what the stage is about, in a few words of its own
    ("owl1", 1): ("vision_model.", "abstractor.", "query_tokens"),
    ("owl1", 2): ("language_model.", ".lora_"),
    ("ovis", 1): ("vision_model.encoder.layers.", "head.", "vte."),
    ("ovis", 2): ("vision_model.", "head.", "vte."),
    ("ovis", 3): ("",),
    ("owl3", 1): ("vision2text_model.", "v_kv_proj", "self_attn.gate"),
    ("owl3", 2): ("vision2text_model.", "language_model."),
    ("lora", 1): ("language_model.", ".lora_"),
}


@pytest.mark.parametrize(("name", "family", "number"), STAGES)
def test_what_a_stage_names_moves_and_nothing_else(name, family, number, data, tmp_path):
    local = load_local(model_of(family, tmp_path / "base"))
    chosen = choose(local.model, recipe(name).stage(number))
    words = MOVES[name, number]
    if recipe(name).stage(number).low_rank:
        assert chosen
        assert all(all(word in n for word in words) for n in chosen)
    else:
        wanted = {n for n, _ in local.model.named_parameters() if any(w in n for w in words)}
        if (name, number) == ("ovis", 1):  # the last layer alone
            last = max(n for n in wanted if ".layers." in n).split(".layers.")[1].split(".")[0]
            wanted = {n for n in wanted if ".layers." not in n or f".layers.{last}." in n}
        assert chosen == wanted
    before = {n: p.detach().clone() for n, p in local.model.named_parameters()}
    learner = Learner(local, Pictures(data))
    rows = [row_of(local, example, 2000) for example in read_examples(data)]
    learning = [p for p in local.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(4):
        loss = learner(rows[:3])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    moved = {n for n, p in local.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= chosen
    # What no gradient can reach: a key's bias (softmax does not see it), positions no answer has.
    still = {n for n in chosen - moved if "k_proj.bias" not in n and ".key.bias" not in n}
    assert not still


@pytest.mark.parametrize(("name", "family"), [("owl3", "owl3"), ("lora", "gemma")])
def test_a_run_that_was_killed_ends_as_one_that_was_not(name, family, data, tmp_path):
    base = model_of(family, tmp_path / "base")
    whole = run_stage(recipe(name), 1, str(base), data, tmp_path / "whole", PLAN)
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from rag_owl.model.train.recipes import recipe\n"
        "from rag_owl.model.train.run import Plan, run_stage\n"
        f"plan = Plan(**{asdict(PLAN)})\n"
        f"run_stage(recipe({name!r}), 1, sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), plan)\n"
    )
    out = tmp_path / "killed"
    command = [sys.executable, "-c", code, str(base), str(data), str(out)]
    killed = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    log = out / f"1-{recipe(name).stages[0].name}"
    try:
        for _ in range(2400):
            if list(log.glob("checkpoint-3/trainer_state.json")) or killed.poll() is not None:
                break
            time.sleep(0.05)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    resumed = run_stage(recipe(name), 1, str(base), data, out, PLAN)
    for file in whole.glob("*.safetensors"):
        assert file.read_bytes() == (resumed / file.name).read_bytes()
    card = json.loads((resumed / "card.json").read_text())
    assert card["steps"] == 6
    assert card["held_back_loss"] > 0
    assert (log / "loss.png").stat().st_size > 2000
    assert run_stage(recipe(name), 1, str(base), data, out, PLAN) == resumed  # at once


def test_a_trained_checkpoint_loads_as_the_base_does(data, tmp_path):
    for name, family in (("owl1", "owl1"), ("ovis", "llama"), ("owl3", "owl3")):
        base = model_of(family, tmp_path / family)
        result = run_stage(recipe(name), 1, str(base), data, tmp_path / f"out-{name}", PLAN)
        before, after = load_local(base), load_local(result)
        chosen = choose(before.model, recipe(name).stage(1))
        theirs = dict(after.model.named_parameters())
        changed = {n for n, p in before.model.named_parameters() if not torch.equal(p, theirs[n])}
        assert changed
        assert changed <= chosen


def test_an_adapter_adds_its_difference_to_the_base(data, tmp_path):
    base = write_owl3(tmp_path / "base")
    result = run_stage(recipe("lora"), 1, str(base), data, tmp_path / "out", PLAN)
    assert adapter.base_of(result) == str(base)
    learnt = load_local(base)
    choose(learnt.model, recipe("lora").stage(1))
    assert json.loads((result / "adapter_config.json").read_text())["r"] == 16
    merged = load_local(base)
    adapter.merge(merged.model, result)
    plain = dict(load_local(base).model.named_parameters())
    changed = {n for n, p in merged.model.named_parameters() if not torch.equal(p, plain[n])}
    assert changed == {n for n in plain if n.endswith(
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
         "self_attn.o_proj.weight")) and "language_model" in n}  # fmt: skip


def test_an_adapter_of_another_base_is_refused(data, tmp_path):
    base = write_owl3(tmp_path / "base")
    plan = replace(PLAN, steps=1, asked=0)
    result = run_stage(recipe("lora"), 1, str(base), data, tmp_path / "out", plan)
    around = Surroundings(lambda: None, Pictures(data), tmp_path / "features", 0, 8)
    file = result / "adapter_config.json"
    config = json.loads(file.read_text())
    other = model_of("llama", tmp_path / "other")
    file.write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    with pytest.raises(InvalidCheckpoint, match=r"does not fit its base model, .*other") as caught:
        load_answerer(str(result), around)
    assert "adapter_model.safetensors" in str(caught.value)
    file.write_text(json.dumps(config | {"base_model_name_or_path": ""}))
    with pytest.raises(InvalidCheckpoint, match="does not name its base model"):
        load_answerer(str(result), around)
    file.write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ModelNotFound, match="gone"):
        load_answerer(str(result), around)


def test_frozen_eyes_look_once_and_the_loss_is_the_same(data, tmp_path):
    base = write_owl3(tmp_path / "base")
    losses, looked = [], []
    for kept in (None, tmp_path / "kept", tmp_path / "kept"):
        local = load_local(base)
        choose(local.model, recipe("owl3").stage(1))
        learner = Learner(local, Pictures(data), kept)
        rows = [row_of(local, example, 2000) for example in read_examples(data)]
        losses.append([float(learner(rows[:4])["loss"].detach()) for _ in range(2)])
        looked.append(learner.looked)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    assert looked == [8, 4, 0]


@pytest.mark.parametrize(
    ("name", "family"), [("owl3", "owl3"), ("owl1", "owl1"), ("ovis", "gemma")]
)
def test_checkpointing_changes_no_gradient_and_keeps_less(name, family, data, tmp_path):
    """Bytes that are saved for the way back, and what is learnt, with it and without."""
    local = load_local(model_of(family, tmp_path / "base"))
    choose(local.model, recipe(name).stages[-1 if name == "owl3" else 0])
    learner = Learner(local, Pictures(data))
    rows = [row_of(local, example, 2000) for example in read_examples(data)][:3]
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            learner.activation_checkpointing_enable()
        learner.train()
        learner.zero_grad()
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = learner(rows)["loss"]
        loss.backward()
        gradients = {n: p.grad for n, p in learner.named_parameters() if p.grad is not None}
        found.append((sum(kept), loss.detach(), gradients))
    (much, loss, first), (little, same, second) = found
    assert little < 0.7 * much
    assert torch.allclose(loss, same)
    assert first.keys() == second.keys()
    for parameter, gradient in first.items():
        assert torch.allclose(gradient, second[parameter], atol=1e-6), parameter


def test_drawn_visual_tokens_grow_colder(data, tmp_path):
    """Ovis' gumbel_argmax: one token of the table drawn while learning, the likeliest otherwise."""
    base = model_of("gemma", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["visual_tokenizer_config"]["tokenize_function"] = "gumbel_argmax"
    (base / "config.json").write_text(json.dumps(config))
    local = load_local(base)
    seen = []
    set_temperature = type(local.model).__setattr__

    def note(self, name, value):
        if name == "temperature":
            seen.append(value)
        set_temperature(self, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(local.model), "__setattr__", note)
        result = run_stage(recipe("ovis"), 1, str(base), data, tmp_path / "out", PLAN)
    assert json.loads((result / "card.json").read_text())["steps"] == PLAN.steps
    assert seen[0] == 1.0  # as it was loaded
    falling = seen[1 : 1 + PLAN.steps]
    assert falling == pytest.approx([5 - 4.95 * step / 6 for step in range(6)])
    choose(local.model, recipe("ovis").stage(1))
    pixels = torch.randn(1, 3, local.model.image_size, local.model.image_size)
    with torch.no_grad():
        assert torch.equal(local.model.encode(pixels), local.model.train().encode(pixels))
    torch.manual_seed(0)
    local.model.temperature = 5.0
    drawn = [local.model.encode(pixels) for _ in range(2)]
    assert not torch.allclose(*drawn)


def test_answers_are_measured_while_it_learns(data, tmp_path):
    """The figures of `rag-owl eval` at the evaluations and in the card."""
    base = write_owl3(tmp_path / "base")
    plan = replace(PLAN, evaluate_every=3, asked=2, held_back=0.5)
    result = run_stage(recipe("owl3"), 2, str(base), data, tmp_path / "out", plan)
    card = json.loads((result / "card.json").read_text())
    assert card["held_back_asked"] == 2
    assert card["figures"].keys() >= {"f1", "exact_match", "right_item"}
    lines = [json.loads(line) for line in (result.parent / "log.jsonl").open()]
    assert [line["step"] for line in lines if "eval_f1" in line] == [3, 6, 6]
    # The same code judges a model that says what it should.
    examples = drawn([e for e in read_examples(data) if e.gold], 3)
    assert figures(Right(examples), examples)["f1"] == 1
    assert figures(Right(examples), examples)["right_item"] == 1
    assert figures(Right(examples[1:] + examples[:1]), examples)["f1"] < 1


class Right:
    """Says the answers of these examples, one after the other."""

    name = "right"
    watches_video = False

    def __init__(self, examples):
        self._left = list(examples)

    def answer(self, context, on_text=None):
        example = self._left.pop(0)
        (gold,) = example.gold
        said = example.short
        return Draft(f"{said} [{gold + 1}]", (Attribution(0, len(said), gold),), short=said)


def test_a_run_goes_on_as_it_began_or_not_at_all(data, tmp_path):
    base = write_owl3(tmp_path / "base")
    run_stage(recipe("owl3"), 1, str(base), data, tmp_path / "out", PLAN)
    other = tmp_path / "other"
    shutil.copytree(data, other)
    lines = (other / "examples.jsonl").read_text().splitlines()
    (other / "examples.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(InvalidInput, match="other examples"):
        run_stage(recipe("owl3"), 1, str(base), other, tmp_path / "out", PLAN)
    with pytest.raises(InvalidInput, match="other rate"):
        run_stage(recipe("owl3"), 1, str(base), data, tmp_path / "out", replace(PLAN, rate=1e-4))


def test_trained_models_have_names_of_their_own(data, tmp_path):
    base = write_owl3(tmp_path / "base")
    names = []
    for seed in (0, 1):
        plan = replace(PLAN, seed=seed, steps=1, asked=0)
        result = run_stage(recipe("lora"), 1, str(base), data, tmp_path / f"out{seed}", plan)
        around = Surroundings(lambda: None, Pictures(data), tmp_path / "features", 0, 8)
        model = load_answerer(str(result), around)
        names.append(model.name)
        model.close()
        assert model.name.startswith("base+lora-adapt-")
    assert names[0] != names[1]
    (result / "card.json").write_text('{"name": 7}')
    assert called(str(result)) == "adapter"


def test_examples_that_cannot_be(data, tmp_path):
    with pytest.raises(InvalidInput, match="make-data"):
        read_examples(tmp_path)
    (tmp_path / "examples.jsonl").write_text(
        '{"question": "?", "items": [], "answer": "", "gold": [3]}'
    )
    with pytest.raises(InvalidInput, match=r"examples\.jsonl:1"):
        read_examples(tmp_path)
    (tmp_path / "examples.jsonl").write_text(
        '{"question": "?", "items": [], "answer": "", "images": ["../x"]}'
    )
    with pytest.raises(InvalidInput, match="sha256"):
        read_examples(tmp_path)
    base = write_owl3(tmp_path / "base")
    with pytest.raises(InvalidInput, match="family owl3"):
        run_stage(recipe("owl1"), 1, str(base), data, tmp_path / "out", PLAN)
    with pytest.raises(InvalidInput, match="stages 1 to 2"):
        recipe("owl3").stage(3)
    with pytest.raises(InvalidInput, match="no recipe 'x'"):
        recipe("x")
    local = load_local(base)
    with pytest.raises(InvalidInput, match="does not fit"):
        row_of(local, read_examples(data)[0], 20)


def test_parts_are_the_same_every_time(data):
    examples = read_examples(data)
    assert split(examples, 0.25) == split(examples[::-1][::-1], 0.25)
    learnt, held = split(examples, 0.25)
    assert len(learnt) + len(held) == len(examples)
    assert set(RECIPES) == {"owl1", "ovis", "owl3", "lora"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "shard"),
    [("owl3", 1, False), ("owl3", 2, True), ("lora", 1, True)],
    ids=["owl3", "owl3 sharded", "lora sharded"],
)
def test_two_processes_learn_together(
    data: Path, tmp_path: Path, name: str, number: int, shard: bool
) -> None:
    """Over gloo: every step sees both processes' batches, and one of them writes."""
    base = write_owl3(tmp_path / "base")
    one = tmp_path / "one"  # its rows: half have a picture, so that batches differ in what they use
    shutil.copytree(data, one)
    lines = [json.loads(line) for line in (one / "examples.jsonl").read_text().splitlines()]
    for line in lines[::2]:
        line["images"] = []
        for item in line["items"]:
            item["picture"] = None
    (one / "examples.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "-m", "rag_owl.api.cli", "train", "run", name, "--stage", str(number),
        "--examples", str(one), "--out", str(tmp_path / "out"), "--model", str(base),
        "--steps", "4", "--batch", "1", "--held-back", "0.25", "--save-every", "2",
        *(["--shard"] if shard else []),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, timeout=550)
    (result,) = (card.parent for card in (tmp_path / "out").glob("*/*/card.json"))
    assert json.loads((result / "card.json").read_text())["steps"] == 4
    alone = run_stage(
        recipe(name), number, str(base), one, tmp_path / "alone",
        Plan(steps=4, batch=2, save_every=2, held_back=0.25, asked=0 if shard else 32),
    )  # fmt: skip
    assert len((result.parent / "log.jsonl").read_text().splitlines()) == len(
        (alone.parent / "log.jsonl").read_text().splitlines()
    )
    same(result, alone, 2e-3)
    if shard:  # stopped after half of the steps, it ends as it did
        first = result.rename(tmp_path / "first")
        shutil.rmtree(result.parent / "checkpoint-4")
        subprocess.run(command, check=True, env=environment, timeout=550)
        same(result, first, 1e-6)


def same(one: Path, other: Path, tolerance: float) -> None:
    """Two results of training: every tensor within the tolerance."""
    ours, theirs = (
        {
            f"{file.name} {name}": tensor
            for file in sorted(folder.glob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        for folder in (one, other)
    )
    assert ours.keys() == theirs.keys()
    assert ours
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=tolerance), name
