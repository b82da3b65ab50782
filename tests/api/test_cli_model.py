"""`rag-owl model`, on the golden checkpoints."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from rag_owl.api.cli import main

CASES = Path(__file__).parent.parent / "golden" / "owl3"


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["rag-owl", "model", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    written = capsys.readouterr()
    return int(stop.value.code or 0), written.out, written.err


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sentences" in run(monkeypatch, capsys, "list")[1].split()
    assert "sentences" in json.loads(run(monkeypatch, capsys, "list", "--json")[1])["bundled"]


def test_check_compares_every_expected_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    case = next(path for path in sorted(CASES.iterdir()) if (path / "weights.safetensors").exists())
    status, out, _ = run(monkeypatch, capsys, "check", case)
    assert status == 0
    assert "logits" in out
    report = json.loads(run(monkeypatch, capsys, "check", case, "--json")[1])
    assert report["ok"]
    assert len(report["comparisons"]) > 3
    # one number moved is one number noticed
    other = tmp_path / "case"
    shutil.copytree(case, other)
    from safetensors.torch import load_file, save_file

    expected = load_file(other / "expected.safetensors")
    expected["logits"][0, 0, 0] += 0.01
    (other / "expected.safetensors").unlink()
    save_file(expected, other / "expected.safetensors")
    status, out, _ = run(monkeypatch, capsys, "check", other)
    assert status == 1
    assert "DIFFERS" in out


def test_check_of_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = run(monkeypatch, capsys, "check", tmp_path)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
