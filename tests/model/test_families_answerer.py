"""mPLUG-Owl and Ovis 1.6 through the whole system: ingest, retrieve, look, answer, cite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rag_owl import RagOwl
from rag_owl.api.cli import app
from rag_owl.blobs import FolderBlobs
from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.evidence_prompt import Sights
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.spliced.answerer import SplicedAnswerer
from rag_owl.ports import Ablator
from rag_owl.types import Attribution, Context, Draft, Question
from tests.films import write_film
from tests.model.families import write_model
from tests.model.test_owl3_answerer import context, item, picture

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
KINDS = ("owl1", "gemma", "llama", "qwen")
FAMILY = {"owl1": "owl1", "gemma": "ovis16", "llama": "ovis16", "qwen": "qwen2_vl"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {kind: write_model(root / f"tiny-{kind}", kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def answerer(request, folders, tmp_path: Path) -> tuple[SplicedAnswerer, FolderBlobs, FeatureStore]:
    blobs = FolderBlobs(tmp_path / "blobs")
    features = FeatureStore(tmp_path / "features", 10**8)
    owl = SplicedAnswerer.load(
        str(folders[request.param]),
        FAMILY[request.param],
        blobs,
        features,
        sampling=Sampling(max_new_tokens=16),
    )
    return owl, blobs, features


def test_pictures_are_looked_at_once(answerer):
    owl, blobs, features = answerer
    keys = [blobs.put(picture(i)) for i in range(5)]
    assert all(owl.remember_picture(key) for key in keys)
    assert owl.model.pictures_seen == len(features) == 5
    mine = blobs.put(picture(99))
    items = [item(i, f"Text {i}.", key) for i, key in enumerate(keys)]
    asked = context(items, pictures=(mine,))
    pieces: list[str] = []
    draft = owl.answer(asked, pieces.append)
    assert "".join(pieces) == draft.text
    assert owl.model.pictures_seen == 6  # the user's
    for key in keys:
        features.delete(key)
    again = owl.answer(asked)
    assert owl.model.pictures_seen == 12
    assert again == draft
    assert draft.model == owl.name
    assert draft.usage.completion_tokens <= 16


def test_attention_says_what_an_answer_rests_on(answerer):
    owl, blobs, _ = answerer
    items = [item(0, "A text. Of two sentences."), item(1, key=blobs.put(picture(1)))]
    draft = owl.answer(context(items))
    assert draft.attributions
    for attribution in draft.attributions:
        assert 0 <= attribution.attention <= 1
        if attribution.source == 1:
            # An abstractor's queries have no place in the picture; the others' tokens have.
            assert (attribution.box is not None) == (owl.model.family != "owl1")
        else:
            assert attribution.item_start is not None


def test_masses_are_those_of_pictures_and_texts(answerer):
    owl, blobs, _ = answerer
    key = blobs.put(picture(1))
    asked = context([item(0, "A text.", key)], "Which?", pictures=(blobs.put(picture(2)),))
    _, prompt, memories = laid_out(owl, asked)
    coming, record = owl._run(prompt, memories, Sampling(max_new_tokens=3))
    tokens = range(len(list(coming)))
    embeds, _ = owl.model.begin(prompt, memories)
    assert prompt.positions == embeds.shape[1]
    pictures = record.picture_mass(tokens, 2)
    (whole,) = record.text_mass(tokens, [(0, prompt.positions)])
    inside = record.text_mass(tokens, prompt.places)
    assert pictures.tolist() == pytest.approx(inside, abs=1e-4)
    assert record.picture_mass(tokens, 0).shape == (0,)
    assert 0 < float(pictures.sum()) < whole <= 1.01
    for drawn, mass in zip(record.patch_mass(tokens, 2), pictures, strict=True):
        if owl.model.family == "owl1":
            assert drawn.numel() == 0
        else:
            assert drawn.dim() == 2
            assert 0 < float(drawn.sum()) <= float(mass) + 1e-4


@torch.no_grad()
def test_what_a_statement_loses_without_its_source(answerer):
    owl, blobs, _ = answerer
    assert isinstance(owl, Ablator)
    items = [item(0, "A red thing.", blobs.put(picture(1))), item(1, "Old.")]
    said = "It is red. [1] It is old. [2]"
    draft = Draft(said, (Attribution(0, 10, 0), Attribution(15, 25, 1), Attribution(0, 10, 9)))
    drops = owl.ablate(context(items), draft)
    assert drops[2] is None
    ids, spans = owl.processor.tokenizer.encode_with_offsets(said)

    def likely(shown: Context, start: int, end: int) -> float:
        """Token by token."""
        _, prompt, memories = laid_out(owl, shown)
        embeds, positions = owl.model.begin(prompt, memories)
        logits, cache = owl.model.step(embeds, positions=positions)
        total = 0.0
        for count, (token, (first, last)) in enumerate(zip(ids, spans, strict=True)):
            if first < end and last > start:
                total += float(logits.log_softmax(-1)[token])
            one = owl.model.text_model.embed_tokens(torch.tensor([[token]]))
            at = None
            if positions is not None:
                at = (positions.max() + 1 + count).expand(3, 1, 1)
            logits, cache = owl.model.step(one, cache, None, at)
        return total

    for number, (start, end) in enumerate([(0, 10), (15, 25)]):
        less = list(items)
        less[number] = replace(less[number], text=None, picture=None)
        expected = likely(context(items), start, end) - likely(context(less), start, end)
        assert drops[number] == pytest.approx(expected, abs=2e-3)


def test_spans_are_those_of_the_texts(answerer):
    owl, _, _ = answerer
    asked = context([item(0, "The owl sleeps. It eats mice."), item(1, "Another text.")], "Why so?")
    laid, prompt, _ = laid_out(owl, asked)
    for part, (start, end) in zip(laid.parts, prompt.spans, strict=True):
        read = owl.processor.tokenizer.decode(prompt.input_ids[start:end])
        assert part.strip() in read  # a token may hold a little of its neighbour
        assert len(read) < len(part) + 12


def laid_out(owl: SplicedAnswerer, asked: Context) -> tuple[Any, Any, list[Any]]:
    """The prompt for a context, and what is seen of its pictures."""
    sights = Sights.of(asked, finest=owl._finest)
    memories, failed = owl._look(sights, lambda: None)
    assert not failed
    how = owl._how({view.spot: memories[view.key].sizes or () for view in sights.views()})
    laid, prompt = owl._fitting(asked, sights, how)
    return laid, prompt, [memories[view.key] for view in laid.views]


def test_a_context_that_is_too_long_loses_its_end_and_says_so(answerer):
    owl, _, _ = answerer
    long = "Words and more words. " * 60
    draft = owl.answer(context([item(i, long) for i in range(8)]))
    assert draft.left_out
    assert draft.left_out[-1] == "i7"


def test_a_video_is_watched(answerer, tmp_path: Path):
    owl, blobs, _ = answerer
    mine = blobs.put(write_film(tmp_path / "mine.mp4", 4).read_bytes())
    before = owl.model.pictures_seen
    draft = owl.answer(Context(Question("c", "When?", video=mine), ()))
    assert owl.model.pictures_seen == before + 4
    assert draft.notes == ()


def test_one_after_the_other(answerer):
    owl, blobs, _ = answerer
    asked = [context([item(0, f"Text {i}.", blobs.put(picture(i)))]) for i in range(3)]
    alone = [owl.answer(one) for one in asked]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(owl.answer, asked)) == alone


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RagOwl]:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.png").write_bytes(picture(number))
        (pictures / f"{number}.txt").write_text(f"The owl number {number} eats a mouse.")
    embedders = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
    with RagOwl.open(tmp_path / "data", answer_tokens=12, **embedders) as owl:
        owl.ingest("owls", [pictures])
        yield owl


def test_every_family_answers_through_the_whole_system(system: RagOwl, folders):
    for kind in KINDS:
        answer = system.ask("owls", "What does it eat?", [picture(1)], model=str(folders[kind]))
        assert answer.model == f"tiny-{kind}"
        assert answer.sources
        assert system.answer(answer.id) == answer
        for citation in answer.citations:
            assert citation.support.attention is not None


def test_models_side_by_side(system: RagOwl, folders, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAG_OWL_ANSWER_TOKENS", "8")
    arguments = ["ask", "owls", "What does it eat?", "--data", str(system.folder), "--json"]
    for kind in ("owl1", "gemma", "qwen"):
        arguments += ["--model", str(folders[kind])]
    done = CliRunner().invoke(app, [*arguments, "--model", "sentences"])
    assert done.exit_code == 0, done.output
    models = [answer["model"] for answer in json.loads(done.stdout)]
    assert models == ["tiny-owl1", "tiny-gemma", "tiny-qwen", "sentences"]


def test_folders_of_no_family(system: RagOwl, folders, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidCheckpoint, match="holds no weights"):
        system.ask("owls", "Why?", model=str(empty))
    (folders["owl1"] / "tokenizer.model").rename(tmp_path / "elsewhere")
    try:
        with pytest.raises(InvalidCheckpoint, match="holds no tokenizer"):
            system.ask("owls", "Why?", model=str(folders["owl1"]))
    finally:
        (tmp_path / "elsewhere").rename(folders["owl1"] / "tokenizer.model")
