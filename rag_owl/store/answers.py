"""Answers with their evidence, as they were given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from rag_owl.conversation import MOST_TURNS
from rag_owl.errors import Conflict, NotFound
from rag_owl.rows import AnswerRow, CitationRow, CollectionRow, DocumentRow
from rag_owl.store import collections, condemned, items, locations, names
from rag_owl.types import (
    Answer,
    Citation,
    Context,
    Look,
    Moment,
    Question,
    Retrieved,
    Statement,
    Support,
    Turn,
    Usage,
)


def save(session: Session, collection_key: int, answer: Answer, context: Context) -> None:
    question = context.question
    _check_sources(session, collection_key, context)
    shown = {question.video, *question.pictures, *(each.picture for each in answer.citations)}
    condemned.keep(session, [key for key in shown if key is not None])
    session.add(
        AnswerRow(
            id=answer.id,
            collection_key=collection_key,
            generation_key=answer.generation,
            question=answer.question,
            request={
                "pictures": list(question.pictures),
                "video": question.video,
                "filters": question.filters,
                "k": question.k,
                # Of the answer: this column is the one that can hold what came later.
                "moments": [asdict(moment) for moment in answer.moments],
                "looks": [asdict(look) for look in answer.looks],
                "notes": list(answer.notes),
                "reading": answer.reading,
                "exclude_items": list(question.exclude_items),
                "max_tokens": question.max_tokens,
                "seed": question.seed,
                "budget": question.budget,
                "model": question.model,
                "replay_of": question.replay_of,
                "usage": asdict(answer.usage) if answer.usage else None,
                "verify": question.verify,
                "require_support": question.require_support,
                "statements": [asdict(statement) for statement in answer.statements],
                "heatmaps": answer.heatmaps,
                "found": [[source.score, dict(source.similarities)] for source in context.sources],
            },
            sources=[source.item.id for source in context.sources],
            text=answer.text,
            short=answer.short,
            abstained=answer.abstained,
            answerable=answer.answerable,
            model=answer.model,
            dangling_markers=list(answer.dangling_markers),
            left_out=list(answer.left_out),
            created_at=answer.created_at,
            conversation_id=question.conversation_id,
            key_id=question.asked_by,
        )
    )
    session.flush()
    session.add_all(
        CitationRow(
            answer_id=answer.id,
            ordinal=ordinal,
            item_id=citation.item_id,
            document_id=citation.document_id,
            citation=asdict(citation),
        )
        for ordinal, citation in enumerate(answer.citations)
    )


def _check_sources(session: Session, collection_key: int, context: Context) -> None:
    """What was deleted while it was answered from must not come back as an answer.

    Raises `Conflict`.
    """
    shown = {source.item.document_id for source in context.sources}
    # What was said before may be said again, and was cleared with what it rested on.
    said = {turn.text for turn in context.question.history if turn.cited}
    told = {each.partition(".")[0] for turn in context.question.history for each in turn.cited}
    there = session.scalars(
        select(DocumentRow.id)
        .where(DocumentRow.collection_key == collection_key, DocumentRow.id.in_(shown | told))
        .with_for_update(read=True)  # a deletion waits, and then sees this answer
    ).all()
    if said:
        said -= set(
            session.scalars(
                select(AnswerRow.text).where(
                    AnswerRow.conversation_id == context.question.conversation_id
                )
            )
        )
    if said or not shown <= {*there}:
        raise Conflict("what the answer rests on was deleted meanwhile; ask again")


def get(session: Session, answer_id: str) -> Answer:
    """Raises `NotFound`."""
    row = _row(session, answer_id)
    return _answers(session, [row])[0]


def list_page(
    session: Session,
    limit: int,
    *,
    collection: str | None = None,
    conversation_id: str | None = None,
    before: tuple[float, str] | None = None,
) -> list[Answer]:
    """The newest first, all of them older than `before` (created_at, id).

    What cannot exist has no answers: an unknown collection or conversation gives an empty list.
    """
    chosen = (
        select(AnswerRow)
        .where(AnswerRow.collection_key.not_in(collections.buried()))
        .order_by(AnswerRow.created_at.desc(), AnswerRow.id.desc())
    )
    if collection is not None:
        key = select(CollectionRow.key).where(CollectionRow.name == collection)
        chosen = chosen.where(AnswerRow.collection_key == key.scalar_subquery())
    if conversation_id is not None:
        chosen = chosen.where(AnswerRow.conversation_id == conversation_id)
    if before is not None:
        chosen = chosen.where(tuple_(AnswerRow.created_at, AnswerRow.id) < before)
    return _answers(session, session.scalars(chosen.limit(limit)).all())


def question_of(session: Session, answer_id: str) -> Question:
    """What was asked, to be asked again: in its reading, after the same turns.

    Raises `NotFound`.
    """
    row = _row(session, answer_id)
    request = row.request
    reading = request.get("reading")
    return Question(
        collection=_names(session, [row])[row.collection_key],
        text=reading or row.question,
        pictures=tuple(request["pictures"]),
        filters=request["filters"],
        k=request["k"],
        video=request.get("video"),
        conversation_id=row.conversation_id,
        history=tuple(_turns(session, row.collection_key, row.conversation_id, row.created_at)),
        words=row.question if reading else None,
        exclude_items=tuple(request.get("exclude_items", ())),
        max_tokens=request.get("max_tokens"),
        seed=request.get("seed"),
        budget=request.get("budget"),
        model=request.get("model"),
        replay_of=row.id,
        verify=request.get("verify", "default"),
        require_support=request.get("require_support", False),
    )


def history(session: Session, collection_key: int, conversation_id: str) -> list[Turn]:
    """The conversation's newest turns, oldest first. Raises `NotFound` where there is none."""
    names.check("conversation", conversation_id)
    turns = _turns(session, collection_key, conversation_id, math.inf)
    if not turns:
        raise NotFound(f"no conversation {conversation_id!r} in this collection")
    return turns


