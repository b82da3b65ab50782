"""People's ratings of open answers, A to D, one line each; the last of a rater's counts."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_owl.errors import InvalidInput
from rag_owl.evaluation.journal import Journal, read
from rag_owl.evaluation.owleval import ABILITIES, OwlQuestion

FILE = "ratings.jsonl"
SCALE = {
    "A": "right and complete",
    "B": "acceptable, with small mistakes",
    "C": "understands the question, with large mistakes",
    "D": "beside the question, or wrong altogether",
}


class Ratings:
    """Those of one run, open for more. Use it in a `with`."""

    def __init__(self, folder: Path, digest: str) -> None:
        """Raises as `Journal` does."""
        self._journal = Journal(folder, {"format": 1, "ratings_of": digest}, FILE)
        self.given: dict[tuple[int, str], str] = {
            (row["question"], row["model"]): row["rating"] for row in self._journal.rows
        }

    def rate(self, question: int, model: str, rating: str) -> None:
        """On the disk when this returns. Raises `InvalidInput`, `DataFolderError`."""
        if rating not in SCALE:
            raise InvalidInput(f"a rating is one of {', '.join(SCALE)}")
        if self.given.get((question, model)) == rating:
            return
        self._journal.append(
            {"question": question, "model": model, "rating": rating, "at": time.time()}
        )
        self.given[question, model] = rating

    def close(self) -> None:
        self._journal.close()

    def __enter__(self) -> Ratings:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stored(folder: Path) -> dict[tuple[int, str], str]:
    """The ratings of a run, by question and model; none yet: empty. Raises `CorruptData`."""
    path = folder / FILE
    if not path.exists():
        return {}
    return {(row["question"], row["model"]): row["rating"] for row in read(path)[1:]}


def blind_order(question: int, models: Sequence[str]) -> list[str]:
    """The same for one question every time, another for the next: nobody sees whose it is."""
    order = sorted(models)
    random.Random(question).shuffle(order)
    return order


def summary(
    given: Mapping[tuple[int, str], str],
    answers: Mapping[str, Mapping[int, str]],
    questions: Sequence[OwlQuestion],
) -> dict[str, Any]:
    """Per model how many answers got which rating, over all and by ability."""

    def count(model: str, chosen: Sequence[OwlQuestion]) -> dict[str, int]:
        rated = [given[each.id, model] for each in chosen if (each.id, model) in given]
        return {"rated": len(rated)} | {letter: rated.count(letter) for letter in SCALE}

    return {
        "questions": len(questions),
        "models": {
            model: {
                "answers": len(found),
                **count(model, questions),
                "by_ability": {
                    name: count(model, [q for q in questions if letter in q.abilities])
                    for letter, name in ABILITIES.items()
                    if any(letter in q.abilities for q in questions)
                },
            }
            for model, found in answers.items()
        },
    }
