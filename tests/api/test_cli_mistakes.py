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


def test_an_empty_name_is_not_the_current_folder(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    status, _, err = shell.run("collections", "--data", "")
    assert (status, err) == (1, "error: --data is empty; name a folder ('.' is this one)\n")
    monkeypatch.setenv("RAG_OWL_DATA", "")
    status, _, err = shell.run("collections")
    assert status == 1
    assert err.startswith("error: setting RAG_OWL_DATA: the data folder's name is empty")
    assert list((tmp_path / "here").iterdir()) == []
    assert shell.run("collections", "--data", ".")[0] == 0


@pytest.mark.parametrize(
    "url", ["foo", "mysql://owl:geheim@db/owl", "postgresql://owl@db:geheim/owl", "nodb://geheim"]
)
def test_an_address_of_no_database_names_the_setting_and_no_password(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("RAG_OWL_DATABASE_URL", url)
    status, _, err = shell.run("collections")
    assert status == 1
    assert err == (
        "error: setting RAG_OWL_DATABASE_URL: give an address such as "
        "postgresql+psycopg://user@host/name\n"
    )
