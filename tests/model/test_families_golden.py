"""mPLUG-Owl and Ovis 1.6: agreement with the published code, tensor by tensor."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rag_owl.errors import InvalidCheckpoint, InvalidInput, InvalidSettings
from rag_owl.model.check import check_folder, family_of
from rag_owl.model.ovis import Ovis
from rag_owl.model.owl1 import Owl1
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.spliced.attention import Watcher
from rag_owl.model.spliced.generate import generate, stream

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
COMMITTED = Path(__file__).parents[1] / "golden"
NAMED = os.environ.get("RAG_OWL_GOLDEN")
FAMILIES = ("owl1", "ovis16")
OWL1 = COMMITTED / "owl1" / "c1_one_image"
GEMMA = COMMITTED / "ovis16" / "c4_gemma2_batch_right_padded"
LLAMA = COMMITTED / "ovis16" / "c3_llama_two_images"


def cases() -> list[Path]:
    folders: dict[str, Path] = {}
    for family in FAMILIES:
        for root in (COMMITTED, Path(NAMED)) if NAMED else (COMMITTED,):
            for found in sorted((root / family).glob("c*/expected.safetensors")):
                folders[f"{family}/{found.parent.name}"] = found.parent
    return [folders[name] for name in sorted(folders)]


@pytest.mark.skipif(not NAMED, reason="RAG_OWL_GOLDEN does not name the folder of all cases")
def test_all_named_cases_are_found():
    assert len(cases()) >= 11


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.parent.name}-{case.name}")
def test_case(case: Path):
    report = check_folder(case)
    assert report.variant == case.parent.name == family_of(case)
    assert report.tolerance == {"owl1": 5e-5, "ovis16": 1e-3}[report.variant]
    assert report.ok, "\n".join(report.lines())
    names = {comparison.name for comparison in report.comparisons}
    if "quirk" in case.name:
        pytest.skip(f"bettered: {report.notes[0]}")
    assert "logits" in names
    if "training" in case.name:
        assert "loss" in names
        assert sum(name.startswith("grad.") for name in names) == 6
    else:
        assert any(name.startswith("greedy") for name in names)


@pytest.mark.parametrize("stated", [None, "bfloat16"])
@pytest.mark.parametrize("case", [OWL1, GEMMA], ids=lambda case: case.name)
def test_nothing_is_widened_where_nothing_is_compared(case: Path, stated, tmp_path: Path):
    weights = load_file(case / "weights.safetensors")
    halves = {name: w.bfloat16() if w.is_floating_point() else w for name, w in weights.items()}
    save_file(halves, tmp_path / "weights.safetensors")
    config = json.loads((case / "config.json").read_text()) | {"torch_dtype": stated}
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = check_folder(tmp_path)
    assert report.dtype == "bfloat16"
    assert "loads in bfloat16; no inputs" in report.lines()[1]
    for name in ("inputs", "expected"):
        shutil.copy(case / f"{name}.safetensors", tmp_path)
    assert check_folder(tmp_path).dtype == "float32"


@pytest.mark.parametrize("case", [OWL1, GEMMA, LLAMA], ids=lambda case: case.name)
def test_a_changed_weight_is_noticed(case: Path, tmp_path: Path):
    for file in case.iterdir():
        shutil.copy(file, tmp_path / file.name)
    weights = load_file(case / "weights.safetensors")
    name = "abstractor.visual_fc.bias" if case == OWL1 else "vte.weight"
    weights[name] = weights[name] + 0.05
    save_file(weights, tmp_path / "weights.safetensors")
    report = check_folder(tmp_path)
    assert not report.ok
    wrong = {comparison.name for comparison in report.comparisons if not comparison.ok}
    assert "logits" in wrong


def test_a_family_is_told_from_the_tensors(tmp_path: Path):
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InvalidCheckpoint, match="model_type 'bert', and its 1 tensors begin"):
        family_of(tmp_path)
    # Shards are told apart by their index alone.
    tensors = load_file(OWL1 / "weights.safetensors")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    save_file(tensors, sharded / "one.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "one.safetensors")}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(OWL1 / "config.json", sharded)
    assert family_of(sharded) == "owl1"
    assert isinstance(Owl1.from_pretrained(sharded), Owl1)


@pytest.mark.parametrize(("kind", "case"), [(Owl1, OWL1), (Ovis, GEMMA)])
def test_what_does_not_fit_is_listed(kind, case: Path, tmp_path: Path):
    weights = load_file(case / "weights.safetensors")
    gone = next(name for name in sorted(weights) if name.endswith("o_proj.weight"))
    del weights[gone]
    weights["surprise.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "weights.safetensors")
    shutil.copy(case / "config.json", tmp_path)
    with pytest.raises(InvalidCheckpoint) as caught:
        kind.from_pretrained(tmp_path)
    assert "1 missing" in str(caught.value)
    assert "1 unexpected: surprise.weight" in str(caught.value)
    other = Ovis if kind is Owl1 else Owl1
    with pytest.raises(InvalidCheckpoint):
        other.from_pretrained(case)
    with pytest.raises(InvalidSettings):
        kind.from_pretrained(case, dtype="int7")


def test_configs_that_cannot_be(tmp_path: Path):
    """What is wrong is said with the file, whoever notices it."""
    for kind, case, says, changes in (
        (Ovis, GEMMA, "'mamba'", {"llm_config": {"model_type": "mamba"}}),
        (Ovis, GEMMA, "'dice'", {"visual_tokenizer_config": {"tokenize_function": "dice"}}),
        (Ovis, GEMMA, "no Ovis 1.6", {"visual_tokenizer_config": {"vocab_size": "many"}}),
        (Ovis, GEMMA, "no Ovis 1.6", {"llm_config": {"hidden_size": None}}),
        (Ovis, GEMMA, "no Ovis 1.6", {"hidden_size": None}),
        (
            Ovis,
            GEMMA,
            "max_position_embeddings -3",
            {"llm_config": {"max_position_embeddings": -3}},
        ),
        (Ovis, LLAMA, "multimodal_max_length 0 in", {"multimodal_max_length": 0}),
        (Ovis, LLAMA, "no Ovis 1.6", {"multimodal_max_length": "long"}),
        (Ovis, LLAMA, "no Ovis 1.6", {"llm_config": {"rope_scaling": {"rope_type": []}}}),
        (Owl1, OWL1, "no mPLUG-Owl", {"vision_config": {"num_attention_heads": 7}}),
        (Owl1, OWL1, "no mPLUG-Owl", {"text_config": "LLaMA"}),
        (Owl1, OWL1, "no mPLUG-Owl", {"visual_abstractor_config": {"layer_norm_eps": [1]}}),
    ):
        folder = tmp_path / f"{case.name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        shutil.copy(case / "weights.safetensors", folder)
        config = json.loads((case / "config.json").read_text())
        for key, change in changes.items():
            config[key] = config[key] | change if isinstance(change, dict) else change
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InvalidCheckpoint, match=says) as caught:
            kind.from_pretrained(folder)
        assert str(folder) in str(caught.value)
        assert "config.json" in str(caught.value)


def row_of(case: Path, model) -> tuple[torch.Tensor, VisualMemory]:
    """A case's row that has pictures, without padding, and its pictures."""
    inputs = load_file(case / "inputs.safetensors")
    ids = inputs["input_ids"][0]
    if "attention_mask" in inputs:
        ids = ids[inputs["attention_mask"][0].bool()]
    return ids, model.remember(inputs["pixel_values"][: model.pictures_in(ids)])


