"""Answers with their evidence, as they were given."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from rag_owl.db import AnswerRow, CitationRow, CollectionRow
from rag_owl.errors import NotFound
from rag_owl.store import locations, names
from rag_owl.types import Answer, Citation, Context, Moment, Support


def save(session: Session, collection_key: int, answer: Answer, context: Context) -> None:
    question = context.question
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
                "notes": list(answer.notes),
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


def get(session: Session, answer_id: str) -> Answer:
    """Raises `NotFound`."""
    names.check("answer", answer_id)
    row = session.get(AnswerRow, answer_id)
    if row is None:
        raise NotFound(f"no answer {answer_id!r}")
    collection = session.scalar(
        select(CollectionRow.name).where(CollectionRow.key == row.collection_key)
    )
    citations = session.scalars(
        select(CitationRow.citation)
        .where(CitationRow.answer_id == answer_id)
        .order_by(CitationRow.ordinal)
    )
    return Answer(
        id=row.id,
        collection=collection or "",
        question=row.question,
        text=row.text,
        abstained=row.abstained,
        citations=tuple(_citation(stored) for stored in citations),
        model=row.model,
        generation=row.generation_key,
        short=row.short,
        answerable=row.answerable,
        dangling_markers=tuple(row.dangling_markers),
        left_out=tuple(row.left_out),
        pictures=tuple(row.request["pictures"]),
        created_at=row.created_at,
        video=row.request.get("video"),
        moments=tuple(Moment(**moment) for moment in row.request.get("moments", ())),
        notes=tuple(row.request.get("notes", ())),
    )


def _citation(stored: dict[str, Any]) -> Citation:
    values = dict(stored)
    values["location"] = locations.load(values["location"])
    values["support"] = Support(**values["support"])
    return Citation(**values)
