"""Stored questions asked again, after a reindex or with another model: what is different now."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl import db
from rag_owl.changes import changes
from rag_owl.errors import InvalidInput, ModelError, NotFound, RagOwlError
from rag_owl.evaluation.journal import Journal
from rag_owl.evaluation.run import MOST_FAILURES, Progress
from rag_owl.store import answers, collections
from rag_owl.types import Answer

if TYPE_CHECKING:
    from rag_owl.client import RagOwl

_PAGE = 100


def folder_of(owl: RagOwl, collection: str, model: str | None) -> str:
    """One folder per state of the collection and model, so that a stopped run is found again."""
    with db.reading(owl.engine) as session:
        version = collections.get(session, collection).version
    asked = (model or "as-before").replace("/", "_")
    return f"replay-{collection}-{version}-{asked}"


def replay(
    owl: RagOwl,
    collection: str,
    folder: Path,
    *,
    model: str | None = None,
    limit: int | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask the newest `limit` stored questions of a collection again -> what changed.

    Of questions that were asked several times alike the newest counts; what was itself a replay
    does not. model: instead of the one that answered. Stopped, it goes on with the same `folder`:
    what was asked again of the same state of the collection, with the same weights and settings,
    is not asked once more. Raises as `evaluate` does.
    """
    follow = on_progress or (lambda what, done, total: None)
    with db.reading(owl.engine) as session:
        version = collections.get(session, collection).version
    if model is not None:
        owl.models.answerer(model)  # an unknown one ends it here
    state_of = functools.cache(lambda name: f"{version} {owl.models.state_of(name)}")
    with Journal(folder, {"format": 1, "replay": collection, "model": model}) as journal:
        plan = list(_chosen(owl, collection, limit))
        if not plan:
            raise InvalidInput(
                f"no question was asked of {collection} yet; there is nothing to ask"
            )
        done = {row["before"]["id"]: row for row in journal.rows if "now" in row}
        failures = 0
        for number, answer_id in enumerate(plan):
            follow("asking again", number, len(plan))
            state = state_of(model or _asked_of(owl, answer_id))
            known = done.get(answer_id)
            if known is not None and known["now"] is not None and known.get("state") == state:
                continue
            row, failed = _again(owl, answer_id, model)
            row["state"] = state
            journal.append(row)
            done[answer_id] = row
            failures = failures + 1 if failed else 0
            if failures == MOST_FAILURES:
                raise RagOwlError(f"{failures} questions in a row failed: {row['error']}")
        follow("asking again", len(plan), len(plan))
    return _summary([done[answer_id] for answer_id in plan], collection, model)


def _chosen(owl: RagOwl, collection: str, limit: int | None) -> Iterator[str]:
    seen: set[tuple[Any, ...]] = set()
    before: tuple[float, str] | None = None
    while limit is None or len(seen) < limit:
        with db.reading(owl.engine) as session:
            page = answers.list_page(session, _PAGE, collection=collection, before=before)
        for each in page:
            # A follow-up is another question after other turns.
            talk = each.conversation_id if each.reading else None
            same = (each.question, each.pictures, each.video, each.exclude_items, each.model, talk)
            if each.replay_of is None and same not in seen:
                seen.add(same)
                yield each.id
                if len(seen) == limit:
                    return
        if len(page) < _PAGE:
            return
        before = (page[-1].created_at, page[-1].id)


def _asked_of(owl: RagOwl, answer_id: str) -> str | None:
    """The model that a question named; None: the settings' one, or the question is gone."""
    with contextlib.suppress(NotFound), db.reading(owl.engine) as session:
        return answers.question_of(session, answer_id).model
    return None


def _again(owl: RagOwl, answer_id: str, model: str | None) -> tuple[dict[str, Any], bool]:
    """A line of the journal, and whether the model failed."""
    try:
        before = owl.answer(answer_id)
    except NotFound:
        return {"before": {"id": answer_id}, "now": None, "error": "deleted since then"}, False
    try:
        now = owl.replay(answer_id, model=model)
    except (InvalidInput, NotFound, ModelError) as error:
        failed = isinstance(error, ModelError)
        return {"before": _shown(before), "now": None, "error": str(error)}, failed
    return {"before": _shown(before), "now": _shown(now), "changes": changes(before, now)}, False


def _shown(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "question": answer.question,
        "model": answer.model,
        "generation": answer.generation,
        "text": answer.text,
        "short": answer.short,
        "abstained": answer.abstained,
        "evidence": [
            {
                "marker": each.marker,
                "document_name": each.document_name,
                "item_id": each.item_id,
                "revision": each.revision,
                "location": asdict(each.location),
                "quote": each.quote,
                "verdict": each.support.verdict,
            }
            for each in answer.citations
        ],
    }


def kind_of(row: Mapping[str, Any]) -> str:
    """What happened to an answer, the gravest first."""
    if row["now"] is None:
        return "failed"
    found = row["changes"]
    if found["abstained"]:
        return "abstains now" if row["now"]["abstained"] else "answers now"
    if found["text"]:
        return "other answer"
    if found["cited"]["added"] or found["cited"]["removed"]:
        return "other evidence"
    if _verdicts(row["before"]) != _verdicts(row["now"]):
        return "other verdict"
    if found["sources"]["added"] or found["sources"]["removed"]:
        return "shown other items"
    return "the same"


def _verdicts(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted((each["item_id"], each["verdict"]) for each in answer["evidence"])


def _summary(rows: list[dict[str, Any]], collection: str, model: str | None) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[kind_of(row)] = counts.get(kind_of(row), 0) + 1
    return {
        "replay": True,
        "collection": collection,
        "model": model,
        "asked": len(rows),
        "counts": counts,
        "changed": [{"kind": kind_of(row), **row} for row in rows if kind_of(row) != "the same"],
    }
