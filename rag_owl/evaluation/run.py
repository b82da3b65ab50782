"""Ask every question of a dataset, of every model, and keep what came of it line by line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl import db
from rag_owl.errors import InvalidInput, ModelError, RagOwlError
from rag_owl.evaluation import alce, machine
from rag_owl.evaluation.dataset import Asked, Dataset
from rag_owl.evaluation.journal import Journal
from rag_owl.evaluation.places import place_of, ranks
from rag_owl.evaluation.rows import answer_row
from rag_owl.evaluation.summary import summarise
from rag_owl.ports import Judge
from rag_owl.store import collections, documents
from rag_owl.types import Answer, Channel, Item

if TYPE_CHECKING:
    from rag_owl.client import RagOwl

FORMAT = 1
DEPTH = 20  # of the searches that recall and MRR are measured on
DEFAULT_JUDGE = "owl-nano"
MOST_FAILURES = 10  # one after another: then it is not the question
_CHANNELS: tuple[Channel, ...] = ("text", "words", "picture")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done and how many there are."""


def evaluate(
    owl: RagOwl,
    dataset: Dataset,
    collection: str,
    models: Sequence[str],
    folder: Path,
    *,
    limit: int | None = None,
    k: int | None = None,
    judge: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """-> the report (DESIGN section 5, "Formats"). What is in `folder` already is not asked again.

    owl: not used by others meanwhile, for models are unloaded between one and the next. limit: so
    many questions, chosen by their ids alone; k: items per question; judge: what says whether
    cited items entail a sentence, by name. Raises `NotFound`, `ModelNotFound`, `Conflict` where the
    folder holds another evaluation, and what the model raises when it fails ten times in a row.
    """
    if len(set(models)) < len(models):
        raise InvalidInput("a model is named twice; name each once")
    asked = dataset.first(limit)
    k = k if k is not None else owl.settings.k
    if judge is None:
        judge = owl.settings.judge if owl.settings.judge != "none" else DEFAULT_JUDGE
    checker = None if judge == "none" else owl.models.judge(judge)
    with db.reading(owl.engine) as session:
        found = collections.get(session, collection)
        named = (gold.document for each in asked for gold in each.items)
        unknown = documents.unknown(session, found.key, named)
    about = {
        "format": FORMAT,
        "dataset": dataset.sha256,
        "collection": collection,
        "k": k,
        "judge": judge,
    }
    with Journal(folder, about) as journal:
        run = _Run(owl, collection, k, checker, judge, journal, found.version, on_progress)
        run.search(asked)
        for name in models:
            run.ask(name, asked)
        rows = journal.rows
    with db.reading(owl.engine) as session:
        version = collections.get(session, collection).version
    return summarise(
        rows,
        asked,
        models,
        collection=collection,
        k=k,
        judge=judge,
        dataset=dataset.path.name,
        version=version,
        unknown=unknown,
    )


class _Run:
    def __init__(
        self,
        owl: RagOwl,
        collection: str,
        k: int,
        judge: Judge | None,
        judge_name: str,
        journal: Journal,
        version: int,
        on_progress: Progress | None,
    ) -> None:
        self._owl, self._collection, self._k, self._judge = owl, collection, k, judge
        self._judge_name = judge_name
        self._journal, self._version = journal, version
        self._on_progress = on_progress or (lambda what, done, total: None)

    def _done(self, model: str | None, state: str | None = None) -> set[str]:
        """Questions whose last result counts; what failed, or was said by other weights or under
        other settings, is asked again."""
        kind = "search" if model is None else "answer"
        last = {row["question"]: row for row in self._journal.rows if row.get("model") == model}
        return {
            question
            for question, row in last.items()
            if kind in row and row.get("state", state) == state
        }

    def _keep(self, row: dict[str, Any]) -> None:
        row["version"] = self._version
        self._journal.append(row)
        self._journal.rows.append(row)

    # --- retrieval, which is the same for all models ---------------------------------------------

    def search(self, asked: Sequence[Asked]) -> None:
        wanted = [each for each in asked if each.items]
        done = self._done(None)
        by_text = self._pictures_by_text() if wanted else False
        for number, each in enumerate(wanted):
            self._on_progress("searching", number, len(wanted))
            if each.id in done:
                continue
            try:
                found = self._search(each, by_text)
                self._keep({"question": each.id, "search": found})
            except InvalidInput as error:
                self._keep({"question": each.id, "error": str(error)})
        self._on_progress("searching", len(wanted), len(wanted))

    def _search(self, asked: Asked, by_text: bool) -> dict[str, list[int | None]]:
        """The rank of each gold item by channel, and where the channels are fused."""
        found: dict[str, list[int | None]] = {}
        for name, channels in (("fused", None), *((c, (c,)) for c in _CHANNELS)):
            if name == "picture" and not (asked.images or by_text):
                continue  # it has nothing to search with
            hits = self._owl.search(
                self._collection, asked.question, asked.images, k=DEPTH, channels=channels
            )
            found[name] = ranks([place_of(hit.item) for hit in hits], asked.items)
        return found

    def _pictures_by_text(self) -> bool:
        with db.reading(self._owl.engine) as session:
            key = collections.get(session, self._collection).key
            generation = collections.live_generation(session, key)
        if generation is None:
            return False
        return self._owl.models.picture_embedder(generation.picture_embedder).reads_text

    # --- answers -------------------------------------------------------------------------------

    def ask(self, model: str, asked: Sequence[Asked]) -> None:
        state = self._owl.models.state_of(model, self._judge_name)
        done = self._done(model, state)
        if all(each.id in done for each in asked):
            self._on_progress(model, len(asked), len(asked))
            return
        self._owl.models.close()  # the memory of one model is not that of the one before it
        machine.forget_peak()
        self._owl.models.answerer(model)  # loaded before the clock runs; unknown names end it here
        failures = 0
        for number, each in enumerate(asked):
            self._on_progress(model, number, len(asked))
            if each.id in done:
                continue
            try:
                row = self._ask(model, each)
                failures = 0
            except (InvalidInput, ModelError) as error:
                row = {"question": each.id, "model": model, "error": str(error)}
                failures += isinstance(error, ModelError)
            self._keep({**row, "state": state})
            if failures == MOST_FAILURES:
                raise RagOwlError(
                    f"{model} failed {failures} times in a row: {row['error']} "
                    "(asked again with the same --out, the evaluation goes on)"
                )
        self._on_progress(model, len(asked), len(asked))

    def _ask(self, model: str, asked: Asked) -> dict[str, Any]:
        first: list[float] = []

        def on_text(piece: str) -> None:
            if piece and not first:
                first.append(time.perf_counter())

        start = time.perf_counter()
        answer = self._owl.ask(
            self._collection, asked.question, asked.images, k=self._k, model=model, on_text=on_text
        )
        end = time.perf_counter()
        shown = [hit.item if hit else None for hit in self._owl.sources(answer.id)]
        judged = self._judged(asked.question, answer, shown)
        to_first = first[0] - start if first else None
        return answer_row(asked.id, model, answer, shown, judged, end - start, to_first)

    def _judged(
        self, question: str, answer: Answer, shown: Sequence[Item | None]
    ) -> dict[str, Any] | None:
        if self._judge is None or answer.abstained:
            return None
        cited = [(each.start, each.end, each.marker) for each in answer.citations]
        sentences = [
            alce.Cited(alce.statement_of(question, each.statement, answer.short), each.markers)
            for each in alce.cited_sentences(answer.text, cited)
        ]
        found = alce.score(
            sentences, len(answer.sources), alce.entailment(self._judge, shown, question)
        )
        return asdict(found) if found else None
