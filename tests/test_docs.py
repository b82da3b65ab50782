"""What the documentation says is run, and what it lists is compared."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

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


# Commands and programs after each other in one process, which loads its libraries once. What a
# command does is as if it were alone, but for that; how one starts, others test.
IN_ONE_PROCESS = """
import json, sys
from rag_owl.api.cli import main

for kind, text in json.load(sys.stdin):
    print("ran", kind, text, sep="\\n", flush=True)
    if kind == "python":
        exec(compile(text, "README.md", "exec"), {"__name__": "__main__"})
        continue
    sys.argv = json.loads(text)
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, text
print("loaded", *sys.modules)
"""


def test_commands_and_python_of_the_readme_run(tmp_path: Path) -> None:
    """In order, in one folder: later ones use what earlier ones made."""
    steps: list[tuple[str, str]] = []
    for language, block in BLOCKS:
        if language == "python":
            steps.append(("python", block))
        for line in block.splitlines() if language == "sh" else ():
            arguments = shlex.split(line)
            if arguments[:1] == ["rag-owl"]:
                steps.append(("sh", json.dumps(arguments)))
    assert len(steps) >= 10
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS],
        input=json.dumps(steps), cwd=tmp_path, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "RAG_OWL_MODEL"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr}"
    assert done.stdout.count("ran\n") == len(steps)
    said = done.stdout.partition("ran\npython\n")[2]
    assert "142 []" in said
    assert "Tokyo" in said
    loaded = done.stdout.rpartition("loaded ")[2].split()
    assert "torch" in loaded
    assert not [name for name in loaded if name.startswith("opentelemetry")]  # traces are off


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("rag-owl")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, "ingest" in done.stdout) == (0, True), done.stderr
