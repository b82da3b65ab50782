"""`rag-owl eval` as a person or a script meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rag_owl.api.cli import main
from rag_owl.evaluation import dataset


class Shell:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        self._monkeypatch.setattr(sys, "argv", ["rag-owl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        written = self._capsys.readouterr()
        return int(stop.value.code or 0), written.out, written.err


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAG_OWL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RAG_OWL_TEXT_EMBEDDER", "hashing")
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "owls.txt").write_text("About owls\n\nThe boreal owl weighs about 120 grams.\n")
    rows: list[dict[str, Any]] = [
        {"question": "What does the boreal owl weigh?", "answers": ["about 120 grams"],
         "items": [{"document": "owls.txt", "start": 35, "end": 50}]},
        {"question": "Who is the mayor of Springfield?", "answers": []},
    ]  # fmt: skip
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    owl = Shell(monkeypatch, capsys)
    assert owl.run("ingest", "birds", tmp_path / "owls.txt")[0] == 0
    return owl


@pytest.mark.usefixtures("on_each_database")
def test_eval_and_replay(shell: Shell, tmp_path: Path) -> None:
    asked = ("eval", "q.jsonl", "--collection", "birds", "--model", "sentences", "--judge", "none")
    status, out, err = shell.run(*asked, "--out", "run")
    assert status == 0, err
    assert "Token F1" in out
    assert "recall@1 1.000" in out
    assert (tmp_path / "run" / "report.html").stat().st_size > 2_000
    status, out, err = shell.run(*asked, "--out", "run", "--json")
    assert status == 0, err
    report = json.loads(out)
    assert set(report["models"]) == {"sentences"}
    assert [each["id"] for each in report["questions"]] == ["line 1", "line 2"]
    assert report["models"]["sentences"]["citation_recall"] is None  # nobody judged
    status, out, err = shell.run("eval", "--replay", "--collection", "birds")
    assert status == 0, err
    assert "2 the same" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["q.jsonl"], "--collection"),
        ([], "give a file of questions"),
        (["nothing.jsonl", "--collection", "birds"], "there is no nothing.jsonl"),
        (["q.jsonl", "--collection", "fish"], "no collection 'fish'"),
        (["q.jsonl", "--collection", "birds", "--rate"], "--rate is for OwlEval"),
        (["q.jsonl", "--replay", "--collection", "birds"], "give no dataset"),
        (["--replay"], "--collection"),
        (["q.jsonl", "--collection", "birds", "--judge", "nobody"], "no judge 'nobody'"),
    ],
)
def test_mistakes_are_one_line(shell: Shell, arguments: list[str], said: str) -> None:
    status, out, err = shell.run("eval", *arguments)
    assert (status, out) == (1, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_the_sample_comes_with_questions(shell: Shell, tmp_path: Path) -> None:
    status, out, err = shell.run("sample", tmp_path / "sample", "--questions", tmp_path / "s.jsonl")
    assert status == 0, err
    assert f"rag-owl eval {tmp_path / 's.jsonl'} --images {tmp_path / 'sample'}" in out
    found = dataset.load(tmp_path / "s.jsonl", tmp_path / "sample")
    assert len(found.questions) > 2_000
    assert len(found.first(10)) == 10
    assert set(found.first(10)) < set(found.first(20))
    status, _, err = shell.run("sample", tmp_path / "sample", "--questions", tmp_path / "no" / "s")
    assert status == 1
    assert "cannot write" in err


def test_owleval_is_told_by_its_form(shell: Shell, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "1.jpg")
    row = {"image": "1.jpg", "question_id": 1, "question": "What is funny?", "ability": "a,b"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    status, _, err = shell.run("eval", tmp_path / "questions.jsonl", "--rate", "--out", "o")
    assert status == 1
    assert "holds no answers" in err
    status, out, err = shell.run(
        "eval", tmp_path / "questions.jsonl", "--model", "sentences", "--out", "o"
    )
    assert status == 0, err
    assert "sentences: 1 answers" in out
    report = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))
    assert set(report["answers"]["sentences"]) == {"1"}
