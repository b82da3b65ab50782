"""The command line as a person or a script meets it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from rag_owl import RagOwl
from tests.shell import Shell


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Shell:
    return Shell(monkeypatch, capsys, tmp_path / "data")


@pytest.fixture
def owls(tmp_path: Path) -> Path:
    path = tmp_path / "owls.txt"
    path.write_text("About owls\n\nThe boreal owl weighs about 120 grams.\n")
    return path


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a collection of that name, for what leaves it as it is."""
    folder = tmp_path_factory.mktemp("birds")
    (folder / "owls.txt").write_text("The boreal owl weighs about 120 grams.")
    with RagOwl.open(folder / "data", text_embedder="hashing") as owl:
        owl.ingest("birds", [folder / "owls.txt"])
    return folder / "data"


@pytest.mark.usefixtures("on_each_database")
def test_ingest_search_ask_for_people(shell: Shell, owls: Path) -> None:
    status, out, _ = shell.run("ingest", "birds", owls)
    assert status == 0
    assert "birds: 1 added" in out
    assert "Nothing has changed" in shell.run("ingest", "birds", owls)[1]
    status, out, _ = shell.run("search", "birds", "boreal owl", "-k", "3")
    assert "owls.txt, characters" in out
    status, out, _ = shell.run("ask", "birds", "How much does the boreal owl weigh?")
    assert status == 0
    assert out.startswith("The boreal owl weighs about 120 grams. [1]")
    assert "supported" in out
    assert "birds  1 documents, 1 items" in shell.run("collections")[1]


@pytest.mark.usefixtures("on_each_database")
def test_json_is_all_that_standard_output_holds(shell: Shell, owls: Path) -> None:
    job = shell.json("ingest", "birds", owls)
    assert (job["state"], job["added"], job["skipped"]) == ("done", 1, [])
    (hit,) = shell.json("search", "birds", "boreal owl")
    assert hit["channels"] == ["text", "words"]
    answer = shell.json("ask", "birds", "How much does the boreal owl weigh?")
    (citation,) = answer["citations"]
    assert citation["quote"] == "The boreal owl weighs about 120 grams."
    assert citation["location"]["type"] == "text"
    assert citation["support"]["verdict"] == "supported"
    assert citation["source"]["item_id"] == hit["item"]["id"]
    (info,) = shell.json("collections")
    assert info["documents"] == 1
    assert [each["id"] for each in shell.json("jobs")] == [job["id"]]
    both = shell.json("ask", "birds", "Owls?", "--model", "sentences", "--model", "sentences")
    assert len(both) == 2


@pytest.mark.usefixtures("on_each_database")
def test_an_answer_is_shown_again(shell: Shell, owls: Path) -> None:
    shell.run("ingest", "birds", owls)
    given = shell.run("ask", "birds", "How much does the boreal owl weigh?")[1]
    name, identity = given.splitlines()[-1].split()
    assert name == "answer"
    status, again, _ = shell.run("answer", identity)
    assert status == 0
    assert again == f"▸ How much does the boreal owl weigh?\n{given}"
    asked = shell.json("ask", "birds", "How much does the boreal owl weigh?")
    assert shell.json("answer", asked["id"]) == asked


@pytest.mark.usefixtures("on_each_database")
def test_no_wait_prints_the_job_that_a_later_command_finishes(shell: Shell, owls: Path) -> None:
    status, out, _ = shell.run("ingest", "birds", owls, "--no-wait")
    assert status == 0
    job = shell.json("jobs", out.strip())
    assert job["id"] == out.strip()
    shell.run("ingest", "birds", owls)
    assert shell.json("jobs", job["id"])["state"] == "done"


