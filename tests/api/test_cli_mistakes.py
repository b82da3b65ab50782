"""The command line where something is wrong: it says so in words and by its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rag_owl import RagOwl, __version__, db
from rag_owl.store import claims
from rag_owl.work_lock import exclusively
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


def test_a_mistyped_path_makes_no_collection(shell: Shell, owls: Path, tmp_path: Path) -> None:
    status, out, err = shell.run("ingest", "birds", owls, tmp_path / "typo")
    assert (status, out) == (1, "")
    assert f"there is no file or folder '{tmp_path / 'typo'}'" in err
    assert shell.json("collections") == []


def test_an_empty_folder_is_said_to_be_one(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, out, _ = shell.run("ingest", "birds", tmp_path / "empty")
    assert status == 0
    assert out.splitlines()[-1] == "There was no file to read."


def test_a_backup_of_damaged_files_is_not_called_whole(
    shell: Shell, owls: Path, data: Path, tmp_path: Path
) -> None:
    shell.run("ingest", "birds", owls)
    backup = tmp_path / "owl.backup"
    shell.run("backup", backup)
    assert shell.run("restore", backup, "--check")[1] == f"{backup} is whole.\n"
    next(path for path in (data / "blobs").rglob("*") if path.is_file()).unlink()
    backup = tmp_path / "lacking.backup"
    assert shell.run("backup", backup)[0] == 1
    status, out, err = shell.run("restore", backup, "--check")
    assert (status, out) == (1, "")
    assert "is as it was written, but 1 files were missing or damaged then (blob " in err
    status, out, _ = shell.run("restore", backup, "--check", "--json")
    assert (status, len(json.loads(out)["lacking"])) == (1, 1)


def test_a_job_whose_process_was_killed_is_not_said_to_run(
    shell: Shell, owls: Path, data: Path
) -> None:
    with RagOwl.open(data, work_jobs=False, text_embedder="hashing") as owl:
        job = owl.ingest("birds", [owls], wait=False)
        with db.writing(owl.engine) as session:
            assert claims.claim(session, job.id, "killed") is not None
        with exclusively(data, 0):  # as whoever works jobs
            assert shell.run("jobs")[1].endswith(f"job {job.id} running\n")
        assert f"job {job.id} interrupted; it goes on when" in shell.run("jobs", job.id)[1]
    assert shell.json("jobs", job.id)["state"] == "running"
    assert f"job {job.id} done" in shell.run("ingest", "birds", owls)[1]


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


def test_a_name_that_can_be_made_is_suggested_to_who_asks(shell: Shell) -> None:
    there = "error: no collection 'owls'; there are none yet"
    for command in ("ask", "search"):
        err = shell.run(command, "owls", "What?")[2]
        assert err == f"{there}. `rag-owl ingest owls PATH` makes one.\n"
    for command in (["ask", "Owls", "What?"], ["ask", "../x", "What?"], ["reindex", "owls"]):
        assert "makes one" not in shell.run(*command)[2]
    assert shell.run("collections", "delete", "owls")[2] == f"{there}\n"


def test_a_place_for_questions_is_looked_at_before_the_sample_is_written(
    shell: Shell, tmp_path: Path
) -> None:
    folder = tmp_path / "sample"
    status, out, err = shell.run("sample", folder, "--questions", tmp_path / "no" / "q.jsonl")
    assert (status, out) == (1, "")
    assert f"there is no folder {tmp_path / 'no'}" in err
    assert "is a folder" in shell.run("sample", folder, "--questions", tmp_path)[2]
    assert not folder.exists()
    assert shell.run("sample", folder, "--questions", folder / "q.jsonl")[0] == 0


def _started(data: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose output is a real file."""
    environment = os.environ | {"RAG_OWL_DATA": str(data)} | options.pop("env", {})
    command = [sys.executable, "-m", "rag_owl.api.cli", *arguments]
    return subprocess.run(
        command, env=environment, text=True, stderr=subprocess.PIPE, timeout=120, **options
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it is Linux's")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_output_that_is_full_is_one_line(data: Path, more: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = _started(data, "collections", *more, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write all of it: No space left on device; make space\n"


def test_an_output_of_few_characters_gets_the_others_written_out(data: Path) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done = _started(data, "collections", stdout=subprocess.PIPE, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "There are none yet. `rag-owl ingest NAME PATH\\u2026` makes one.\n"


def test_json_is_json_in_an_output_of_few_characters(data: Path, tmp_path: Path) -> None:
    (tmp_path / "über.txt").write_text("A text.")
    done = _started(data, "ingest", "c", str(tmp_path / "über.txt"), stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done = _started(data, "documents", "c", "--json", stdout=subprocess.PIPE, env=ascii_only)
    assert [each["name"] for each in json.loads(done.stdout)] == ["über.txt"]


def test_an_empty_path_is_not_this_folder(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = shell.run("ingest", "c", "")
    assert (status, err) == (1, "error: a path is empty; name a file or folder ('.' is this one)\n")


def test_the_version_is_said(shell: Shell) -> None:
    assert shell.run("--version") == (0, f"rag-owl {__version__}\n", "")
