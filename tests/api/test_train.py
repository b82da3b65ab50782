"""`rag-owl train`: from a collection's questions to examples, and owl-nano trained on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from rag_owl import RagOwl
from rag_owl.api import train_data
from rag_owl.api.cli import app
from rag_owl.errors import InvalidInput
from rag_owl.evaluation.dataset import load
from rag_owl.model.nano import weights
from rag_owl.model.nano.judge import Calibration
from rag_owl.model.registry import Surroundings, load_answerer
from rag_owl.model.statements import ABSTENTION
from rag_owl.model.train.examples import Pictures, read_examples
from rag_owl.model.train.nano import further

torch.set_num_threads(1)
TOWNS = {"Alba": "red", "Brune": "green", "Corin": "blue", "Dorne": "white", "Elmet": "black"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Five towns with pictures; questions in words, with pictures, and one without answer."""
    root = tmp_path_factory.mktemp("train")
    files = root / "files"
    files.mkdir()
    rows = []
    for town, colour in TOWNS.items():
        Image.new("RGB", (60, 40), colour).save(files / f"{town.lower()}.png")
        text = f"{town} has a {colour} tower. <b>The mayor</b> is [1] {town}us."
        (files / f"{town.lower()}.txt").write_text(text)
        start = text.index(colour)
        place = {"document": f"{town.lower()}.png", "start": start, "end": start + len(colour)}
        rows += [
            {"id": f"{town}/words", "question": f"Which tower has {town}?", "answers": [colour],
             "items": [place]},
            {"id": f"{town}/picture", "question": "Who is the mayor here?",
             "images": [f"files/{town.lower()}.png"], "answers": [f"{town}us"]},
        ]  # fmt: skip
    rows.append({"id": "none", "question": "Who painted the harbour?", "answers": []})
    (root / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with RagOwl.open(root / "data", text_embedder="hashing", picture_embedder="descriptor") as owl:
        owl.ingest("towns", [files])
        statistics = train_data.make(
            owl, "towns", load(root / "q.jsonl"), root / "examples", k=3, missing=0.3
        )
    return root, statistics


def test_examples_are_what_a_model_will_meet(made):
    root, statistics = made
    examples = {e.id: e for e in read_examples(root / "examples")}
    assert statistics["examples"] == len(examples) == 11
    kinds = statistics["kinds"]
    assert kinds["unanswerable"] == 1
    assert kinds["answered"] + kinds["made unanswerable"] == 10
    assert kinds["made unanswerable"] > 0
    for name, example in examples.items():
        assert len(example.items) == 3
        assert len({item.id for item in example.items}) == 3
        assert all(Pictures(root / "examples").get(i.picture) for i in example.items)
        if example.gold:
            (at,) = example.gold
            assert example.items[at].title.lower() == name.split("/")[0].lower()
            assert example.answer == f"{example.short} [{at + 1}]"
            assert example.short in example.items[at].text
        else:
            assert example.answer == ABSTENTION
            assert not any(name.split("/")[0] in (i.text or "") for i in example.items)
        assert bool(example.images) == name.endswith("/picture")
    page = (root / "examples" / "preview.html").read_text()
    assert "&lt;b&gt;The mayor" in page
    assert "<b>The mayor" not in page
    with RagOwl.open(root / "data") as owl, pytest.raises(InvalidInput, match="already"):
        train_data.make(owl, "towns", load(root / "q.jsonl"), root / "examples")


def test_owl_nano_learns_them_and_answers_by_its_folder(made, tmp_path: Path):
    root, _ = made
    out = tmp_path / "out"
    told = CliRunner().invoke(app, [
        "train", "run", "nano", "--examples", str(root / "examples"), "--out", str(out),
        "--epochs", "4", "--held-back", "0.2", "--rate", "1e-4", "--json",
    ])  # fmt: skip
    assert told.exit_code == 0, told.output
    card = json.loads(told.stdout)
    losses = [json.loads(line)["loss"] for line in (out / "nano" / "log.jsonl").open()]
    assert losses[-1] < losses[0]
    assert Image.open(out / "nano" / "loss.png").format == "PNG"
    again = CliRunner().invoke(app, [
        "train", "run", "nano", "--examples", str(root / "examples"), "--out", str(out),
        "--held-back", "0.2", "--json",
    ])  # fmt: skip
    assert "nothing was run" in " ".join(again.stderr.split())
    listed = CliRunner().invoke(app, ["model", "list", "--under", str(tmp_path), "--json"])
    assert list(json.loads(listed.stdout)["trained"]) == [card["model"]]
    (tmp_path / "card.json").write_text("no card")
    listed = CliRunner().invoke(app, ["model", "list", "--under", str(tmp_path)])
    assert f"{card['model']}: recipe nano on" in listed.stdout
    again = further.run(root / "examples", out, held_back=0.2)  # it ended: nothing is done again
    assert str(again) == card["model"]
    assert len((out / "nano" / "log.jsonl").read_text().splitlines()) == len(losses)
    blobs = Pictures(root / "examples")
    around = Surroundings(lambda: None, blobs, tmp_path / "features", 0, 64)
    model = load_answerer(str(again), around)
    example = next(e for e in read_examples(root / "examples") if e.gold and not e.images)
    draft = model.answer(example.context())
    assert model.name == draft.model == card["name"]
    assert card["name"].startswith("owl-nano+nano-")
    assert 0 <= card["figures"]["f1"] <= 1
    assert 0 <= card["figures_before"]["f1"] <= 1
    # It abstains and draws boxes as the shipped one does: what calibrates that came along.
    kept, shipped = (weights.evidence(folder) for folder in (again, weights.FOLDER))
    assert kept["grounding"] == shipped["grounding"]
    assert model.threshold == load_answerer("owl-nano", around).threshold
    trained = Calibration.load(again)
    assert trained is not None
    assert trained.supported_from == Calibration.load(weights.FOLDER).supported_from
    assert model._heatmaps.pointing is not None
    assert draft.abstained or draft.short in example.items[draft.attributions[0].source].text
    bundled = load_answerer("owl-nano", around)
    assert (model.best(example.context()).score) != bundled.best(example.context()).score


def test_examples_are_laid_out_as_they_will_be_met(made, tmp_path: Path, monkeypatch):
    root, _ = made
    around = Surroundings(lambda: None, Pictures(root / "examples"), tmp_path / "features", 0, 64)
    model = load_answerer("owl-nano", around)
    read, seen = model._read, []
    monkeypatch.setattr(
        model, "_read", lambda windows, *a: seen.extend(windows) or read(windows, *a)
    )
    examples = [e for e in read_examples(root / "examples") if e.gold]
    assert {bool(example.images) for example in examples} == {True, False}
    for example in examples:
        prepared = further.prepare(model, example)
        seen.clear()
        model.answer(example.context())
        assert [w.ids for w in prepared.windows] == [w.ids for w in seen]


def test_a_run_goes_on_with_its_own_examples_alone(made, tmp_path: Path):
    root, _ = made
    out = tmp_path / "out"
    further.run(root / "examples", out, epochs=1, held_back=0.2)
    shutil.rmtree(out / "nano" / "model")
    copied = tmp_path / "examples"
    shutil.copytree(root / "examples", copied)
    lines = (copied / "examples.jsonl").read_text().splitlines()
    (copied / "examples.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(InvalidInput, match="other examples: give what it began with"):
        further.run(copied, out, epochs=1, held_back=0.2)
    with pytest.raises(InvalidInput, match="other held_back"):
        further.run(root / "examples", out, epochs=1, held_back=0.3)
    assert (further.run(root / "examples", out, epochs=1, held_back=0.2) / "card.json").is_file()
    (out / "nano" / "run.json").write_text("no run")
    with pytest.raises(InvalidInput, match=r"run\.json cannot be read"):
        further.run(root / "examples", out, epochs=1, held_back=0.2)


def test_what_cannot_be_trained_is_said(made, tmp_path: Path):
    root, _ = made
    for arguments, said in (
        (["run", "nano", "--examples", str(tmp_path)], "make-data"),
        (["run", "nano", "--examples", str(root / "examples"), "--steps", "9"], "no --steps"),
        (["run", "nano", "--examples", str(root / "examples"), "--epochs", "0.5"], "--epochs 1"),
        (["run", "lora", "--examples", str(root / "examples")], "needs --model"),
        (["run", "x", "--examples", str(root / "examples"), "--model", "y"], "no recipe 'x'"),
    ):
        told = CliRunner().invoke(app, ["train", *arguments, "--out", str(tmp_path / "out")])
        assert told.exit_code != 0
        assert said in told.output + str(told.exception)
    told = CliRunner().invoke(app, ["train", "recipes", "--json"])
    assert set(json.loads(told.stdout)) == {"owl1", "ovis", "owl3", "lora", "nano"}


def test_pictures_of_questions_may_lie_in_another_folder(made, tmp_path: Path):
    root, _ = made
    line = {"question": "Which tower is this?", "images": ["alba.png"], "answers": ["red"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(line))
    command = ["train", "make-data", "towns", "--questions", str(tmp_path / "q.jsonl")]
    command += ["--data", str(root / "data"), "--out", str(tmp_path / "out"), "--missing", "0"]
    told = CliRunner().invoke(app, command)
    assert "--images names its folder" in str(told.exception)
    told = CliRunner().invoke(app, [*command, "--images", str(root / "files")])
    assert told.exit_code == 0, told.output
    (example,) = read_examples(tmp_path / "out")
    assert len(example.images) == 1
