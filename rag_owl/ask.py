"""The whole story of one question, on one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from sqlalchemy import Engine

from rag_owl import context as contexts
from rag_owl import conversation, db, evidence
from rag_owl.errors import InvalidQuestion, NotFound
from rag_owl.gate import Gate
from rag_owl.media import clean_text
from rag_owl.ports import (
    Ablator,
    Answerer,
    Grounded,
    Grounding,
    Heatmapper,
    Judge,
    Retriever,
    Watcher,
)
from rag_owl.settings import MOST_ITEMS
from rag_owl.steps import step
from rag_owl.store import answers, collections, filters, items
from rag_owl.store.names import is_storable
from rag_owl.types import Answer, Context, Draft, Question, Retrieved, Verify

LONGEST_QUESTION = 10_000  # characters
MOST_TOKENS = 100_000  # that an answer may be allowed
LEAST_BUDGET, MOST_BUDGET = 500, 100_000_000  # characters shown to the model


@dataclass(frozen=True, slots=True)
class Parts:
    """What one question needs."""

    engine: Engine
    retriever: Retriever
    answerer: Answerer
    context_characters: int
    stills: Callable[[str], Sequence[str]]  # a few pictures, as blob keys, of a video blob
    judge: Callable[[], Judge | None] = lambda: None
    """What citations are checked with, beside their exact words; loaded when it is needed."""


def answer_question(
    question: Question,
    parts: Parts,
    on_text: Callable[[str], None] | None = None,
    on_sources: Callable[[Sequence[Retrieved]], None] | None = None,
) -> Answer:
    """Retrieve, lay out, answer, check, store.

    on_text: called with each piece of the answer's text as it comes. on_sources: called before,
    with what the model is shown, in the order of the markers.
    Raises `InvalidQuestion`, `NotFound` for an unknown collection, `InvalidFilter`, `ModelError`.
    """
    check(question)
    pictured = question
    if question.video is not None:
        stills = parts.stills(question.video)
        pictured = replace(question, pictures=(*question.pictures, *stills))
    with step("retrieve", k=question.k) as retrieving:
        missing: list[str] = []
        retrieved = _retrieve(pictured, parts, missing.append)
        retrieving.note(items=len(retrieved))
    watches = isinstance(parts.answerer, Watcher) and parts.answerer.watches_video
    shown = question if watches else pictured
    context = contexts.interleave(retrieved, shown, question.budget or parts.context_characters)
    if on_sources:
        on_sources(context.sources)
    checker = evidence.checker_of(context, parts.judge)
    gate = Gate(checker, on_text) if question.require_support else None
    heard = gate.on_text if gate else on_text
    with step("answer", model=parts.answerer.name, sources=len(context.sources)) as answering:
        draft = parts.answerer.answer(context, _cleaned(heard) if heard else None)
        # A model of bytes can say what no database holds. As many characters: places stay.
        short = None if draft.short is None else clean_text(draft.short)
        draft = replace(draft, text=clean_text(draft.text), short=short)
        if draft.usage is not None:
            answering.note(tokens=draft.usage.completion_tokens)
    draft = replace(draft, notes=(*missing, *draft.notes))
    drops = _drops(parts.answerer, context, draft)
    if question.verify == "full" and drops is None:
        note = f"{draft.model} cannot be asked again without one of its sources."
        draft = replace(draft, notes=(*draft.notes, note))
    context = replace(context, question=question)
    if shown.pictures != question.pictures:
        note = f"{draft.model} watches no videos: it was shown {len(stills)} pictures of yours."
        draft = replace(draft, notes=(*draft.notes, note))
    with db.reading(parts.engine) as session:
        collection = collections.get(session, question.collection)
        generation = collections.live_generation(session, collection.key)
    # The judge is a model: it runs while no transaction is open.
    grounding = parts.answerer.grounding if isinstance(parts.answerer, Grounded) else Grounding()
    with step("verify"):
        answer = evidence.verify(
            draft,
            context,
            generation.key if generation else 0,
            checker=checker,
            grounding=grounding,
            drops=drops or (),
        )
        if gate is not None:
            answer = gate.finish(answer)
    answer = replace(answer, heatmaps=isinstance(parts.answerer, Heatmapper))
    with step("store"), db.writing(parts.engine) as session:
        collection = collections.get(session, question.collection)
        answers.save(session, collection.key, answer, context)
    return answer


def _cleaned(on_text: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: on_text(clean_text(text))


def _drops(answerer: Answerer, context: Context, draft: Draft) -> Sequence[float | None] | None:
    """What each attribution's item is worth to its statement, where that was asked for.

    None: the model cannot say.
    """
    if context.question.verify != "full" or draft.abstained or not draft.attributions:
        return ()
    return answerer.ablate(context, draft) if isinstance(answerer, Ablator) else None


def _retrieve(question: Question, parts: Parts, on_note: Callable[[str], None]) -> list[Retrieved]:
    """Without the excluded items; a follow-up is shown what the turn before it cited as well."""
    excluded = set(question.exclude_items)
    found = parts.retriever.retrieve(replace(question, k=question.k + len(excluded)), on_note)
    found = [hit for hit in found if hit.item.id not in excluded]
    found = _first(found, question.k, question)
    if not conversation.is_follow_up(question) or question.filters:
        return found  # what was cited need not satisfy the filters
    have = {hit.item.id for hit in found} | excluded
    cited = [name for name in question.history[-1].cited if name not in have][: question.k // 2]
    with db.reading(parts.engine) as session:
        key = collections.get(session, question.collection).key
        kept = items.by_id(session, key, cited, current=True)
    more = [Retrieved(kept[name], 0.0) for name in cited if name in kept]
    return [*_first(found, question.k - len(more), question), *more]


def _first(found: list[Retrieved], count: int, question: Question) -> list[Retrieved]:
    """So many, with the one that words found best: it stands last where all others outvote it."""
    kept = found[:count]
    if question.pictures or count < 4 or len(found) <= count:
        return kept
    best = max(found, key=lambda hit: hit.similarities.get("words", 0.0))
    return kept if best in kept else [*kept[:-1], best]


def check(question: Question, needs_text: bool = True) -> None:
    """Raises `InvalidQuestion` that says what to give, or as `check_form` does."""
    check_form(question)
    if not question.text.strip() and (needs_text or not question.pictures):
        raise InvalidQuestion("the question is empty; ask something, also about a picture")


def check_form(question: Question) -> None:
    """What must hold of every question before anything of it is stored, looked up or computed.

    Raises `InvalidQuestion`, `InvalidFilter`, `NotFound` for what can be no collection's name.
    """
    if not isinstance(question.collection, str):
        raise InvalidQuestion(f"a collection's name is a text, not a {_type(question.collection)}")
    if not is_storable(question.collection):
        raise NotFound(f"no collection {question.collection!r}; `rag-owl collections` lists them")
    if not isinstance(question.text, str):
        raise InvalidQuestion(f"a question is a text, not a {_type(question.text)}")
    if len(question.text) > LONGEST_QUESTION:
        raise InvalidQuestion(
            f"the question has {len(question.text):,} characters; at most {LONGEST_QUESTION:,}. "
            "Ingest long material and ask about it."
        )
    if not is_storable(question.text):
        raise InvalidQuestion("the question holds a NUL or a lone surrogate; leave it out")
    k = question.k
    if isinstance(k, bool) or not isinstance(k, int):
        raise InvalidQuestion(f"k is a {_type(k)}; give a whole number from 1 to {MOST_ITEMS}")
    if not 1 <= k <= MOST_ITEMS:
        raise InvalidQuestion(f"k is too {'small' if k < 1 else 'large'}: give 1 to {MOST_ITEMS}")
    if question.filters is not None and question.filters != {}:
        filters.check(question.filters)
    for item_id in question.exclude_items:
        if not isinstance(item_id, str) or not is_storable(item_id):
            raise InvalidQuestion(f"exclude_items: {item_id!r} is no item's id")
    if question.verify not in get_args(Verify):
        raise InvalidQuestion(f"verify is {' or '.join(get_args(Verify))}", "verify")
    if not isinstance(question.require_support, bool):
        raise InvalidQuestion("require_support is true or false", "require_support")
    if len(question.exclude_items) > MOST_ITEMS:
        raise InvalidQuestion(f"exclude_items names more than {MOST_ITEMS} items")
    for name, value, least, most in (
        ("max_tokens", question.max_tokens, 1, MOST_TOKENS),
        ("seed", question.seed, 0, 2**63 - 1),
        ("budget", question.budget, LEAST_BUDGET, MOST_BUDGET),
    ):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and least <= value <= most):
            raise InvalidQuestion(f"{name} is a whole number from {least} to {most}", name)


def _type(value: object) -> str:
    return type(value).__name__
