"""Questions with their answers, as JSONL: the format that evaluation and training share.

    {"id": "…", "question": "…", "images": ["path"], "answers": ["…"],
     "items": [{"document": "name or id", "start": 0, "end": 9}]}

Only `question` and `answers` are required; empty `answers` mean that the collection cannot answer.
Image paths are relative to the file. An item may also have `page` (from 1), `box` ([left, top,
right, bottom], fractions), `start_seconds` and `end_seconds`; a start and its end come together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_owl.errors import InvalidInput
from rag_owl.evaluation.places import Gold

_LARGEST = 2**53  # of a place


@dataclass(frozen=True, slots=True)
class Asked:
    id: str
    question: str
    images: tuple[Path, ...]
    answers: tuple[str, ...]  # empty: the collection cannot answer
    items: tuple[Gold, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    path: Path
    sha256: str  # of the file
    questions: tuple[Asked, ...]

    def first(self, limit: int | None) -> tuple[Asked, ...]:
        """`limit` questions, drawn in an order that depends on their ids alone.

        Fewer are always among more, so that a run can be made longer; None: all, in file order.
        """
        if limit is None or limit >= len(self.questions):
            return self.questions
        drawn = sorted(
            self.questions,
            key=lambda asked: hashlib.sha256(asked.id.encode("utf-8", "surrogatepass")).digest(),
        )
        chosen = {asked.id for asked in drawn[:limit]}
        return tuple(asked for asked in self.questions if asked.id in chosen)


def load(path: Path, images: Path | None = None) -> Dataset:
    """images: the folder that image paths are relative to; None: the dataset's own.

    Raises `InvalidInput` that names the line and what is wrong with it.
    """
    digest = hashlib.sha256()
    questions: list[Asked] = []
    seen: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                digest.update(line)
                if not line.strip():
                    continue
                asked = _parse(line, f"{path}, line {number}", number, images or path.parent)
                if asked.id in seen:
                    raise InvalidInput(
                        f"{path}, line {number}: the id {asked.id!r} stands in line "
                        f"{seen[asked.id]} too; give each question its own"
                    )
                seen[asked.id] = number
                questions.append(asked)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error
    if not questions:
        raise InvalidInput(f"{path} holds no question; give JSONL, one question per line")
    return Dataset(path, digest.hexdigest(), tuple(questions))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not empty. Raises `InvalidInput`."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, parse_object(line, f"{path}, line {number}")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error


def parse_object(line: bytes, where: str) -> dict[str, Any]:
    """Raises `InvalidInput`."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{where}: not UTF-8") from error
    except RecursionError:
        raise InvalidInput(f"{where}: nested too deep") from None
    except ValueError as error:
        raise InvalidInput(f"{where}: no JSON ({error})") from error
    if not isinstance(row, dict):
        raise InvalidInput(f"{where}: expected an object, got {type(row).__name__}")
    return row


def _parse(line: bytes, where: str, number: int, folder: Path) -> Asked:
    row = parse_object(line, where)
    for name in ("question", "answers"):
        if row.get(name) is None:
            raise InvalidInput(f"{where}: no {name!r}; empty answers mean that there is none")
    for name in ("images", "items"):
        if name[:-1] in row:  # an extra field says what it likes, but this is a slip of the pen
            raise InvalidInput(f"{where}: {name[:-1]!r} is called {name!r}, and is a list")
    question = row["question"]
    if not isinstance(question, str) or not question.strip():
        raise InvalidInput(f"{where}: 'question' is empty or no text")
    identifier = row.get("id")
    if identifier is None:
        identifier = f"line {number}"
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise InvalidInput(f"{where}: 'id' is a text or a whole number")
    images = tuple(folder / name for name in _texts(row, "images", where))
    for image in images:
        if not image.is_file():
            raise InvalidInput(f"{where}: there is no picture {image}; --images names its folder")
    answers = tuple(_texts(row, "answers", where))
    if not all(answer.strip() for answer in answers):
        raise InvalidInput(
            f"{where}: one of 'answers' is empty; a question that the collection cannot answer has "
            "an empty list"
        )
    golds = row.get("items") or []
    if not isinstance(golds, list):
        raise InvalidInput(f"{where}: 'items' is a list")
    return Asked(
        id=str(identifier),
        question=question,
        images=images,
        answers=answers,
        items=tuple(_gold(gold, where) for gold in golds),
    )


def _texts(row: dict[str, Any], name: str, where: str) -> list[str]:
    values = row.get(name)
    if values is None:
        values = []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidInput(f"{where}: {name!r} is a list of texts")
    if any("\0" in value for value in values):
        raise InvalidInput(f"{where}: {name!r} holds a NUL")
    return values


def _gold(value: Any, where: str) -> Gold:
    if not isinstance(value, dict) or not isinstance(value.get("document"), str):
        raise InvalidInput(f"{where}: each of 'items' names a 'document'")
    for name in ("start", "end", "page", "start_seconds", "end_seconds"):
        found, least = value.get(name), int(name == "page")
        whole = not name.endswith("seconds")
        if found is None:
            continue
        if isinstance(found, bool) or not isinstance(found, int if whole else int | float):
            raise InvalidInput(f"{where}: {name!r} of an item is a {'whole ' * whole}number")
        if not least <= found < _LARGEST:  # NaN is not either
            raise InvalidInput(f"{where}: {name!r} of an item is a number from {least} to 2**53")
    for first, last in (("start", "end"), ("start_seconds", "end_seconds")):
        start, end = value.get(first), value.get(last)
        if (start is None) != (end is None):
            raise InvalidInput(f"{where}: an item has {first!r} and {last!r}, or neither")
        if start is not None and start > end:
            raise InvalidInput(f"{where}: {first!r} of an item lies behind its {last!r}")
    box = value.get("box")
    if box is not None and not _is_box(box):
        raise InvalidInput(
            f"{where}: 'box' of an item is [left, top, right, bottom] in fractions from 0 to 1"
        )
    return Gold(
        value["document"],
        value.get("start"),
        value.get("end"),
        value.get("page"),
        tuple(box) if box is not None else None,
        value.get("start_seconds"),
        value.get("end_seconds"),
    )


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    if any(isinstance(side, bool) or not isinstance(side, int | float) for side in box):
        return False
    left, top, right, bottom = box
    return bool(0 <= left <= right <= 1 and 0 <= top <= bottom <= 1)
