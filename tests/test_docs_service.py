"""The pages about Python and HTTP: their code is run, their endpoints are compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.browser import serve
from tests.service import PATIENCE

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def test_the_python_page_runs(tmp_path: Path) -> None:
    """All blocks in one process: each is a program, later ones use the folder of earlier ones."""
    code = blocks("python.md", "python")
    assert len(code) >= 4
    quick = {"RAG_OWL_TEXT_EMBEDDER": "hashing", "RAG_OWL_PICTURE_EMBEDDER": "descriptor"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, **quick},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "142 0 []" in done.stdout
    assert "Tokyo is the capital of Japan. [1]" in done.stdout
    assert "What is the currency of Thailand? -> " in done.stdout
    assert "no collection 'flgas'" in done.stdout


def test_the_http_page_runs_and_names_every_endpoint(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl, which the page's commands are for")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "picture.png")
    with serve(tmp_path / "data") as address:
        described = httpx.get(f"{address}/openapi.json", timeout=PATIENCE).json()["paths"]
        script = "set -euo pipefail\n" + "\necho\n".join(blocks("http.md", "sh"))
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path, env={"OWL": address, "PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr}"
    assert "The barn owl of Greyfield weighs 440 grams." in done.stdout
    assert "event: citation" in done.stdout
    assert "<script" not in (tmp_path / "answer.html").read_text("utf-8")
    there = {
        f"{method.upper()} {path}"
        for path, operations in described.items()
        for method in operations
        if method in ("get", "post", "put", "delete")
    }
    named = set(re.findall(r"^\| `([A-Z]+ /\S*)`", (DOCS / "http.md").read_text("utf-8"), re.M))
    assert named == there


def test_commands_settings_and_figures_that_are_named_exist() -> None:
    from typer.main import get_command

    from rag_owl.api.cli import app
    from rag_owl.api.metrics import Metrics
    from rag_owl.settings import Settings

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    settings = {f"RAG_OWL_{name.upper()}" for name in Settings.model_fields}
    written = Metrics().write().decode()
    figures = set(re.findall(r"^# TYPE (\w+)", written, re.M))
    for page in ("quick-start.md", "operations.md", "http.md", "python.md"):
        text = (DOCS / page).read_text("utf-8")
        named = set(re.findall(r"(?:^|[` /])rag-owl ([a-z]+)", text, re.M))
        assert named <= commands, page
        assert set(re.findall(r"\bRAG_OWL_[A-Z_]+", text)) <= settings, page
        assert set(re.findall(r"\brag_owl_[a-z_]+", text)) <= figures, page
