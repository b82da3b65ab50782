"""The command line where something is wrong: it says so in words and by its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_owl import RagOwl
from tests.shell import Shell


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path) -> Shell:
    return Shell(monkeypatch, capsys, data)


@pytest.fixture
def owls(tmp_path: Path) -> Path:
    path = tmp_path / "owls.txt"
    path.write_text("The boreal owl weighs about 120 grams.")
    return path


def test_verifying_fails_where_a_file_is_damaged(shell: Shell, owls: Path, data: Path) -> None:
    shell.run("ingest", "birds", owls)
    assert shell.run("jobs", "--begin", "verify")[0] == 0
    blob = next(path for path in (data / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o600)
    blob.write_bytes(b"x")
    status, out, err = shell.run("jobs", "--begin", "verify")
    assert status == 1
    assert "1 failed" in out
    assert "1 files are missing or damaged; `rag-owl doctor --deep`" in err


@pytest.mark.parametrize(
    "more", [["--cancel", "--retry"], ["--cancel", "--begin", "verify"], ["--begin", "verify"]]
)
def test_what_is_refused_cancels_no_job(
    shell: Shell, owls: Path, data: Path, more: list[str]
) -> None:
    with RagOwl.open(data, work_jobs=False) as owl:
        job = owl.ingest("birds", [owls], wait=False)
    status, out, err = shell.run("jobs", job.id, *more)
    assert (status, out) == (1, "")
    assert err.startswith("error: --")
    with RagOwl.open(data, work_jobs=False) as owl:
        assert owl.job(job.id).state == "queued"
