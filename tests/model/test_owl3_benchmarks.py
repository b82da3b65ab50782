"""The GPU suite runs at `tiny` on a CPU, and imports nothing of the project but its model."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
# Parsed before the first test, as in `tests/test_imports.py`.
TREES = {
    name: ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8"))
    for name in ("gpu", "families", "owl3", "owl3_ways")
}


def test_the_gpu_suite_runs_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    command = ["gpu", "--device", "cpu", "--size", "tiny", "--steps", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    assert gpu.main() == 0
    said = capsys.readouterr().out
    assert "0 checks failed" in said
    assert said.count("ok    golden") == 3
    assert "(a) stored features | 8 |" in (tmp_path / "gpu-tiny-cpu.md").read_text()
    assert (tmp_path / "gpu-tiny-cpu.json").is_file()


def test_the_gpu_suite_imports_only_the_model():
    for name, tree in TREES.items():
        modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
        modules += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        ours = {m for m in modules if m.split(".")[0] in ("rag_owl", "indexer", "model", "api")}
        allowed = ("rag_owl.model", "rag_owl.errors")
        assert [m for m in ours if not m.startswith(allowed)] == [], name