def rate(session: Session, answer_id: str, rating: int, comment: str | None) -> None:
    """rating: -1, 0 or 1. Raises `NotFound`."""
    row = _row(session, answer_id)
    row.rating, row.rating_comment = rating, comment


def sources(session: Session, answer_id: str) -> list[Retrieved | None]:
    """What the model was shown, in the order of its markers; None: deleted since then.

    Texts are those of the items as they are stored, also where the model was shown less.
    Raises `NotFound`.
    """
    row = _row(session, answer_id)
    found = items.by_id(session, row.collection_key, row.sources)
    scored = row.request.get("found") or [[0.0, {}]] * len(row.sources)
    return [
        Retrieved(found[item_id], score, similarities) if item_id in found else None
        for item_id, (score, similarities) in zip(row.sources, scored, strict=True)
    ]


def _row(session: Session, answer_id: str) -> AnswerRow:
    names.check("answer", answer_id)
    row = session.scalar(
        select(AnswerRow).where(
            AnswerRow.id == answer_id, AnswerRow.collection_key.not_in(collections.buried())
        )
    )
    if row is None:
        raise NotFound(f"no answer {answer_id!r}")
    return row


def _names(session: Session, rows: Sequence[AnswerRow]) -> dict[int, str]:
    keys = {row.collection_key for row in rows}
    chosen = select(CollectionRow.key, CollectionRow.name).where(CollectionRow.key.in_(keys))
    return {row.key: row.name for row in session.execute(chosen)}


def _citations(session: Session, rows: Sequence[AnswerRow]) -> dict[str, list[Citation]]:
    found: dict[str, list[Citation]] = {row.id: [] for row in rows}
    stored = session.execute(
        select(CitationRow.answer_id, CitationRow.citation)
        .where(CitationRow.answer_id.in_(found))
        .order_by(CitationRow.answer_id, CitationRow.ordinal)
    )
    for answer_id, citation in stored:
        found[answer_id].append(_citation(citation))
    return found


def _turns(
    session: Session, collection_key: int, conversation_id: str | None, before: float
) -> list[Turn]:
    if conversation_id is None:
        return []
    chosen = (
        select(AnswerRow)
        .where(
            AnswerRow.conversation_id == conversation_id,
            AnswerRow.collection_key == collection_key,
        )
        .order_by(AnswerRow.created_at.desc(), AnswerRow.id)
        .limit(4 * MOST_TURNS)
    )
    if before != math.inf:
        chosen = chosen.where(AnswerRow.created_at < before)
    rows = session.scalars(chosen).all()
    replayed = {row.request.get("replay_of") for row in rows}
    kept = [row for row in rows if row.id not in replayed][:MOST_TURNS]
    citations = _citations(session, kept)
    return [_turn(row, citations[row.id]) for row in reversed(kept)]


def _turn(row: AnswerRow, citations: Sequence[Citation]) -> Turn:
    return Turn(
        question=row.question,
        reading=row.request.get("reading") or row.question,
        text=row.text,
        short=row.short,
        abstained=row.abstained,
        pictures=tuple(row.request["pictures"]),
        video=row.request.get("video"),
        cited=tuple(dict.fromkeys(citation.item_id for citation in citations)),
        titles=tuple(dict.fromkeys(citation.title for citation in citations)),
    )


def _answers(session: Session, rows: Sequence[AnswerRow]) -> list[Answer]:
    collections, citations = _names(session, rows), _citations(session, rows)
    return [
        _answer(row, collections.get(row.collection_key, ""), citations[row.id]) for row in rows
    ]


def _answer(row: AnswerRow, collection: str, citations: Sequence[Citation]) -> Answer:
    request = row.request
    usage = request.get("usage")
    return Answer(
        id=row.id,
        collection=collection,
        question=row.question,
        text=row.text,
        abstained=row.abstained,
        citations=tuple(citations),
        model=row.model,
        generation=row.generation_key,
        short=row.short,
        answerable=row.answerable,
        dangling_markers=tuple(row.dangling_markers),
        left_out=tuple(row.left_out),
        pictures=tuple(request["pictures"]),
        created_at=row.created_at,
        video=request.get("video"),
        moments=tuple(Moment(**moment) for moment in request.get("moments", ())),
        notes=tuple(request.get("notes", ())),
        conversation_id=row.conversation_id,
        reading=request.get("reading"),
        sources=tuple(row.sources),
        exclude_items=tuple(request.get("exclude_items", ())),
        replay_of=request.get("replay_of"),
        usage=Usage(**usage) if usage else None,
        rating=row.rating,
        rating_comment=row.rating_comment,
        statements=tuple(_statement(each) for each in request.get("statements", ())),
        looks=tuple(
            Look(each["start"], each["end"], tuple(each["pictures"]))
            for each in request.get("looks", ())
        ),
        # Of answers that do not say it, only one model could.
        heatmaps=request.get("heatmaps", row.model == "owl-nano"),
    )


def _statement(stored: dict[str, Any]) -> Statement:
    return Statement(**{**stored, "contradicted_by": tuple(stored["contradicted_by"])})


def _citation(stored: dict[str, Any]) -> Citation:
    values = dict(stored)
    values["location"] = locations.load(values["location"])
    values["support"] = Support(**values["support"])
    return Citation(**values)
