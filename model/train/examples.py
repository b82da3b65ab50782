"""Examples: what a model is shown and what it should say, as a folder with `examples.jsonl`.

A line: `{"question", "images", "items": [{"id", "title", "heading", "text", "picture"}], "answer",
"short", "gold", "answers", "history"}`; pictures are files of the folder `pictures`, named by their
sha256; `gold` are the indices of the items that hold the answer, none where the collection cannot
answer; `answers` are all that count as right when a model is evaluated; `history` are earlier
questions of the conversation, each with its answer.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rag_owl.errors import InvalidInput
from rag_owl.types import Context, Item, Question, Retrieved, TextLocation, Turn

FILE, PICTURES = "examples.jsonl", "pictures"


@dataclass(frozen=True, slots=True)
class Shown:
    """An item as the model meets it."""

    id: str
    title: str
    text: str | None = None
    heading: str = ""
    picture: str | None = None  # sha256 of a file in `pictures`


@dataclass(frozen=True, slots=True)
class Example:
    id: str
    question: str
    items: tuple[Shown, ...]
    answer: str  # with markers
    images: tuple[str, ...] = ()  # sha256
    short: str | None = None
    gold: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()

    def context(self) -> Context:
        """As an answerer gets it."""
        turns = tuple(Turn(asked, asked, said) for asked, said in self.history)
        most = max(1, len(self.items))
        question = Question("training", self.question, self.images, k=most, history=turns)
        return Context(question, tuple(_retrieved(item, i) for i, item in enumerate(self.items)))

    def line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def _retrieved(shown: Shown, rank: int) -> Retrieved:
    item = Item(
        id=shown.id,
        document_id=shown.id,
        document_name=shown.title,
        revision=1,
        ordinal=0,
        kind="picture" if shown.picture else "passage",
        title=shown.title,
        location=TextLocation(0, len(shown.text or "")),
        text=shown.text,
        heading=shown.heading,
        picture=shown.picture,
    )
    return Retrieved(item, 1 / (1 + rank))


def read_examples(folder: str | Path) -> list[Example]:
    """Raises `InvalidInput` with the file and line of what cannot be read."""
    path = Path(folder) / FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({error.strerror}): make it with `rag-owl train make-data`"
        ) from error
    out = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                out.append(_example(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidInput(f"{path}:{number} is no example: {error}") from error
    if not out:
        raise InvalidInput(f"{path} holds no example")
    return out


def _example(raw: dict[str, Any]) -> Example:
    items = tuple(Shown(**item) for item in raw["items"])
    pictures = [*raw.get("images", ()), *(i.picture for i in items if i.picture)]
    for name in pictures:
        if not re.fullmatch(r"[0-9a-f]{64}", name):
            raise ValueError(f"{name!r} is not the sha256 of a picture")
    gold = tuple(int(g) for g in raw.get("gold", ()))
    if any(not 0 <= g < len(items) for g in gold):
        raise ValueError(f"gold {gold} of {len(items)} items")
    short = raw.get("short")
    if short is not None and not isinstance(short, str):
        raise ValueError(f"short {short!r} is no text")
    return Example(
        id=str(raw.get("id", "")),
        question=str(raw["question"]),
        items=items,
        answer=str(raw["answer"]),
        images=tuple(raw.get("images", ())),
        short=short,
        gold=gold,
        answers=tuple(map(str, raw.get("answers") or ([short] if short else []))),
        history=tuple((str(asked), str(said)) for asked, said in raw.get("history", ())),
    )


class Pictures:
    """The folder's pictures: as much of a store of blobs as answering needs. Read-only."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / PICTURES

    def path(self, key: str) -> Path:
        """Raises `InvalidInput`: it is not there."""
        path = self.folder / key
        if not path.is_file():
            raise InvalidInput(f"{path} is missing: make the examples again")
        return path

    def get(self, key: str) -> bytes:
        return self.path(key).read_bytes()


def split(examples: Sequence[Example], held_back: float) -> tuple[list[Example], list[Example]]:
    """By a digest of the id: the same example always falls on the same side."""
    out: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        out[_digest(example) % 1000 < 1000 * held_back].append(example)
    return out


def drawn(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many, the same ones every time."""
    return sorted(examples, key=lambda e: (_digest(e) // 1000, e.id))[:most]


def _digest(example: Example) -> int:
    return zlib.crc32((example.id or example.question).encode("utf-8", "surrogatepass"))
