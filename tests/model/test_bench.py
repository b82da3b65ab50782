"""`rag-owl model bench` and `list`: every model's figures, no matter which; timing itself is not
asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.families import compare
from rag_owl.api.cli import app
from rag_owl.errors import InvalidInput
from rag_owl.model import bench
from rag_owl.model.check import NAMES
from rag_owl.model.spliced.families import FAMILIES
from rag_owl.model.spliced.sizes import CONTROLS, random_model, random_processor
from tests.model.families import write_qwen2_vl

torch.set_num_threads(1)  # tiny models lose more to threads than they gain


def test_all_families_side_by_side(tmp_path: Path):
    pytest.importorskip("matplotlib")
    text = compare("tiny", "cpu", [0, 1], 3, 1, tmp_path)
    assert (tmp_path / "families-tiny-cpu.md").read_text() == text
    assert (tmp_path / "families-tiny-cpu.png").read_bytes().startswith(b"\x89PNG")
    measured = json.loads((tmp_path / "families-tiny-cpu.json").read_text())
    assert "torch" in measured["machine"]
    rows = {(row["model"], row["pictures"]): row for row in measured["rows"]}
    assert list(rows) == [(family, count) for family in bench.RANDOM for count in (0, 1)]
    for (family, pictures), row in rows.items():
        assert row["failed"] is None
        assert min(row["first"], row["first_fresh"], row["per_token"]) > 0
        assert measured["weights"][family] > 10**5
        if pictures:
            assert row["positions"] > rows[family, 0]["positions"]


def test_without_matplotlib_the_figures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    monkeypatch.setattr("benchmarks.families.RANDOM", ("owl1",))
    text = compare("tiny", "cpu", [1], 2, 1, tmp_path)
    assert "| owl1 | 1 |" in text
    assert "No plot: a plot needs matplotlib" in text
    assert (tmp_path / "families-tiny-cpu.json").is_file()


def test_models_by_name_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAG_OWL_DATA", str(tmp_path / "data"))
    folder = str(write_qwen2_vl(tmp_path / "mine"))
    arguments = ["model", "bench", "sentences", folder, "--pictures", "1", "--tokens", "2"]
    done = CliRunner().invoke(app, [*arguments, "--repeats", "1", "--json"])
    assert done.exit_code == 0, done.output
    sentences, mine = json.loads(done.stdout)["rows"]
    assert sentences["model"] == "sentences"
    assert sentences["first"] > 0
    assert sentences["per_token"] is None
    assert mine["model"] == folder
    assert mine["per_token"] > 0
    assert not (tmp_path / "data").exists()


def test_the_table_has_ratios_and_says_what_failed():
    rows = (
        bench.Row("a", 1, 10, 0.01, 0.04, 0.002, 2**21),
        bench.Row("b", 1, None, 0.02, 0.02, None, None),
        bench.Row("b", 8, None, 0.0, 0.0, None, None, "no room for 8 pictures"),
    )
    lines = bench.table(bench.Measured("a machine", {"a": 10**9, "b": 0}, rows)).split("\n")
    assert lines[0] == "a machine"
    assert "a: 1.000 GB of weights" in lines
    a, b, failed = lines[-3:]
    assert "| 4.00 x | 2.00 ms | 500.0 | 2 MiB | 1.00 x a | 1.00 x a |" in a
    assert "| 2.00 x a |" in b
    assert "not measured: no room for 8 pictures" in failed


def test_what_cannot_be_measured_is_said():
    run = CliRunner().invoke
    for arguments, says in (
        ([], "name models"),
        (["sentences", "--pictures", "one"], "--pictures one"),
        (["--random", "huge"], "tiny or published"),
        (["no-such-model", "--pictures", "1"], "no answering model 'no-such-model'"),
    ):
        done = run(app, ["model", "bench", *arguments])
        assert done.exit_code != 0
        assert isinstance(done.exception, Exception)
        assert says in str(done.exception)
    with pytest.raises(InvalidInput):
        bench.measure([], [1], tokens=1)


def test_the_list_names_all_families():
    found = json.loads(CliRunner().invoke(app, ["model", "list", "--json"]).stdout)
    assert found["bundled"] == ["sentences", "owl-nano"]
    assert set(found["families"]) == set(NAMES)
    said = CliRunner().invoke(app, ["model", "list"]).stdout
    for family in found["families"].values():
        assert family["name"] in said
        assert all(name in said for name in family["hub"])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_random_models_are_the_same_for_the_same_seed(family: str, tmp_path: Path):
    one, same, other = (random_model(family, seed=seed) for seed in (1, 1, 2))
    weights = [next(iter(model.parameters())) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not any(weight.is_meta for model in (one,) for weight in model.buffers())
    text = random_processor(family, one).tokenizer
    assert text.decode(text.encode("an öwl 🦉")) == "an öwl 🦉"
    for control in CONTROLS[family]:
        assert text.control(control) not in text.encode(control)
    with pytest.raises(InvalidInput, match="no family"):
        random_model("parrot")


def test_published_sizes_have_as_many_parameters_as_published():
    from rag_owl.model.spliced.sizes import _CONFIGS, _shapes

    counts = {}
    for family, config in _CONFIGS.items():
        raw = config("published")
        with torch.device("meta"):
            model = FAMILIES[family].model()(raw, _shapes(family, raw))
        model.tie()
        counts[family] = sum(weight.numel() for weight in model.parameters())
    assert counts["owl1"] == 7_123_068_928
    assert counts["qwen2_vl"] == 8_291_375_616
    assert 2 * counts["ovis16"] / 1e9 == pytest.approx(20.41, abs=0.05)  # GB of its files in bf16