@pytest.mark.usefixtures("on_each_database")
def test_skipped_files_are_listed_and_the_exit_is_good(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.txt").write_text("A good text.")
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    status, out, _ = shell.run("ingest", "mixed", tmp_path / "in")
    assert status == 0
    assert "1 added, 1 skipped" in out
    assert "skipped bad.png: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "nowhere", "What?"], "no collection 'nowhere'; there are none yet."),
        (["ask", "birds", ""], "the question is empty"),
        (["ask", "birds", "What?", "--image", "BROKEN"], "broken.png: "),
        (["ask", "birds", "What?", "--image", "/no/such.png"], "there is no such file"),
        (["ask", "birds", "What?", "--model", "gpt"], "no answering model 'gpt'"),
        (["ask", "birds", "What?", "--filter", "{"], "--filter is not JSON"),
        (["search", "birds", "x", "--filter", '{"field": 1}'], "'field' (a text)"),
        (["search", "birds", "x", "--filter", '{"not":' * 99_999], "nested too deep"),
        (["search", "birds", "x", "--filter", '{"not":' * 400 + "{}" + "}" * 400], "nested"),
        (["search", "birds", "x", "--filter", "[" + "1" * 9_999 + "]"], "--filter is not JSON"),
        (["search", "birds", "x", "-k", "9" * 20], "k is too large: give 1 to 400"),
        (["search", "birds", "x", "--image", "/dev/zero"], "it is not a file"),
        (["answer", "noanswer"], "no answer 'noanswer'"),
        (["answer", "\udcff"], "no answer '\\udcff'"),
        (["jobs", "\udcff"], "no job '\\udcff'"),
        (["jobs", "\udcff", "--cancel"], "no job '\\udcff'"),
        (["search", "birds", "\udcff"], "lone surrogate"),
        (["ingest", "Bad Name", "x"], "cannot name a collection"),
        (["jobs", "nojob"], "no job 'nojob'"),
    ],
)
def test_bad_input_is_one_line_and_a_bad_exit(
    shell: Shell,
    birds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"GIF89a")
    if "birds" in arguments:
        monkeypatch.setenv("RAG_OWL_DATA", str(birds))
    status, out, err = shell.run(*[str(broken) if a == "BROKEN" else a for a in arguments])
    assert status == 1
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_the_unexpected_is_one_line_too(
    shell: Shell, owls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that somebody dropped: nobody wrote a message for that."""
    shell.run("ingest", "birds", owls)
    with sqlite3.connect(tmp_path / "data" / "rag_owl.db") as database:
        database.execute("DROP TABLE answers")
    database.close()
    status, out, err = shell.run("answer", "1")
    assert (status, out) == (1, "")
    assert err.startswith("error: unexpected OperationalError: ")
    assert err.count("\n") == 1
    monkeypatch.setenv("RAG_OWL_DEBUG", "1")
    status, out, err = shell.run("answer", "1")
    assert (status, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: unexpected OperationalError: ")


def test_an_unknown_setting_or_option_stops_the_start(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell.run("ask", "--colour")[0] == 2
    monkeypatch.setenv("RAG_OWL_MODDEL", "x")
    status, _, err = shell.run("collections")
    assert status == 1
    assert "RAG_OWL_MODDEL; did you mean RAG_OWL_MODEL" in err


def test_a_data_folder_that_cannot_be_used(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = shell.run("collections", "--data", tmp_path / "file" / "data")
    assert status == 1
    assert "choose another with --data" in err.lower()


@pytest.mark.usefixtures("on_each_database")
def test_names_and_texts_cannot_drive_the_terminal(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "a[bold]b\x1b[31m.txt"
    path.write_text("The \x1b]0;owned\x07 owl [red]is[/red] here." + " No more is said." * 20)
    shell.run("ingest", "odd", path)
    out = shell.run("search", "odd", "owl")[1] + shell.run("ask", "odd", "Is the owl here?")[1]
    assert "\x1b" not in out
    assert "[red]is[/red]" in out


@pytest.mark.usefixtures("on_each_database")
def test_doctor_says_what_works(shell: Shell, owls: Path) -> None:
    shell.run("ingest", "birds", owls)
    findings = shell.json("doctor", "--deep")
    assert all(finding["well"] for finding in findings)
    named = {finding["what"]: finding["detail"] for finding in findings}
    assert "1 collections, 1 documents" in named["database"]
    assert "torch" in named["packages"]


@pytest.mark.usefixtures("on_each_database")
def test_doctor_makes_a_damaged_segment_again(shell: Shell, owls: Path, tmp_path: Path) -> None:
    shell.run("ingest", "birds", owls)
    (index,) = (tmp_path / "data" / "segments").glob("*/index.faiss")
    damaged = bytearray(index.read_bytes())
    damaged[-1] ^= 1
    index.write_bytes(damaged)
    assert shell.run("doctor")[0] == 0
    status, out, _ = shell.run("doctor", "--deep")
    assert status == 0
    assert "1 damaged ones were made again" in out
    assert shell.json("search", "birds", "boreal owl")[0]["channels"] == ["text", "words"]


def test_sample_writes_plain_files(shell: Shell, tmp_path: Path) -> None:
    assert "rag-owl ingest flags" in shell.run("sample", tmp_path / "s")[1]
    assert (tmp_path / "s" / "ivory-coast.txt").read_text().startswith("Ivory Coast\n")
    with Image.open(tmp_path / "s" / "japan.png") as flag:
        assert flag.width == 480


@pytest.mark.parametrize(
    "command",
    ["", "sample", "ingest", "search", "ask", "answer", "collections", "jobs", "doctor", "demo"],
)
def test_every_command_explains_itself(shell: Shell, command: str) -> None:
    status, out, _ = shell.run(*([command] if command else []), "--help")
    assert status == 0
    assert "Usage:" in out
