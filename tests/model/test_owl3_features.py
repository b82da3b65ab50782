"""Visual features on the disk: found again, bounded, never another model's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rag_owl.errors import DataFolderError, InvalidInput
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.memory import MemoryIdentity, VisualMemory
from rag_owl.model.owl3.model import Owl3
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


def keep(store: FeatureStore, key: str, seed: int = 0, model: Owl3 = MODEL) -> VisualMemory:
    return store.put_all(model.remember(one_picture(seed), ids=[key]), [key])


@pytest.mark.parametrize("storage", ["bfloat16", "int8", "float32"])
def test_what_comes_back_is_what_was_stored(tmp_path: Path, storage):
    first = keep(FeatureStore(tmp_path, LARGE, storage), "aa11")
    again = FeatureStore(tmp_path, LARGE, storage).get(MODEL.memory_identity, "aa11")
    assert again is not None
    assert torch.equal(first.features, again.features)
    assert again.features.dtype == getattr(torch, storage)
    assert first.ids == again.ids  # so that the cache of keys and values knows it again


def test_models_and_preprocessings_do_not_mix(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    keep(store, "aa11")
    other = random_model("tiny", seed=2)
    assert store.get(other.memory_identity, "aa11") is None
    elsewhere = MemoryIdentity(MODEL.memory_identity.model, "letterbox")
    assert store.get(elsewhere, "aa11") is None
    keep(store, "aa11", model=other)
    assert len(store) == 2
    assert store.delete("aa11") == 2
    with pytest.raises(InvalidInput):
        store.put(other.memory_identity, "aa11", MODEL.remember(one_picture()))
    # A file in another model's place is not believed either.
    keep(store, "bb22")
    right, wrong = (store._path(m.memory_identity, "bb22") for m in (MODEL, other))
    wrong.parent.mkdir(parents=True, exist_ok=True)
    os.replace(right, wrong)
    assert store.get(other.memory_identity, "bb22") is None


def test_the_budget_holds_and_the_oldest_go(tmp_path: Path):
    probe = FeatureStore(tmp_path / "probe", LARGE)
    keep(probe, "x1")
    size = probe.nbytes
    store = FeatureStore(tmp_path / "store", int(3.5 * size))
    for i in range(3):
        keep(store, f"p{i}", i)
        path = store._path(MODEL.memory_identity, f"p{i}")
        os.utime(path, (1000 + i, 1000 + i))
    assert store.get(MODEL.memory_identity, "p0") is not None  # used just now
    keep(store, "p3", 3)
    there = [store.get(MODEL.memory_identity, f"p{i}") is not None for i in range(4)]
    assert there == [True, False, True, True]
    assert store.nbytes <= store.max_bytes
    nothing = FeatureStore(tmp_path / "nothing", 10)
    assert keep(nothing, "p0").features.shape == (1, 25, 64)
    assert len(nothing) == 0


def test_damaged_files_count_as_not_there(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    keep(store, "aa11")
    path = store._path(MODEL.memory_identity, "aa11")
    path.write_bytes(path.read_bytes()[:50])
    assert store.get(MODEL.memory_identity, "aa11") is None
    assert not path.exists()


def test_keys_are_names_and_the_folder_must_be_one(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    for key in ("../secret", "", "a/b", ".hidden"):
        with pytest.raises(InvalidInput, match="no key"):
            store.get(MODEL.memory_identity, key)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError):
        FeatureStore(tmp_path / "file", LARGE)


def test_the_budget_holds_when_two_processes_write(tmp_path: Path):
    """Another writes while this one does: never more than the budget, and most of it is used."""
    probe = FeatureStore(tmp_path / "probe", LARGE)
    keep(probe, "x1")
    folder, budget = tmp_path / "store", int(20.5 * probe.nbytes)
    program = (
        "import sys, torch\n"
        "from rag_owl.model.owl3.features import FeatureStore\n"
        "from rag_owl.model.owl3.memory import MemoryIdentity, VisualMemory\n"
        "made_by = MemoryIdentity('m', 'p')\n"
        "store = FeatureStore(sys.argv[1], int(sys.argv[2]))\n"
        "for i in range(60):\n"
        "    one = VisualMemory(torch.zeros(1, 25, 64), made_by, (f'k{i}',))\n"
        "    store.put(made_by, f'a{i}', one)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(folder), str(budget)])
    store = FeatureStore(folder, budget)
    most, listed = 0, 0
    while writer.poll() is None:
        store.put(MODEL.memory_identity, f"c{listed}", MODEL.remember(one_picture()))
        most, listed = max(most, store.nbytes), listed + 1
        time.sleep(0.01)
    assert writer.wait() == 0
    assert budget * 0.7 < most <= budget
    assert budget * 0.7 < store.nbytes <= budget


def test_the_files_are_listed_only_when_the_budget_is_spent(tmp_path: Path, monkeypatch):
    store = FeatureStore(tmp_path, LARGE)
    listings = []
    count = store._counted
    monkeypatch.setattr(store, "_counted", lambda: listings.append(1) or count())
    one = MODEL.remember(one_picture()).to_storage("bfloat16")
    for i in range(30):
        store.put(MODEL.memory_identity, f"k{i}", one)
    assert len(listings) == 1  # the first writer
    store.max_bytes = 64 * store.nbytes // 30
    for i in range(30, 200):
        store.put(MODEL.memory_identity, f"k{i}", one)
    assert len(listings) < 60
    assert 50 <= len(store) <= 64
    (tmp_path / "ledger").write_text("no number")  # its writer was killed
    store.put(MODEL.memory_identity, "new", one)
    assert len(listings) < 62
    assert abs(int((tmp_path / "ledger").read_text()) - store.nbytes) < 1_024


def test_unfinished_files_of_writers_that_are_gone_are_removed(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    keep(store, "aa11")
    folder = store._path(MODEL.memory_identity, "aa11").parent
    (folder / ".aa22.safetensors.0123").write_text("half")
    os.utime(folder / ".aa22.safetensors.0123", (1000, 1000))
    (folder / ".aa33.safetensors.0123").write_text("still being written")
    store._counted()
    assert sorted(path.name[:5] for path in folder.iterdir()) == [".aa33", "aa11."]


def test_a_disk_that_refuses_costs_time_and_no_answer(tmp_path: Path, caplog):
    store = FeatureStore(tmp_path, LARGE)
    (tmp_path / "ledger").mkdir()  # nobody can write it, root neither
    with pytest.raises(DataFolderError, match="RAG_OWL_FEATURES_BYTES"):
        store.put(MODEL.memory_identity, "aa11", MODEL.remember(one_picture()))
    assert len(keep(store, "aa11")) == 1
    assert "cannot be written" in caplog.text
    assert len(store) == 0


def test_a_damaged_file_that_cannot_be_deleted_counts_as_not_there(tmp_path: Path):
    store = FeatureStore(tmp_path, LARGE)
    store._path(MODEL.memory_identity, "aa11").mkdir(parents=True)
    assert store.get(MODEL.memory_identity, "aa11") is None
