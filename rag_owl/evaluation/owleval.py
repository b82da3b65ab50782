"""OwlEval: 82 open questions about 50 pictures, for people to rate answers A to D.

Ye et al. 2023, "mPLUG-Owl", section 4; its files are published with that project's code and are
not ours to bring: `questions.jsonl` (`image`, `question_id`, `question`, `ability`, `category` or
`type`), pictures in `cases/`, and per model `answer/*.jsonl` with `answer` and `model_id`.

A question whose category is "multi_turn" alone follows the questions before it on its picture.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl.errors import InvalidInput, ModelError, RagOwlError
from rag_owl.evaluation.dataset import json_lines
from rag_owl.evaluation.journal import Journal
from rag_owl.evaluation.run import MOST_FAILURES, Progress
from rag_owl.types import Context, Question, Turn

if TYPE_CHECKING:
    from rag_owl.client import RagOwl

ABILITIES = {
    "a": "instruction understanding",
    "b": "visual understanding",
    "c": "optical character recognition",
    "d": "knowledge transfer",
    "e": "reasoning",
    "f": "multi-turn dialogue",
}
QUESTIONS = "questions.jsonl"


@dataclass(frozen=True, slots=True)
class OwlQuestion:
    id: int
    question: str
    image: Path
    abilities: tuple[str, ...]  # letters of ABILITIES
    follows: tuple[int, ...]  # questions on the same picture that it goes on from, oldest first


def is_owleval(path: Path) -> bool:
    """Whether a folder or file holds questions of this kind, by its first line."""
    file = path / QUESTIONS if path.is_dir() else path
    if not file.is_file():
        return False
    for _, row in json_lines(file):
        return "image" in row and "question_id" in row
    return False


def load(path: Path, images: Path | None = None) -> tuple[list[OwlQuestion], str]:
    """The questions of a folder or file, and their sha256. Raises `InvalidInput`."""
    file = path / QUESTIONS if path.is_dir() else path
    folder = images or _folder_of(file.parent)
    questions: list[OwlQuestion] = []
    on_picture: dict[str, list[int]] = {}
    for number, row in json_lines(file):
        where = f"{file}, line {number}"
        name, identifier, question = (row.get(k) for k in ("image", "question_id", "question"))
        if not isinstance(name, str) or not isinstance(question, str) or not question.strip():
            raise InvalidInput(f"{where}: 'image' and 'question' are texts")
        if isinstance(identifier, bool) or not isinstance(identifier, int):
            raise InvalidInput(f"{where}: 'question_id' is a whole number")
        if any(identifier == each.id for each in questions):
            raise InvalidInput(f"{where}: question {identifier} stands there twice")
        image = folder / name
        if not image.is_file():
            raise InvalidInput(f"{where}: there is no picture {image}; --images names its folder")
        before = on_picture.setdefault(name, [])
        kinds = [str(kind).strip("[]") for kind in row.get("category") or row.get("type") or []]
        goes_on = bool(kinds) and all(kind.startswith("multi") for kind in kinds)
        letters = [part.strip() for part in str(row.get("ability") or "").split(",")]
        questions.append(
            OwlQuestion(
                identifier,
                question,
                image,
                tuple(letter for letter in letters if letter in ABILITIES),
                tuple(before) if goes_on else (),
            )
        )
        before.append(identifier)
    if not questions:
        raise InvalidInput(f"{file} holds no question")
    return questions, hashlib.sha256(file.read_bytes()).hexdigest()


def _folder_of(folder: Path) -> Path:
    cases = folder / "cases"
    return cases if cases.is_dir() else folder


def published(paths: Sequence[Path], questions: Sequence[OwlQuestion]) -> dict[str, dict[int, str]]:
    """Answers that others published, by model and question; questions: all there are. Raises
    `InvalidInput`."""
    known = {each.id for each in questions}
    found: dict[str, dict[int, str]] = {}
    for path in paths:
        for number, row in json_lines(path):
            identifier, answer = row.get("question_id"), row.get("answer")
            if identifier not in known or not isinstance(answer, str):
                raise InvalidInput(
                    f"{path}, line {number}: expected an 'answer' to one of the questions"
                )
            found.setdefault(str(row.get("model_id") or path.stem), {})[identifier] = answer
    return found


def answer_all(
    owl: RagOwl,
    questions: Sequence[OwlQuestion],
    digest: str,
    models: Sequence[str],
    folder: Path,
    *,
    collection: str | None = None,
    others: Mapping[str, Mapping[int, str]] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, dict[int, str]]:
    """Ask every model every question -> answers by model and question; kept in `folder`.

    collection: where evidence is looked for; None: the model is shown the picture alone. others:
    published answers, kept beside. A stopped run goes on where it was. Raises as `evaluate` does.
    """
    follow = on_progress or (lambda what, done, total: None)
    about = {"format": 1, "owleval": digest, "collection": collection}
    with Journal(folder, about) as journal:
        rows = {(r["model"], r["question"]): r for r in journal.rows if "text" in r}
        for name, answers in (others or {}).items():
            for identifier, text in answers.items():
                if (name, identifier) not in rows:
                    row = {"model": name, "question": identifier, "text": text, "published": True}
                    journal.append(row)
                    rows[name, identifier] = row
        for name in models:
            owl.models.answerer(name)
            failures = 0
            for number, each in enumerate(questions):
                follow(name, number, len(questions))
                if (name, each.id) in rows:
                    continue
                turns = [rows[name, i] for i in each.follows if (name, i) in rows]
                try:
                    row = _answer(owl, name, each, collection, turns)
                except (InvalidInput, ModelError) as error:
                    journal.append({"model": name, "question": each.id, "error": str(error)})
                    failures += 1
                    if failures == MOST_FAILURES:
                        raise RagOwlError(f"{name} failed {failures} times: {error}") from error
                    continue
                failures = 0
                journal.append(row)
                rows[name, each.id] = row
            follow(name, len(questions), len(questions))
    return answers_in(list(rows.values()))


def answers_in(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for row in rows:
        if "text" in row:
            found.setdefault(row["model"], {})[row["question"]] = row["text"]
    return found


def _answer(
    owl: RagOwl,
    model: str,
    asked: OwlQuestion,
    collection: str | None,
    turns: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    history = tuple(
        Turn(t["asked"], t["asked"], t["text"], pictures=tuple(t["pictures"])) for t in turns
    )
    start = time.perf_counter()
    if collection is not None:
        answer = owl.ask(collection, asked.question, [asked.image], model=model, history=history)
        text, abstained, pictures = answer.text, answer.abstained, answer.pictures
    else:
        pictures = owl.keep_pictures([asked.image])
        question = Question("", asked.question, pictures, history=history)
        draft = owl.models.answerer(model).answer(Context(question, ()))
        text, abstained = draft.text, draft.abstained
    return {
        "model": model,
        "question": asked.id,
        "asked": asked.question,
        "pictures": list(pictures),
        "text": text,
        "abstained": abstained,
        "seconds": time.perf_counter() - start,
    }
