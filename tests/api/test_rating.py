"""OwlEval: loading it, asking it, and rating answers on a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from rag_owl import RagOwl
from rag_owl.api.cli import app
from rag_owl.api.rating import Rating
from rag_owl.errors import InvalidInput
from rag_owl.evaluation import owleval
from rag_owl.evaluation.ratings import Ratings, blind_order, stored, summary

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def owleval_folder(tmp_path: Path) -> Path:
    """In the form of the published files, with their quirks."""
    folder = tmp_path / "OwlEval"
    (folder / "cases").mkdir(parents=True)
    for name, colour in (("1.jpg", "red"), ("2.jpg", "blue")):
        Image.new("RGB", (60, 40), colour).save(folder / "cases" / name)
    write(
        folder / "questions.jsonl",
        {"image": "1.jpg", "question_id": 1, "question": "What is funny?", "ability": "a,b,e",
         "category": ["]single_turn"]},
        {"image": "2.jpg", "question_id": 2, "question": "Where is it?", "ability": "a,b",
         "category": ["single_turn", "multi_turn"]},
        {"image": "2.jpg", "question_id": 3, "question": "And why?", "ability": "a,f",
         "category": ["multi_turn"]},
    )  # fmt: skip
    return folder


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_published_form_is_read(owleval_folder: Path, tmp_path: Path) -> None:
    assert owleval.is_owleval(owleval_folder)
    questions, digest = owleval.load(owleval_folder)
    assert [each.id for each in questions] == [1, 2, 3]
    assert [each.follows for each in questions] == [(), (), (2,)]
    assert questions[0].abilities == ("a", "b", "e")
    assert len(digest) == 64
    ours = write(tmp_path / "q.jsonl", {"question": "a", "answers": []})
    assert not owleval.is_owleval(ours)
    (owleval_folder / "cases" / "2.jpg").unlink()
    with pytest.raises(InvalidInput, match="line 2: there is no picture"):
        owleval.load(owleval_folder)


def test_answers_are_asked_once_and_published_ones_stand_beside(
    owleval_folder: Path, tmp_path: Path
) -> None:
    questions, digest = owleval.load(owleval_folder)
    beside = write(
        tmp_path / "llava.jsonl",
        {"question_id": 1, "answer": HOSTILE, "model_id": "llava"},
        {"question_id": 3, "answer": "Because.", "model_id": "llava"},
    )
    others = owleval.published([beside], questions)
    folder = tmp_path / "run"
    with RagOwl.open(tmp_path / "data") as owl:
        found = owleval.answer_all(owl, questions, digest, ["owl-nano"], folder, others=others)
        lines = (folder / "answers.jsonl").read_bytes()
        assert owleval.answer_all(owl, questions, digest, ["owl-nano"], folder) == found
    assert (folder / "answers.jsonl").read_bytes() == lines
    assert set(found) == {"owl-nano", "llava"}
    assert set(found["owl-nano"]) == {1, 2, 3}
    assert found["llava"] == {1: HOSTILE, 3: "Because."}
    with pytest.raises(InvalidInput, match="line 1: expected an 'answer'"):
        owleval.published([write(beside, {"question_id": 99, "answer": "x"})], questions)


ANSWERS = {"one": {1: HOSTILE, 2: "Here.", 3: "So."}, "two": {1: "A joke.", 2: "There."}}


@pytest.fixture
def site(owleval_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    questions, digest = owleval.load(owleval_folder)
    with Ratings(tmp_path / "run", digest) as ratings:
        app = Rating(questions, ANSWERS, ratings).app()
        yield TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)


def rate(site: TestClient, at: int, **chosen: str) -> int:
    form = {name.removeprefix("n"): letter for name, letter in chosen.items()}
    headers = {"Origin": "http://127.0.0.1"}
    return int(site.post(f"/{at}", data=form, headers=headers).status_code)


def test_rating_side_by_side(site: TestClient, tmp_path: Path) -> None:
    assert site.get("/").headers["location"] == "/0"
    page = site.get("/0")
    assert "What is funny?" in page.text
    assert "A joke." in page.text
    assert "<script" not in page.text  # answers stay text
    assert "one" not in page.text.split("<body>")[1].split("<fieldset>")[1].split("<label>")[0]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert site.get("/picture/0").headers["content-type"] == "image/jpeg"
    assert rate(site, 0, n0="A", n1="C") == 303
    order = blind_order(1, ["one", "two"])
    given = stored(tmp_path / "run")
    assert given == {(1, order[0]): "A", (1, order[1]): "C"}
    assert site.get("/").headers["location"] == "/1"
    assert rate(site, 0, n0="B") == 303  # thought again
    assert stored(tmp_path / "run")[1, order[0]] == "B"
    assert "And why?" in site.get("/2").text
    assert "Where is it?" in site.get("/2").text  # asked before
    figures = site.get("/results.json").json()["models"][order[0]]
    assert (figures["rated"], figures["A"], figures["B"]) == (1, 0, 1)
    assert figures["by_ability"]["reasoning"]["B"] == 1
    assert "two" in site.get("/results").text
    assert site.get("/99").status_code == 404
    assert site.get("/picture/99").status_code == 404


def test_only_this_page_can_rate(site: TestClient, tmp_path: Path) -> None:
    form = {"0": "A"}
    assert site.post("/0", data=form).status_code == 403
    assert site.post("/0", data=form, headers={"Origin": "http://evil.example"}).status_code == 403
    assert site.get("/0", headers={"Host": "evil.example"}).status_code == 400
    assert rate(site, 0, n0="E") == 400
    large = {"0": "A" * 100_000}
    assert site.post("/0", data=large, headers={"Origin": "http://127.0.0.1"}).status_code == 413
    assert stored(tmp_path / "run") == {}


def test_fewer_questions_can_be_asked_beside_all_published_answers(
    owleval_folder: Path, tmp_path: Path
) -> None:
    others = write(
        tmp_path / "llava.jsonl", *({"question_id": n, "answer": f"no {n}"} for n in (1, 2, 3))
    )
    asked = ["eval", str(owleval_folder), "--limit", "1", "--answers", str(others), "--json"]
    where = ["--out", str(tmp_path / "run"), "--data", str(tmp_path / "data")]
    where += ["--model", "owl-nano"]
    done = CliRunner().invoke(app, [*asked, *where])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["questions"] == 1
    assert list(report["answers"]["owl-nano"]) == ["1"]


def test_every_model_stands_first_sometimes(owleval_folder: Path) -> None:
    firsts = {blind_order(number, ["a", "b"])[0] for number in range(20)}
    assert firsts == {"a", "b"}
    questions, _ = owleval.load(owleval_folder)
    assert summary({}, ANSWERS, questions)["models"]["two"]["answers"] == 2
