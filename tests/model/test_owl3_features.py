"""Visual features on the disk: found again, bounded, never another model's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rag_owl.errors import DataFolderError, InvalidInput
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.memory import MemoryIdentity
from rag_owl.model.owl3.sizes import random_model

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
MODEL = random_model("tiny", seed=1)
LARGE = 10**9


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def one_picture(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, 70, 70, generator=torch.Generator().manual_seed(seed))


def pixels(places: list[int]) -> torch.Tensor:
    return torch.cat([one_picture(place) for place in places])


def test_a_picture_is_encoded_once(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    before = MODEL.pictures_seen
    first = store.remember(MODEL, ["aa11"], pixels)

    def never(places: list[int]) -> torch.Tensor:
        raise AssertionError("the features are stored")

    again = FeatureStore(tmp_path, LARGE).remember(MODEL, ["aa11"], never)
    assert MODEL.pictures_seen == before + 1
    assert torch.equal(first.features, again.features)
    assert first.ids == again.ids  # so that the cache of keys and values knows it again


def test_deleted_features_come_back_the_same(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE, "int8")
    first = store.remember(MODEL, ["aa11"], pixels)
    assert store.delete("aa11") == 1
    assert len(store) == 0
    again = store.remember(MODEL, ["aa11"], pixels)
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.scales, again.scales)


def test_models_and_preprocessings_do_not_mix(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    store.remember(MODEL, ["aa11"], pixels)
    other = random_model("tiny", seed=2)
    assert store.get(other.memory_identity, "aa11") is None
    elsewhere = MemoryIdentity(MODEL.memory_identity.model, "letterbox")
    assert store.get(elsewhere, "aa11") is None
    store.remember(other, ["aa11"], pixels)
    assert len(store) == 2
    assert store.delete("aa11") == 2
    with pytest.raises(InvalidInput):
        store.put(other.memory_identity, "aa11", MODEL.remember(one_picture()))
    # A file in another model's place is not believed either.
    store.remember(MODEL, ["bb22"], pixels)
    right, wrong = (store._path(m.memory_identity, "bb22") for m in (MODEL, other))
    wrong.parent.mkdir(parents=True, exist_ok=True)
    os.replace(right, wrong)
    assert store.get(other.memory_identity, "bb22") is None


def test_the_budget_holds_and_the_oldest_go(tmp_path: Path):
    probe = FeatureStore(tmp_path / "probe", LARGE)
    probe.remember(MODEL, ["x1"], pixels)
    size = probe.nbytes
    store = FeatureStore(tmp_path / "store", int(3.5 * size))
    for i in range(3):
        store.remember(MODEL, [f"p{i}"], lambda _, i=i: one_picture(i))
        path = store._path(MODEL.memory_identity, f"p{i}")
        os.utime(path, (1000 + i, 1000 + i))
    assert store.get(MODEL.memory_identity, "p0") is not None  # used just now
    store.remember(MODEL, ["p3"], lambda _: one_picture(3))
    there = [store.get(MODEL.memory_identity, f"p{i}") is not None for i in range(4)]
    assert there == [True, False, True, True]
    assert store.nbytes <= store.max_bytes
    nothing = FeatureStore(tmp_path / "nothing", 10)
    assert nothing.remember(MODEL, ["p0"], pixels).features.shape == (1, 25, 64)
    assert len(nothing) == 0


def test_damaged_files_count_as_not_there(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    first = store.remember(MODEL, ["aa11"], pixels)
    path = store._path(MODEL.memory_identity, "aa11")
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(store.remember(MODEL, ["aa11"], pixels).features, first.features)
    assert store.get(MODEL.memory_identity, "aa11") is not None


def test_keys_are_names_and_the_folder_must_be_one(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    for key in ("../secret", "", "a/b", ".hidden"):
        with pytest.raises(InvalidInput, match="no key"):
            store.get(MODEL.memory_identity, key)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError):
        FeatureStore(tmp_path / "file", LARGE)


def test_only_what_is_missing_is_encoded_and_the_order_stays(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE, "float32")
    keys = [f"k{i}" for i in range(20)]
    store.remember(MODEL, keys[3:5], lambda places: pixels([3 + place for place in places]))
    asked: list[list[int]] = []

    def watched(places: list[int]) -> torch.Tensor:
        asked.append(places)
        return pixels(places)

    memory = store.remember(MODEL, keys, watched)
    assert memory.ids == tuple(keys)
    encoded = {place for places in asked for place in places}
    assert encoded == set(range(20)) - {3, 4}
    assert max(map(len, asked)) == 16
    whole = MODEL.remember(pixels(list(range(20))))
    assert torch.allclose(memory.features, whole.features, atol=1e-5)
