"""What evaluations are measured with in `benchmarks/`, at small size."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import abstention, distractors, multi_picture, validation
from benchmarks.quality.pictures import Group, Shelf
from benchmarks.reliability import evaluation
from rag_owl.blobs import FolderBlobs
from rag_owl.evaluation.journal import Journal
from rag_owl.model.nano.embedder import NanoPictureEmbedder
from rag_owl.types import Context, Draft


def groups(count: int = 12, pictures: int = 2) -> list[Group]:
    def tinted(n: int, shade: int) -> Image.Image:
        colour = tuple(random.Random(n).randrange(200) + shade for _ in range(3))
        return Image.new("RGB", (40, 30), colour)  # type: ignore[arg-type]

    return [
        Group(f"thing {n}", [tinted(n, 9 * shade) for shade in range(pictures)])
        for n in range(count)
    ]


class Perfect:
    """Reads off what is right; an answerer as the port has it."""

    name = "perfect"

    def __init__(self, wrong_at: int = -1) -> None:
        self._asked, self._wrong_at = 0, wrong_at
        self.seen: list[tuple[str, ...]] = []

    def answer(self, context: Context, on_text: object = None) -> Draft:
        self._asked += 1
        self.seen.append(tuple(s.item.picture or "" for s in context.sources))
        best = max(context.sources, key=lambda s: s.similarities["picture"]).item
        code = (best.text or "").removeprefix("Its code is ").rstrip(".")
        return Draft("Z1" if self._asked - 1 == self._wrong_at else f"{code} [1]")


def test_a_question_counts_when_all_four_variants_are_right(tmp_path: Path) -> None:
    asked = distractors.cases(groups(), count=2, most=8, query="class")
    again = distractors.cases(groups(), count=2, most=8, query="class")
    assert [case.name for case in asked] == [case.name for case in again]
    task = distractors.Find(NanoPictureEmbedder.load())
    put = Shelf(FolderBlobs(tmp_path / "blobs")).put
    model = Perfect(wrong_at=5)  # the second variant of the second question
    with Journal(tmp_path, {}) as journal:
        distractors.run(model, "perfect", task, asked, [0], put, journal)
        distractors.run(model, "perfect", task, asked, [0], put, journal)  # nothing is asked twice
        figures = distractors.summary(journal.rows, ["perfect"])["perfect"]
    assert len(model.seen) == 2 * distractors.VARIANTS
    assert (figures[0]["all_four"], figures[0]["single"]) == (0.5, 7 / 8)
    html = distractors.html(
        {"models": {"perfect": figures}, "task": "find", "questions": 2, "machine": "m"}
    )
    assert "<svg" in html
    assert "<script" not in html


def test_fewer_irrelevant_pictures_are_among_more_and_stand_in_another_order(
    tmp_path: Path,
) -> None:
    (case,) = distractors.cases(groups(), count=1, most=8, query="photograph")
    task = distractors.Find(NanoPictureEmbedder.load())
    put = Shelf(FolderBlobs(tmp_path / "blobs")).put

    def shown(count: int, variant: int) -> list[str]:
        context, right = task.ask(case, count, variant, put)
        holder = next(s for s in context.sources if right in (s.item.text or ""))
        assert holder.item.picture == put(case.shown)
        return [source.item.picture or "" for source in context.sources]

    assert set(shown(3, 0)) < set(shown(8, 0))
    assert set(shown(8, 0)) == set(shown(8, 1))
    assert len({tuple(shown(8, variant)) for variant in range(4)}) > 1
    assert len(shown(0, 0)) == 1


def test_options_rotate_and_only_the_letter_counts(tmp_path: Path) -> None:
    (case,) = distractors.cases(groups(), count=1, most=4, query="class")
    task = distractors.Choose()
    put = Shelf(FolderBlobs(tmp_path / "blobs")).put
    letters = set()
    for variant in range(distractors.VARIANTS):
        context, right = task.ask(case, 4, variant, put)
        at = next(n for n, s in enumerate(context.sources) if s.item.picture == put(case.shown))
        assert f"In Image {at + 1}," in context.question.text
        assert f"{right}. {case.name}" in context.question.text
        letters.add(right)
    assert letters == set("ABCD")
    assert task.is_right(Draft("B. thing 3"), "B")
    assert not task.is_right(Draft("A", abstained=True), "A")
    assert not task.is_right(Draft("Answer unknown"), "A")


def test_questions_over_several_pictures_have_the_answer_they_say() -> None:
    things = groups(pictures=3)  # one may stand among what is retrieved; two are told apart
    names = {id(picture): group.name for group in things for picture in group.pictures}
    rng = random.Random(1)
    for kind, numbers in multi_picture.KINDS.items():
        for n in numbers:
            case = multi_picture.make(kind, n, things, rng)
            seen = [names[id(picture)] for picture in case.pictures]
            assert len(seen) == n
            if kind == "same or different":
                assert (seen[0] == seen[1]) == (case.answer == "yes")
            elif kind == "which differs":
                assert seen.count(seen[int(case.answer) - 1]) == 1
                assert len(set(seen)) == 2
            elif kind == "same as the first":
                assert seen[int(case.answer) - 1] == seen[0]
                assert seen.count(seen[0]) == 2
            else:
                name = case.question.split(": ")[1].rstrip("?")
                assert seen.count(name) == int(case.answer)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("The third one.", True),
        ("Picture 3", True),
        ("three", True),
        ("The second or the third", False),
        ("I cannot tell.", False),
    ],
)
def test_the_only_number_counts(said: str, right: bool) -> None:
    case = multi_picture.Case("which differs", "?", [], "3", 0.25)
    assert multi_picture.is_right(Draft(said), case) == right
    assert not multi_picture.is_right(Draft(said, abstained=True), case)


def test_validation_questions_say_where_their_answers_stand(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    with gzip.open(tmp_path / "text" / "squad-train.jsonl.gz", "wt") as file:
        for title in range(50):
            for part in range(2):
                text = f"Éclair {title} has {part} owls. It is in town {title}{part}."
                answer = f"town {title}{part}"
                qa = {
                    "id": f"{title}-{part}", "question": "Where is it?", "answer": answer,
                    "start": text.index(answer), "occurrences": 1,
                }  # fmt: skip
                row = {"title": f"T/{title}", "context": text, "qas": [qa]}
                file.write(json.dumps(row) + "\n")
    path = validation.write(tmp_path, tmp_path / "out", count=20)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 20
    assert sum(not row["answers"] for row in rows) == 4
    texts = {each.name: each.read_text("utf-8") for each in (tmp_path / "out" / "texts").iterdir()}
    assert len(texts) == 16
    for row in rows:
        for place in row["items"]:
            assert texts[place["document"]][place["start"] : place["end"]] == row["answers"][0]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    course = evaluation.run(tmp_path, questions=12, kills=2, model="sentences", seed=3)
    assert (course.kills, course.answers, course.wrong) == (2, 12, [])


def test_what_tells_the_right_item_is_weighed_as_it_does() -> None:
    """Items drawn as the fit supposes: the right one with odds of score + 3 terms + 8 likeness."""
    rng = np.random.default_rng(0)
    kinds, signs, golds = [], [], []
    for at in range(1_500):
        x = np.stack([rng.normal(0, 2, 4), rng.random(4), rng.normal(0.5, 0.2, 4)], axis=1)
        odds = np.exp(x @ [1.0, 3.0, 8.0])
        gold = np.arange(4) == rng.choice(4, p=odds / odds.sum())
        if at % 2:  # none holds it
            x[:, 0] -= 6.0
            gold[:] = False
        kinds.append(("passages", "tables", "found")[at % 3])
        signs.append(x)
        golds.append(gold)
    fitted = abstention.fit(kinds, signs, golds)
    assert fitted["plain_terms"] == pytest.approx(3, rel=0.3)
    assert fitted["plain_alike"] == pytest.approx(8, rel=0.3)
    assert fitted["plain_slope"] > 0
    assert fitted["right_item_found"] > 0.6  # by score alone: a half
    assert fitted["roc_area_found"] > 0.9