@pytest.mark.parametrize(
    ("kind", "case"), [(Owl1, OWL1), (Ovis, GEMMA), (Ovis, LLAMA)], ids=["owl1", "gemma", "llama"]
)
@torch.no_grad()
def test_stored_pictures_answer_the_same(kind, case: Path, tmp_path: Path):
    model = kind.from_pretrained(case)
    ids, memory = row_of(case, model)
    file = memory.save(tmp_path / "memory.safetensors", "float32")
    back = VisualMemory.load(file, model.memory_identity)
    assert torch.equal(model(ids[None], memory), model(ids[None], back))
    again = kind.from_pretrained(case, dtype="bfloat16")
    assert again.memory_identity == model.memory_identity
    small = memory.to_storage("int8")
    exact = model(ids[None], memory)
    difference = (model(ids[None], small) - exact).abs().max() / exact.abs().max()
    assert 0 < difference < 0.03
    other = (Owl1 if kind is Ovis else Ovis).from_pretrained(GEMMA if kind is Owl1 else OWL1)
    with pytest.raises(InvalidInput, match="another model"):
        other(ids[None].clamp(min=1), memory)


@pytest.mark.parametrize(
    ("kind", "case"), [(Owl1, OWL1), (Ovis, GEMMA), (Ovis, LLAMA)], ids=["owl1", "gemma", "llama"]
)
@torch.no_grad()
def test_the_watcher_sees_the_attention_and_changes_nothing(kind, case: Path):
    model = kind.from_pretrained(case)
    ids, memory = row_of(case, model)
    watcher = Watcher()
    watched = list(stream(model, ids, memory, Sampling(max_new_tokens=5), watcher))
    assert watched == generate(model, ids, memory, Sampling(max_new_tokens=5))
    positions = model.embed(ids[None], memory)[0].shape[1]
    assert [len(mass) for mass in watcher.tokens] == [positions + i for i in range(5)]
    for mass in watcher.tokens:
        assert float(mass.float().sum()) == pytest.approx(1, abs=2e-2)
    # Against transformers' own attention, written out.
    model.language_model.config._attn_implementation = "eager"
    embeds, _ = model.embed(ids[None], memory)
    out = model.language_model(inputs_embeds=embeds, output_attentions=True)
    theirs = torch.stack([layer[0, :, -1].mean(dim=0) for layer in out.attentions]).mean(dim=0)
    assert torch.allclose(theirs, watcher.tokens[0].float(), atol=1e-3)


