"""The visual memory: stored, checked, cached, exact."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rag_owl.errors import CorruptData, InvalidInput
from rag_owl.model.owl3 import VisualMemory
from rag_owl.model.owl3.sizes import random_model

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
PROMPT = torch.arange(40, 64)[None]
STARTS = [[3, 11]]


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 70, 70, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def model():
    return random_model("tiny", seed=1)


def test_stored_features_give_the_same_logits(model, tmp_path: Path):
    memory = model.remember(pixels(2))
    memory.save(tmp_path / "m.safetensors", "float32")
    loaded = VisualMemory.load(tmp_path / "m.safetensors", model.memory_identity)
    assert torch.equal(loaded.features, memory.features)
    assert loaded.ids == memory.ids
    logits = model(PROMPT, memory, STARTS)
    model.picture_cache.clear()
    assert torch.equal(model(PROMPT, loaded, STARTS), logits)


# Largest and mean error of the logits as a share of their range, as documented in docs/owl3.md.
@pytest.mark.parametrize(
    ("storage", "largest", "mean", "bytes_per_number"),
    [("bfloat16", 0.01, 0.001, 2.0), ("int8", 0.04, 0.004, 1.1)],
)
def test_rounded_features(model, tmp_path, storage, largest, mean, bytes_per_number):
    memory = model.remember(pixels(2))
    memory.save(tmp_path / "m.safetensors", storage)
    loaded = VisualMemory.load(tmp_path / "m.safetensors")
    assert loaded.nbytes <= bytes_per_number * memory.features.numel()
    exact = model(PROMPT, memory, STARTS)
    error = (model(PROMPT, loaded, STARTS) - exact).abs() / exact.abs().max()
    assert 0 < error.max() < largest
    assert error.mean() < mean


@pytest.mark.skipif(sys.platform != "linux", reason="reads this process's size as Linux tells it")
def test_loading_maps_the_file(model, tmp_path: Path):
    features = torch.zeros(8000, 25, 64)  # 51 MB
    memory = VisualMemory(features, model.memory_identity, tuple(map(str, range(8000))))
    file = memory.save(tmp_path / "m.safetensors", "float32")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    loaded = VisualMemory.load(file)
    assert resident() - before < 15_000_000
    loaded.features.sum()  # now it has been read
    assert resident() - before > 45_000_000


def test_the_vision_tower_runs_once_per_picture(model):
    memory = model.remember(pixels(3))
    model.generate(PROMPT, memory[:2], STARTS, max_new_tokens=5)
    model.generate(PROMPT, memory[1:], STARTS, max_new_tokens=5)
    assert model.pictures_seen == 3


def test_hot_pictures_are_projected_once(model):
    memory = model.remember(pixels(2))
    model(PROMPT, memory, STARTS)
    assert (model.picture_cache.hits, model.picture_cache.misses) == (0, 2)
    moved = model(PROMPT, memory, [[5, 17]])  # other places: the same keys, rotated anew
    assert model.picture_cache.hits == 2
    model.picture_cache.clear()
    assert torch.equal(model(PROMPT, memory, [[5, 17]]), moved)
    # One picture hot, one new.
    fresh = VisualMemory.cat([memory[1:], model.remember(pixels(1, seed=7))])
    part = model(PROMPT, fresh, STARTS)
    model.picture_cache.clear()
    assert torch.allclose(model(PROMPT, fresh, STARTS), part, atol=1e-5)


def test_the_cache_is_bounded_and_drops_the_oldest(model):
    one = model.remember(pixels(1))
    model(PROMPT, one, [[3]])
    size = model.picture_cache.nbytes
    assert size > 0
    model.picture_cache.max_bytes = 3 * size
    for i in range(6):
        model(PROMPT, model.remember(pixels(1, seed=2), ids=[f"p{i}"]), [[3]])
    assert len(model.picture_cache) == 3
    many = model.remember(pixels(6, seed=2), ids=[f"p{i}" for i in range(6)])
    starts = [[1, 3, 5, 7, 9, 11]]
    hits = model.picture_cache.hits
    logits = model(PROMPT, many, starts)  # larger than the cache: the hot ones stay
    assert model.picture_cache.hits == hits + 3
    assert model.picture_cache.nbytes == 3 * size
    assert torch.allclose(model(PROMPT, many, starts), logits, atol=1e-5)
    model.picture_cache.max_bytes = 0
    model.picture_cache.clear()
    model(PROMPT, many, starts)
    assert len(model.picture_cache) == 0


def test_the_cache_notices_changed_weights(model):
    memory = model.remember(pixels(2))
    before = model(PROMPT, memory, STARTS)
    layer = model.language_model.model.layers[model.config.hyper_indices[0]]
    layer.self_attn.v_kv_proj.weight.mul_(2)
    after = model(PROMPT, memory, STARTS)
    assert not torch.allclose(before, after, atol=1e-3)
    model.picture_cache.clear()
    assert torch.equal(model(PROMPT, memory, STARTS), after)


def test_features_of_another_model_are_refused(model, tmp_path: Path):
    file = random_model("tiny", seed=2).remember(pixels(2)).save(tmp_path / "m.safetensors")
    with pytest.raises(InvalidInput, match="another model"):
        VisualMemory.load(file, model.memory_identity)
    with pytest.raises(InvalidInput, match="another model"):
        model(PROMPT, VisualMemory.load(file), STARTS)


def test_features_of_other_preprocessing_are_refused(model, tmp_path: Path):
    memory = model.remember(pixels(2), preprocessing="letterbox-70")
    memory.save(tmp_path / "m.safetensors")
    with pytest.raises(InvalidInput, match="another preprocessing"):
        VisualMemory.load(tmp_path / "m.safetensors", model.memory_identity)
    with pytest.raises(InvalidInput, match="another preprocessing"):
        model(PROMPT, memory, STARTS)


def test_trained_vision_refuses_old_features(model):
    memory = model.remember(pixels(2))
    model.vision2text_model.weight.add_(0.1)
    with pytest.raises(InvalidInput, match="another model"):
        model(PROMPT, memory, STARTS)


def test_the_same_checkpoint_in_another_dtype_is_the_same_model(tmp_path: Path):
    model = random_model("tiny", seed=1).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    from rag_owl.model.owl3 import Owl3

    wide = Owl3.from_pretrained(tmp_path, dtype="float32")
    assert wide.memory_identity == model.memory_identity


def test_damaged_files(model, tmp_path: Path):
    file = model.remember(pixels(2)).save(tmp_path / "m.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptData, match=r"m\.safetensors"):
        VisualMemory.load(file)
    save_file({"features": torch.zeros(1, 2, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(CorruptData, match="no file of visual features"):
        VisualMemory.load(tmp_path / "other.safetensors")


def test_wrong_memories_are_refused(model):
    memory = model.remember(pixels(2))
    with pytest.raises(InvalidInput, match="N ids"):
        VisualMemory(memory.features, memory.identity, ("one",))
    with pytest.raises(InvalidInput, match="nothing to join"):
        VisualMemory.cat([])
    with pytest.raises(InvalidInput, match="different models"):
        VisualMemory.cat([memory, random_model("tiny", seed=5).remember(pixels(1))])
    with pytest.raises(InvalidInput, match="unknown storage"):
        memory.to_storage("int3")


def test_joined_memories(model):
    memory = model.remember(pixels(3))
    again = VisualMemory.cat([memory[:1], memory[1:]])
    assert torch.equal(again.features, memory.features)
    assert again.ids == memory.ids
    mixed = VisualMemory.cat([memory[:1].to_storage("int8"), memory[1:]])
    assert mixed.features.dtype == torch.float32
    small = VisualMemory.cat([memory[:1].to_storage("int8"), memory[1:].to_storage("int8")])
    assert small.features.dtype == torch.int8
