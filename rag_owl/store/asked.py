"""Questions that were asked, as something to measure a search with."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from rag_owl.rows import AnswerRow
from rag_owl.types import Question

_NEWEST = 2_000  # answers that are looked at


def sample(session: Session, collection: str, collection_key: int, count: int) -> list[Question]:
    """Up to `count` different questions of the collection, spread evenly over the newest."""
    rows = session.scalars(
        select(AnswerRow)
        .where(AnswerRow.collection_key == collection_key)
        .order_by(AnswerRow.created_at.desc(), AnswerRow.id)
        .limit(_NEWEST)
    )
    asked: dict[tuple[str, tuple[str, ...], str], Question] = {}
    for row in rows:
        request = row.request
        text, pictures = request.get("reading") or row.question, tuple(request["pictures"])
        question = Question(collection, text, pictures, request["filters"], request["k"])
        asked.setdefault((text, pictures, str(request["filters"])), question)
    found = list(asked.values())
    return found[:: max(1, len(found) // count)][:count]
