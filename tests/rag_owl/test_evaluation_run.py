"""Runs of an evaluation: what they hold, and that they go on where they were."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from rag_owl import RagOwl
from rag_owl.api.cli import app
from rag_owl.errors import Conflict, CorruptData, DataFolderError, InvalidInput, NotFound
from rag_owl.evaluation import dataset, page, replay, replay_page, run, summary
from rag_owl.evaluation.dataset import Asked
from rag_owl.evaluation.journal import FILE, Journal, read
from rag_owl.evaluation.places import Gold
from tests import databases

RIVERS = {
    "amur": "The Amur is a river in East Asia. It is 2,824 kilometres long.",
    "danube": "The Danube is a river in Europe. It is 2,850 kilometres long.",
    "volga": "The Volga is a river in Russia. It is 3,530 kilometres long.",
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "id": name,
            "question": f"How long is the {name.capitalize()}?",
            "answers": [text.split(" It is ")[1].removesuffix(" long.")],
            "items": [{"document": f"{name}.txt", "start": text.index("It is"), "end": len(text)}],
        }
        for name, text in RIVERS.items()
    ]
    none = {"id": "none", "question": "Who is the mayor of Atlantis City?", "answers": []}
    return write(tmp_path / "questions.jsonl", *rows, none)


@pytest.fixture(scope="module")
def rivers(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[RagOwl]:
    folder = tmp_path_factory.mktemp("rivers")
    for name, text in RIVERS.items():
        (folder / f"{name}.txt").write_text(text)
    with RagOwl.open(folder / "data") as owl:
        assert owl.ingest("rivers", [folder / f"{n}.txt" for n in RIVERS]).added == 3
        yield owl


# --- a report ---------------------------------------------------------------------------------


def test_two_models_side_by_side(rivers: RagOwl, questions: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    report = run.evaluate(
        rivers,
        dataset.load(questions),
        "rivers",
        ["owl-nano", "sentences"],
        tmp_path / "run",
        on_progress=lambda *step: steps.append(step),
    )
    assert list(report["models"]) == ["owl-nano", "sentences"]
    nano = report["models"]["owl-nano"]
    keys = ("f1", "exact_match", "recall", "mrr", "citation_recall", "citation_precision")
    for name in (*keys, "right_item", "abstention_auroc"):
        assert 0 <= nano[name] <= 1, name
        low, high = nano[f"{name}_interval"]
        assert low <= nano[name] + 1e-9
        assert nano[name] <= high + 1e-9
    assert nano["recall"] == 1.0  # three documents, all of them shown
    assert nano["pointing"] is None  # the dataset has no boxes
    assert nano["seconds_to_first_token"] > 0
    assert nano["peak_memory_bytes"] > 2**20
    assert report["judge"] == {"name": "owl-nano", "own_head_of": ["owl-nano"]}
    assert any("head of owl-nano itself" in note for note in report["notes"])
    assert not any("does not have" in note or "changed" in note for note in report["notes"])
    assert report["retrieval"]["fused"]["recall"]["5"] == 1.0
    compared = {each["measure"]: each for each in report["comparisons"]}
    assert compared["f1"]["models"] == ["owl-nano", "sentences"]
    assert "gold_citation_recall" in compared
    asked = {each["id"]: each for each in report["questions"]}
    each = [asked[name]["models"]["owl-nano"]["f1"] for name in ("amur", "danube", "volga")]
    assert sum(each) == pytest.approx(nano["f1"] * 3)
    assert steps[-1] == ("sentences", 4, 4)
    html = page.write(report)
    assert "<script" not in html
    assert "Compared, question by question" in html


def test_a_question_by_every_measure() -> None:
    """By hand: a citation of the right span, one of another document; half of the region."""
    right = {
        "document_id": "d", "document_name": "a.png", "item_id": "i", "marker": 1, "quote": None,
        "verdict": "supported",
        "location": {"type": "image_region", "box": [0.0, 0.0, 0.5, 1.0], "heatmap_url": None},
    }  # fmt: skip
    wrong = {**right, "document_id": "e", "document_name": "b.png"}
    row = {
        "question": "q", "model": "m", "answer": "x", "text": "Lima [1]", "short": None,
        "abstained": False, "answerable": 0.8, "generation": 1, "citations": [right, wrong],
        "sources": [wrong, right], "dangling": 0, "seconds": 2.0, "first_seconds": 1.0,
        "tokens": 5, "memory": 10, "gpu_memory": None, "version": 1,
        "alce": {"recall": 0.5, "precision": 0.25, "sentences": 2, "citations": 4, "unread": 0},
    }  # fmt: skip
    silent = {**row, "question": "r", "abstained": True, "answerable": 0.1, "alce": None}
    asked = [
        Asked("q", "?", (), ("Lima",), (Gold("a.png", box=(0.2, 0.2, 0.4, 0.6)),)),
        Asked("r", "?", (), (), ()),
    ]
    how = {"collection": "c", "k": 5, "judge": "none", "dataset": "d"}
    report = summary.summarise([row, silent], asked, ["m"], **how)  # type: ignore[arg-type]
    figures = report["models"]["m"]
    assert (figures["f1"], figures["exact_match"]) == (1.0, 1.0)  # the marker is no word
    assert figures["f1_with_unanswerable"] == 1.0
    assert (figures["recall"], figures["mrr"]) == (1.0, 0.5)
    assert (figures["citation_recall"], figures["citation_precision"]) == (0.5, 0.25)
    assert (figures["gold_citation_recall"], figures["gold_citation_precision"]) == (1.0, 0.5)
    assert figures["right_item"] == 1.0
    assert figures["pointing"] == 1.0  # (0.25, 0.5) lies in it
    assert figures["region_iou"] == pytest.approx(0.08 / 0.5)
    assert figures["abstention_auroc"] == 1.0
    assert figures["abstained_of_unanswerable"] == 1.0
    assert figures["seconds_per_token"] == pytest.approx(0.25)
    assert figures["risk_coverage"] == [[0.5, 0.0]]
    failed = {"question": "q", "model": "m", "error": "it broke", "version": 1}
    report = summary.summarise([failed, silent], asked, ["m"], **how)  # type: ignore[arg-type]
    figures = report["models"]["m"]
    assert (figures["f1"], figures["right_item"], figures["errors"]) == (0.0, 0.0, 1)
    assert figures["citation_recall"] is None
    assert any("it broke" in note for note in report["notes"])
    assert not any("changed" in note for note in report["notes"])
    report = summary.summarise([row, silent], asked, ["m"], version=2, **how)  # type: ignore[arg-type]
    assert any("2 of 2 answers are of an earlier state" in note for note in report["notes"])


def test_what_others_wrote_stays_text_on_the_page(
    rivers: RagOwl, questions: Path, tmp_path: Path
) -> None:
    hostile = "<script>alert(1)</script> [3] <img src=x>"
    write(questions, {"question": hostile, "answers": [hostile]})
    report = run.evaluate(
        rivers, dataset.load(questions), "rivers", ["sentences"], tmp_path / "run", judge="none"
    )
    html = page.write(report)
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


# --- going on --------------------------------------------------------------------------------


def test_a_run_goes_on_and_grows(rivers: RagOwl, questions: Path, tmp_path: Path) -> None:
    asked, folder = dataset.load(questions), tmp_path / "run"

    def evaluate(models: list[str], limit: int | None) -> dict[str, Any]:
        return run.evaluate(
            rivers, asked, "rivers", models, folder, limit=limit, judge="none"
        )  # fmt: skip

    first = evaluate(["sentences"], 2)
    lines = (folder / FILE).read_bytes()
    assert evaluate(["sentences"], 2)["models"] == first["models"]
    assert (folder / FILE).read_bytes() == lines  # nothing was asked again
    chosen = {each["id"] for each in first["questions"]}
    more = evaluate(["sentences", "owl-nano"], 3)
    assert chosen < {each["id"] for each in more["questions"]}
    before = {e["id"]: e["models"]["sentences"]["answer"] for e in first["questions"]}
    after = {e["id"]: e["models"]["sentences"]["answer"] for e in more["questions"]}
    assert {name: after[name] for name in before} == before
    with pytest.raises(Conflict, match="judge"):
        run.evaluate(rivers, asked, "rivers", ["sentences"], folder, judge="owl-nano")


def test_a_state_tells_models_settings_and_judges_apart(rivers: RagOwl) -> None:
    state = rivers.models.state_of
    assert state("sentences") == state("sentences")
    with RagOwl.open(rivers.folder, work_jobs=False, features_storage="int8") as other:
        states = [
            state("sentences"),
            state("mPLUG/a"),
            state("mPLUG/b"),
            state("sentences", "none"),
        ]
        states.append(other.models.state_of("sentences"))
    assert len(set(states)) == len(states)


def test_what_was_said_under_other_settings_is_asked_again(
    rivers: RagOwl, questions: Path, tmp_path: Path
) -> None:
    row = {"question": "How long is the Volga?", "answers": ["3,530 kilometres"]}
    write(questions, {**row, "items": [{"document": "volga.txt"}, {"document": "nile.txt"}]})
    asked, folder = dataset.load(questions), tmp_path / "run"

    def evaluate(owl: RagOwl) -> dict[str, Any]:
        return run.evaluate(owl, asked, "rivers", ["sentences"], folder, judge="none")

    first = evaluate(rivers)
    assert first["models"]["sentences"]["abstained"] == 0.0
    assert any("1 document that the collection does not have, as 'nile.txt'" in note
               for note in first["notes"])  # fmt: skip
    with RagOwl.open(rivers.folder, abstain_below=1.0) as strict:
        assert evaluate(strict)["models"]["sentences"]["abstained"] == 1.0
        lines = (folder / FILE).read_bytes()
        assert evaluate(strict)["models"]["sentences"]["abstained"] == 1.0
        assert (folder / FILE).read_bytes() == lines
    assert evaluate(rivers)["models"]["sentences"]["abstained"] == 0.0


def test_what_failed_is_asked_again(rivers: RagOwl, questions: Path, tmp_path: Path) -> None:
    picture = tmp_path / "broken.png"
    picture.write_bytes(b"no picture")
    write(
        questions,
        {"id": "q", "question": "What is it?", "answers": ["a"], "images": [picture.name]},
    )
    asked, folder = dataset.load(questions), tmp_path / "run"
    report = run.evaluate(rivers, asked, "rivers", ["sentences"], folder, judge="none")
    assert "broken.png" in report["questions"][0]["models"]["sentences"]["error"]
    Image.new("RGB", (40, 30), "red").save(picture)
    report = run.evaluate(rivers, asked, "rivers", ["sentences"], folder, judge="none")
    assert report["models"]["sentences"]["errors"] == 0


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    with Journal(tmp_path, {"a": 1}) as journal:
        journal.append({"n": 1})
        journal.append({"n": 2})
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with Journal(tmp_path, {"a": 1}) as journal:
        assert journal.rows == [{"n": 1}]
        journal.append({"n": 2})
    assert path.read_bytes() == whole
    with pytest.raises(Conflict, match="another evaluation"):
        Journal(tmp_path, {"a": 2})
    with Journal(tmp_path, {"a": 1}), pytest.raises(Conflict, match="another process"):
        Journal(tmp_path, {"a": 1})
    path.write_bytes(b'{"run": {"a": 1}}\n{"n": \n')
    with pytest.raises(CorruptData, match="line 2"):
        Journal(tmp_path, {"a": 1})
    path.write_bytes(b"")  # killed before the first line
    with Journal(tmp_path, {"a": 1}) as journal:
        assert journal.rows == []


def test_a_full_disk_leaves_what_was_kept(tmp_path: Path) -> None:
    with Journal(tmp_path, {"a": 1}) as journal:
        journal.append({"n": 1})
        kept = journal.path.read_bytes()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 20, before[1]))
        try:
            with pytest.raises(DataFolderError, match="--out"):
                journal.append({"n": "2" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert journal.path.read_bytes() == kept
        journal.append({"n": 2})
        assert read(journal.path)[1:] == [{"n": 1}, {"n": 2}]


def test_a_killed_run_goes_on_where_it_was(rivers: RagOwl, questions: Path, tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "question": f"How long is the {name} {n}?", "answers": ["2,824"]}
        for n in range(10)
        for name in ["Amur"]
    ]
    write(questions, *rows)
    folder = tmp_path / "run"
    arguments = list(map(str, [
        "eval", questions, "--collection", "rivers", "--data", rivers.folder,
        "--model", "sentences", "--judge", "none", "--json", "--out", folder,
    ]))  # fmt: skip
    command = str(Path(sys.executable).with_name("rag-owl"))
    process = subprocess.Popen(
        [command, *arguments],
        stdout=subprocess.DEVNULL,
        env=databases.environment(rivers.folder),
    )
    while process.poll() is None and _lines(folder / FILE) < 4:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = read(folder / FILE)
    assert 4 <= len(kept) <= len(rows) + 1  # the first line says what the run is
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert read(folder / FILE)[: len(kept)] == kept
    answers = [r["answer"] for r in read(folder / FILE)[1:]]
    assert len(answers) == len(rows)  # none twice
    assert report["models"]["sentences"]["questions"] == len(rows)
    assert json.loads((folder / "report.json").read_text("utf-8")) == report


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# --- datasets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "line 1: no JSON"),
        (b"[]", "expected an object"),
        (b'{"question": "a"}', "no 'answers'"),
        (b'{"question": " ", "answers": []}', "'question' is empty"),
        (b'{"question": "a", "answers": null}', "no 'answers'"),
        (b'{"question": "a", "answers": "b"}', "'answers' is a list of texts"),
        (b'{"question": "a", "answers": ["b", " "]}', "one of 'answers' is empty"),
        (b'{"id": 1.5, "question": "a", "answers": []}', "a text or a whole number"),
        (b'{"question": "a", "answers": [], "images": ["no.png"]}', "no picture"),
        (b'{"question": "a", "answers": [], "image": "a.png"}', "'image' is called 'images'"),
        (b'{"question": "a", "answers": [], "items": [{}]}', "names a 'document'"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "start": "1"}]}', "number"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "start": 9, "end": 0}]}',
         "'start' of an item lies behind its 'end'"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "start": 9}]}',
         "'start' and 'end', or neither"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "start": -1, "end": 2}]}',
         "a number from 0 to 2"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "start": 1.5, "end": 2}]}',
         "whole number"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "page": 0}]}',
         "a number from 1 to 2"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "start_seconds": NaN, '
         b'"end_seconds": 2}]}', "'start_seconds' of an item is a number"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "start": 0, "end": 1'
         + b"0" * 400 + b"}]}", "'end' of an item"),
        (b'{"question": "a", "answers": [], "items": [{"document": "d", "box": [1, 0, 0, 1]}]}',
         "'box'"),
        (b'{"question": "\xff", "answers": []}', "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"id": 1, "question": "a", "answers": []}\n{"id": 1, "question": "b", "answers": []}',
         "stands in line 1 too"),
        (b"\n", "holds no question"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(line)
    with pytest.raises(InvalidInput, match=said):
        dataset.load(path)


def test_unknown_collections_and_models_end_it_before_any_question(
    rivers: RagOwl, questions: Path, tmp_path: Path
) -> None:
    asked = dataset.load(questions)
    with pytest.raises(NotFound, match="no collection 'nowhere'"):
        run.evaluate(rivers, asked, "nowhere", ["sentences"], tmp_path / "a", judge="none")
    with pytest.raises(Exception, match="no answering model 'sentense'"):
        run.evaluate(rivers, asked, "rivers", ["sentense"], tmp_path / "b", judge="none")
    with pytest.raises(InvalidInput, match="twice"):
        run.evaluate(rivers, asked, "rivers", ["sentences"] * 2, tmp_path / "c", judge="none")


# --- asked again ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_each_database")
def test_replay_lists_what_changed_with_both_evidences(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in RIVERS.items():
        (texts / f"{name}.txt").write_text(text)
    with RagOwl.open(tmp_path / "data") as owl:
        owl.ingest("rivers", [texts])
        for name in ("Amur", "Danube", "Amur"):
            owl.ask("rivers", f"How long is the {name}?", model="sentences")
        (texts / "amur.txt").write_text(RIVERS["amur"].replace("2,824", "2,825"))
        owl.ingest("rivers", [texts])
        folder = tmp_path / "again"
        report = replay.replay(owl, "rivers", folder)
        assert (report["asked"], report["counts"]) == (
            2,
            {"other answer": 1, "shown other items": 1},
        )
        changed = next(each for each in report["changed"] if each["kind"] == "other answer")
        assert "2,824" in changed["before"]["evidence"][0]["quote"]
        assert "2,825" in changed["now"]["evidence"][0]["quote"]
        assert changed["changes"]["cited"]["removed"]
        lines = (folder / FILE).read_bytes()
        assert replay.replay(owl, "rivers", folder) == report  # the same run, done
        assert (folder / FILE).read_bytes() == lines
        other = replay.replay(owl, "rivers", tmp_path / "nano", model="owl-nano", limit=1)
        assert other["changed"][0]["now"]["model"] == "owl-nano"
        assert other["asked"] == 1
        other = replay.replay(owl, "rivers", tmp_path / "nano", model="owl-nano")
        assert other["asked"] == 2  # the limit is that of now
        html = replay_page.write(report)
        assert "2,825" in html
        assert "(only here)" in html
        (texts / "amur.txt").write_text(RIVERS["amur"].replace("2,824", "2,826"))
        owl.ingest("rivers", [texts])
        later = replay.replay(owl, "rivers", folder)  # of another state: asked again
        changed = next(each for each in later["changed"] if each["kind"] == "other answer")
        assert "2,826" in changed["now"]["evidence"][0]["quote"]
        owl.ingest("empty", [texts / "volga.txt"])
        with pytest.raises(InvalidInput, match="no question was asked"):
            replay.replay(owl, "empty", tmp_path / "empty")
