"""The whole story of one question, on one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from rag_owl import context as contexts
from rag_owl import db, evidence
from rag_owl.errors import InvalidQuestion
from rag_owl.ports import Answerer, Retriever
from rag_owl.store import answers, collections
from rag_owl.types import Answer, Question

LONGEST_QUESTION = 10_000  # characters


@dataclass(frozen=True, slots=True)
class Parts:
    """What one question needs."""

    engine: Engine
    retriever: Retriever
    answerer: Answerer
    context_characters: int


def answer_question(
    question: Question, parts: Parts, on_text: Callable[[str], None] | None = None
) -> Answer:
    """Retrieve, lay out, answer, check, store.

    on_text: called with each piece of the answer's text as it comes.
    Raises `InvalidQuestion`, `NotFound` for an unknown collection, `InvalidFilter`, `ModelError`.
    """
    check(question)
    retrieved = parts.retriever.retrieve(question)
    context = contexts.interleave(retrieved, question, parts.context_characters)
    draft = parts.answerer.answer(context, on_text)
    with db.writing(parts.engine) as session:
        collection = collections.get(session, question.collection)
        generation = collections.live_generation(session, collection.key)
        answer = evidence.verify(draft, context, generation.key if generation else 0)
        answers.save(session, collection.key, answer, context)
    return answer


def check(question: Question, needs_text: bool = True) -> None:
    """Raises `InvalidQuestion` that says what to give."""
    if not question.text.strip() and (needs_text or not question.pictures):
        raise InvalidQuestion("the question is empty; ask something, also about a picture")
    if len(question.text) > LONGEST_QUESTION:
        raise InvalidQuestion(
            f"the question has {len(question.text):,} characters; at most {LONGEST_QUESTION:,}. "
            "Ingest long material and ask about it."
        )
    if question.k < 1:
        raise InvalidQuestion(f"k is {question.k}; ask for at least one item")
