"""What owl-nano says: drafts out of spans that it points at and of pictures that it finds alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rag_owl.model.nano import comparing
from rag_owl.model.nano.looking import Looker, Seen
from rag_owl.model.nano.pointing import Span, shares
from rag_owl.sentences import sentence_spans
from rag_owl.terms import query_terms
from rag_owl.types import Attribution, Box, Context, Draft, Look

ABSTENTION = "The retrieved items do not seem to hold an answer to this question."
NOT_READ = "This model reads English only; these passages share words with the question:"


def pointed(
    context: Context,
    chosen: Sequence[Span],
    found: Sequence[Span],
    probability_of: Callable[[Span], float],
    box_of: Callable[[int], Box | None],
    sentences_alone: bool = False,
) -> Draft:
    """The chosen of the found spans, each with the sentence that it stands in, or that alone."""
    short = ", ".join(
        OrderedDict.fromkeys(context.sources[s.item].item.text[s.start : s.end] for s in chosen)  # type: ignore[index]
    )
    text, attributions, drawn = "", [], shares(found)
    for span in chosen:
        box = box_of(span.item)
        body = context.sources[span.item].item.text or ""
        a, b = _sentence(body, span.start, span.end)
        pieces = [(span.start, span.end)]
        if sentences_alone:
            pieces = [(a, b)]
        elif body[a:b].strip(" .") != body[span.start : span.end].strip(" ."):
            pieces.append((a, b))
        for start, end in pieces:
            said = " ".join(body[start:end].split())
            at = len(text) + bool(text)
            text += f"{chr(10) if text else ''}{said} [{span.item + 1}]"
            attributions.append(
                Attribution(
                    at, at + len(said), span.item, start, end, drawn[span.item], box,
                    relevance=probability_of(span),
                )
            )  # fmt: skip
    told = None if sentences_alone else short
    return Draft(text, tuple(attributions), told, probability_of(found[0]))


def recognised(
    context: Context, looker: Looker, user: Sequence[Seen], items: Sequence[Seen | None]
) -> Draft | None:
    """The item whose picture matches, by its title, where no text could be pointed at."""
    match = looker.best_match(user[0], items)
    if match is None or not looker.same(match[1]):
        return None
    index, score = match
    title = context.sources[index].item.title
    text = f"{title} [{index + 1}]: its picture matches (similarity {score:.2f})."
    place = Attribution(0, len(title), index, alike=looker.probably_same(score))
    return Draft(text, (place,), title, score)


def compared(
    context: Context, looker: Looker, user: Sequence[Seen], items: Sequence[Seen | None]
) -> Draft | None:
    """What is asked about the user's pictures together; None where it is something else."""
    asked = comparing.read(context.question.text, len(user))
    if asked is None:
        return None
    if asked.kind == "count" and asked.reference is None:
        counted = _counted(context, looker, user, items)
        if counted is None and comparing.is_of_what_is_shown(context.question.text):
            # A number that stands in some text would be no count of these pictures.
            return Draft(ABSTENTION, answerable=0.0, abstained=True)
        return counted
    plain = [replace(seen, closer=None) for seen in user]  # as the threshold was set
    alike = np.array([[looker.likeness(a, b) for b in plain] for a in plain])
    said = comparing.answer(asked, alike, looker.threshold)
    if said is None:
        return None
    text, attributions = said.text, []
    for at in said.pictures:
        match = looker.best_match(user[at], items)
        if match and looker.same(match[1]):
            begin, title = len(text) + 1, context.sources[match[0]].item.title
            like = f"The {comparing.name(at)} looks like {title}"
            text += f" {like} [{match[0] + 1}]."
            likely = looker.probably_same(match[1])
            attributions.append(Attribution(begin, begin + len(like), match[0], alike=likely))
    look = Look(0, len(said.text), tuple(at + 1 for at in said.pictures))
    return Draft(text, tuple(attributions), said.short, looks=(look,))


def _counted(
    context: Context, looker: Looker, user: Sequence[Seen], items: Sequence[Seen | None]
) -> Draft | None:
    """How many of the user's pictures show what an item that the question names shows."""
    titles = [s.item.title for s in context.sources]
    named = comparing.named(context.question.text, titles)
    named = [i for i in named if items[i] is not None]
    if not named:
        return None
    best = [max((looker.likeness(u, items[i]), i) for i in named) for u in user]  # type: ignore[arg-type]
    said = comparing.count_of(titles[named[0]], [looker.same(score) for score, _ in best])
    # The item that most of them are like, and how sure the least sure of those counted is.
    counted = [(score, i) for score, i in best if looker.same(score)]
    source = max((i for _, i in counted), key=[i for _, i in counted].count, default=named[0])
    text = said.text.removesuffix(".")
    sure = looker.probably_same(min(counted)[0]) if counted else None
    place = Attribution(0, len(text), source, alike=sure)
    look = Look(0, len(text), tuple(at + 1 for at in said.pictures))
    return Draft(f"{text} [{source + 1}].", (place,), said.short, looks=(look,))


def lexical(context: Context) -> Draft:
    """The sentence of each source that shares most words with the question; no claim to answer."""
    wanted = set(query_terms(context.question.text))
    scored = []
    for index, source in enumerate(context.sources):
        body = source.item.text or ""
        for a, b in sentence_spans(body):
            shared = len(wanted & set(query_terms(body[a:b])))
            if shared:
                scored.append((shared, -index, a, b))
    text, attributions = NOT_READ, []
    for _, minus, a, b in sorted(scored, reverse=True)[:3]:
        said = " ".join((context.sources[-minus].item.text or "")[a:b].split())
        at = len(text) + 1
        text += f"\n{said} [{1 - minus}]"
        attributions.append(Attribution(at, at + len(said), -minus, a, b))
    if not attributions:
        text = "This model reads English only, and no retrieved passage shares a word with this."
        return Draft(text, abstained=True)
    return Draft(text, tuple(attributions))


def _sentence(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentences that a span stands in."""
    touched = [(a, b) for a, b in sentence_spans(text) if a < end and start < b]
    return (touched[0][0], touched[-1][1]) if touched else (start, end)