@torch.no_grad()
def test_prompts_longer_than_a_sliding_window(tmp_path: Path):
    """Gemma 2's other layers keep the last 4,096 positions alone."""
    shutil.copy(GEMMA / "weights.safetensors", tmp_path)
    config = json.loads((GEMMA / "config.json").read_text())
    config["llm_config"]["sliding_window"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = Ovis.from_pretrained(tmp_path)
    ids, watcher = torch.arange(5, 60), Watcher()
    ours = list(stream(model, ids, None, Sampling(max_new_tokens=8), watcher))
    assert [len(mass) for mass in watcher.tokens] == [55 + i for i in range(8)]
    # Against transformers' own attention, written out, without a cache.
    model.language_model.config._attn_implementation = "eager"
    for count, mass in enumerate(watcher.tokens):
        embeds, _ = model.embed(
            torch.cat([ids, torch.tensor(ours[:count], dtype=torch.long)])[None]
        )
        out = model.language_model(inputs_embeds=embeds, output_attentions=True, use_cache=False)
        assert int(out.logits[0, -1].argmax()) == ours[count]
        theirs = torch.stack([layer[0, :, -1].mean(dim=0) for layer in out.attentions]).mean(dim=0)
        assert torch.allclose(theirs, mass.float(), atol=1e-3)


def test_prompts_that_do_not_fit():
    model = Owl1.from_pretrained(OWL1)
    ids, memory = row_of(OWL1, model)
    for wrong, kept in ((ids[ids >= 0], memory), (ids, None), (ids[:-1].clamp(max=-1), memory)):
        with pytest.raises(InvalidInput, match="places for pictures"):
            model(wrong[None], kept)
    with pytest.raises(InvalidInput, match="positions"):
        model(torch.ones(1, 600, dtype=torch.long))
    with pytest.raises(InvalidInput, match="pixel_values"):
        model.remember(torch.zeros(1, 3, 9, 9))
    ovis = Ovis.from_pretrained(GEMMA)
    with pytest.raises(InvalidInput, match="places for tiles"):
        ovis(torch.tensor([[2, -300, 5]]))
    with pytest.raises(InvalidInput, match="places for tiles"):
        ovis(torch.tensor([[2, -999, 5]]))


@pytest.mark.parametrize(
    ("positions", "whole", "expected"),
    [(131_072, 8_192, 8_192), (4_096, 8_192, 4_096), (4_096, None, 4_096)],
)
def test_ovis_has_room_for_what_the_whole_was_trained_to(
    tmp_path: Path, positions, whole, expected
):
    shutil.copy(LLAMA / "weights.safetensors", tmp_path)
    config = json.loads((LLAMA / "config.json").read_text())
    config["llm_config"]["max_position_embeddings"] = positions
    config["multimodal_max_length"] = whole
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = Ovis.from_pretrained(tmp_path)
    assert model.max_positions == expected
    with pytest.raises(InvalidInput, match=f"this model has {expected}"):
        model(torch.ones(1, expected + 1, dtype=torch.long))


@torch.no_grad()
def test_pictures_side_by_side_are_both_seen():
    model = Owl1.from_pretrained(OWL1)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    memory = model.remember(pixels)
    ids = torch.tensor([[1, *[-1] * 10, 5, 6]])
    both = model(ids, memory)
    assert model.runs_together(ids)
    assert not torch.allclose(both, model(ids, memory[[1, 0]]), atol=1e-3)
    assert not torch.allclose(both, model(ids, memory[[0, 0]]), atol=1e-3)
