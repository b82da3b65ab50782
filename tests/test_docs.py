"""What the documentation says is run, and what it lists is compared."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rag_owl.settings import as_markdown

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)


def test_the_settings_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == as_markdown()


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^make (\w+)$", README, re.M)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_commands_and_python_of_the_readme_run(workplace: Path) -> None:
    """In order, in one folder: later ones use what earlier ones made."""
    command_line = str(Path(sys.executable).with_name("rag-owl"))
    theirs = {name: value for name, value in os.environ.items() if name != "RAG_OWL_MODEL"}
    ran = 0
    for language, block in BLOCKS:
        if language == "python":
            done = subprocess.run(
                [sys.executable, "-c", block], cwd=workplace, capture_output=True, text=True,
                check=False, env=theirs,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "142 []" in done.stdout
            assert "Tokyo" in done.stdout
            ran += 1
        for line in block.splitlines() if language == "sh" else ():
            arguments = shlex.split(line)
            if arguments[:1] != ["rag-owl"]:
                continue
            done = subprocess.run(
                [command_line, *arguments[1:]], cwd=workplace, capture_output=True, text=True,
                check=False, env=theirs,
            )  # fmt: skip
            assert done.returncode == 0, f"{line}: {done.stderr}"
            ran += 1
    assert ran >= 9
