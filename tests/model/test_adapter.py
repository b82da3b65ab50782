"""LoRA adapters as folders: what they add to a base, and what is refused; trained weights written
back under their checkpoint's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model import adapter, registry
from rag_owl.model.ovis import Ovis
from rag_owl.model.train import adapters
from rag_owl.model.train.learner import load_local
from tests.model.families import write_model

torch.set_num_threads(1)
LAYER = "language_model.model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none", "use_dora": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "tiny", "gemma")


def write(folder: Path, base: str | Path, tensors: dict[str, torch.Tensor], **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    config = CONFIG | {"base_model_name_or_path": str(base)} | more
    (folder / adapter.CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / adapter.WEIGHTS)
    return folder


def halves(model: Ovis) -> dict[str, torch.Tensor]:
    high, wide = model.get_parameter(f"{LAYER}.weight").shape
    random = torch.Generator().manual_seed(0)
    return {
        f"{LAYER}.lora_A.default.weight": torch.randn(2, wide, generator=random),
        f"{LAYER}.lora_B.default.weight": torch.randn(high, 2, generator=random),
    }


def test_what_an_adapter_adds(base: Path, tmp_path: Path):
    model, plain = Ovis.from_pretrained(base), Ovis.from_pretrained(base)
    down, up = halves(model).values()
    adapter.merge(model, write(tmp_path / "one", base, halves(model)))
    for name, weight in plain.named_parameters():
        more = 4 * up @ down if name == f"{LAYER}.weight" else 0
        assert torch.allclose(model.get_parameter(name), weight + more, atol=1e-5)


def test_what_is_no_adapter_of_this_base(base: Path, tmp_path: Path):
    model, plain = Ovis.from_pretrained(base), Ovis.from_pretrained(base)
    good = halves(model)
    (a, down), (b, up) = good.items()
    other = {name.replace("self_attn", "cross_attn"): h.clone() for name, h in good.items()}
    for says, tensors in (
        ("has no such tensor", good | other),
        (r"the base has one of \(64, 48\)", {a: down[:, :5].contiguous(), b: up}),
        ("lacks its other half", {a: down}),
        ("no half of a LoRA difference", good | {"lm_head.weight": up.clone()}),
        ("no half of a LoRA difference", {b: up}),
        ("holds no LoRA difference", {}),
    ):
        folder = write(tmp_path / "one", base, tensors)
        with pytest.raises(InvalidCheckpoint, match=says) as caught:
            adapter.merge(model, folder)
        assert str(folder / adapter.WEIGHTS) in str(caught.value)
    for more in ({"use_rslora": True}, {"peft_type": "LOHA"}, {"rank_pattern": {"q_proj": 4}}):
        with pytest.raises(InvalidCheckpoint, match=f"only plain LoRA.*{next(iter(more))}"):
            adapter.merge(model, write(tmp_path / "one", base, good, **more))
    (folder / adapter.WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(InvalidCheckpoint, match="no LoRA adapter"):
        adapter.merge(model, write_config(folder, base))
    for name, weight in plain.named_parameters():  # refused before anything was added
        assert torch.equal(model.get_parameter(name), weight)


def test_nothing_is_added_to_packed_weights(tmp_path: Path):
    packed = torch.nn.Linear(1, 1, bias=False)  # as 4 bits lie in memory: uint8, of another shape
    packed.weight = torch.nn.Parameter(torch.zeros(24, 1, dtype=torch.uint8), requires_grad=False)
    model = torch.nn.ModuleDict({"q": packed})
    tensors = {"q.lora_A.weight": torch.ones(2, 8), "q.lora_B.weight": torch.ones(6, 2)}
    with pytest.raises(InvalidCheckpoint, match="in 8 or 4 bits"):
        adapter.merge(model, write(tmp_path / "one", "base", tensors))


def test_an_adapters_state_is_its_bases_too(tmp_path: Path):
    base, folder = tmp_path / "base", tmp_path / "one"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"1")
    before = registry.files_of(str(write(folder, base, {})))
    assert registry.files_of(str(folder)) == before
    (base / "model.safetensors").write_bytes(b"22")
    assert registry.files_of(str(folder)) != before


def write_config(folder: Path, base: Path) -> Path:
    config = CONFIG | {"base_model_name_or_path": str(base)}
    (folder / adapter.CONFIG).write_text(json.dumps(config))
    return folder


def test_adapters_that_rest_on_themselves(base: Path, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, two, {})
    write(two, base, {})
    assert adapter.base_of(one) == str(two)
    write(two, one, {})
    for folder in (one, two):
        with pytest.raises(InvalidCheckpoint, match="rests on it again"):
            adapter.base_of(folder)
    assert adapter.base_of(base) is None


@pytest.mark.parametrize("kind", ["owl1", "gemma"])
def test_every_trained_weight_is_written(kind: str, tmp_path: Path):
    """Also where the checkpoint holds in one tensor what the model has in three."""
    base = write_model(tmp_path / "base", kind)
    local = load_local(base)
    with torch.no_grad():
        for weight in local.model.parameters():
            weight.add_(torch.randn(weight.shape) * 0.1)
    (tmp_path / "out").mkdir()
    adapters._write_model(local, base, tmp_path / "out")
    again = load_local(tmp_path / "out")
    for name, weight in local.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), weight), name
