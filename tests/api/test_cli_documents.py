"""`rag-owl documents`: listed, and deleted by id or by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shell import Shell


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Shell:
    shell = Shell(monkeypatch, capsys, tmp_path / "data")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("twin", folder):
            (tmp_path / folder / f"{name}.txt").write_text(f"A text of {folder} and {name}.")
        assert shell.run("ingest", "c", tmp_path / folder)[0] == 0
    return shell


def names(shell: Shell) -> list[str]:
    return sorted(document["name"] for document in shell.json("documents", "c"))


def test_documents_are_listed_and_deleted(shell: Shell) -> None:
    assert names(shell) == ["one.txt", "twin.txt", "twin.txt", "two.txt"]
    status, listed, _ = shell.run("documents", "c")
    assert status == 0
    assert len(listed.splitlines()) == 4
    of_one = next(line for line in listed.splitlines() if "one.txt" in line).split()[0]
    status, said, _ = shell.run("documents", "c", "--delete", of_one, "--delete", "two.txt")
    assert (status, said) == (0, "2 deleted.\n")
    assert names(shell) == ["twin.txt", "twin.txt"]


def test_what_is_not_one_document_is_refused_before_any_is_deleted(shell: Shell) -> None:
    status, _, err = shell.run("documents", "c", "--delete", "one.txt", "--delete", "three.txt")
    assert status == 1
    assert "no document 'three.txt' in 'c'; `rag-owl documents c` lists them" in err
    status, _, err = shell.run("documents", "c", "--delete", "one.txt", "--delete", "twin.txt")
    assert status == 1
    assert "2 documents are called 'twin.txt'; give an id" in err
    assert len(names(shell)) == 4
    assert shell.run("documents", "d")[0] == 1
