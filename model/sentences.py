"""The plainest answerer, and the baseline that models must beat: quote the best sentences.

Every sentence of the retrieved items is compared with the question by the text embedder; the best
one to three are the answer, word for word, each cited with its exact place. Below a threshold it
abstains.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rag_owl.ports import TextEmbedder
from rag_owl.sentences import sentence_spans
from rag_owl.terms import index_terms
from rag_owl.types import Attribution, Context, Draft

ABSTENTION = "The collection does not seem to hold an answer to this question."
THRESHOLD = 0.5  # cosine of question and sentence under all-MiniLM-L6-v2
# Rough values; `python -m benchmarks.quality.sentences` fits them on validation questions and cards
SLOPE, OFFSET = 9.0, -5.5
_MARGIN = 0.05  # a second and third sentence must come this near to the best
_MOST = 3
# With a picture the subject is given by what is seen, and the sentence names what the words do not.
_THRESHOLD_WITH_PICTURE = 0.4
_SHORTEST = 15  # characters: shorter pieces are titles and table cells, not statements
# A picture less like the user's than the best match by more than this shows something else.
_PICTURE_MARGIN = 0.02
_POSSESSIVE = re.compile(r"['’]s\b")


@dataclass(frozen=True, slots=True)
class _Sentence:
    source: int  # index into Context.sources
    start: int  # within the item's text
    end: int
    text: str
    cosine: float = 0.0  # with the question


class SentencesAnswerer:
    """Implements `rag_owl.ports.Answerer`."""

    name = "sentences"

    def __init__(
        self,
        embedder: TextEmbedder,
        threshold: float = THRESHOLD,
        abstain_below: float | None = None,
    ) -> None:
        """abstain_below: probability that the sources hold the answer, instead of the threshold."""
        self._embedder = embedder
        self._threshold = threshold
        self._abstain_below = abstain_below

    def answer(self, context: Context, on_text: Callable[[str], None] | None = None) -> Draft:
        candidates = _sentences(context, _shown_by_picture(context) & _about_names(context))
        chosen: list[_Sentence] = []
        likely = 0.0
        if candidates:
            items = [context.sources[c.source].item for c in candidates]
            vectors = self._embedder.embed_texts(
                # A sentence often names its subject only in the title above it; but a film's is
                # its file's name, which says nothing of what is said in it.
                [
                    c.text if item.kind == "video" else f"{item.title}: {c.text}"
                    for item, c in zip(items, candidates, strict=True)
                ]
            )
            scores = vectors @ self._embedder.embed_query(context.question.text)
            best = float(scores.max())
            likely = answerable(best)
            least = max(self._threshold_for(context), best - _MARGIN)
            if self._abstain_below is not None:
                least = best - _MARGIN if likely >= self._abstain_below else math.inf
            for at in sorted(range(len(candidates)), key=lambda at: -scores[at]):
                if scores[at] < least or len(chosen) == _MOST:
                    break
                if candidates[at].text not in {other.text for other in chosen}:
                    chosen.append(replace(candidates[at], cosine=float(scores[at])))
        draft = replace(_write(chosen, self.name), answerable=likely)
        if on_text:
            on_text(draft.text)
        return draft

    def _threshold_for(self, context: Context) -> float:
        if context.question.pictures:
            return min(self._threshold, _THRESHOLD_WITH_PICTURE)
        return self._threshold


def answerable(cosine: float) -> float:
    """The probability that the sources hold the answer, from the best sentence's cosine."""
    return 1 / (1 + math.exp(-(SLOPE * cosine + OFFSET)))


def _about_names(context: Context) -> set[int]:
    """The sources that hold every name and number of the question.

    An embedder finds "the currency of Grenada" near "the currency of Atlantis"; it answers nothing.
    """
    named = _names(context.question.text)
    holds = set()
    for at, source in enumerate(context.sources):
        item = source.item
        if named <= set(index_terms(f"{item.title} {item.heading} {item.text or ''}")):
            holds.add(at)
    return holds


def _names(question: str) -> set[str]:
    return {
        term
        for word in question.split()[1:]  # the first word is written large anyway
        if word[:1].isupper() or any(c.isdigit() for c in word)
        for term in index_terms(_POSSESSIVE.sub("", word))
    }


def _shown_by_picture(context: Context) -> set[int]:
    """The sources that a question may be answered from: with a picture, those that show it too."""
    everything = set(range(len(context.sources)))
    if not context.question.pictures:
        return everything
    alike = {
        at: source.similarities["picture"]
        for at, source in enumerate(context.sources)
        if "picture" in source.similarities
    }
    if not alike:
        return everything
    best = max(alike.values())
    return {at for at, similarity in alike.items() if similarity >= best - _PICTURE_MARGIN}


def _sentences(context: Context, sources: set[int]) -> list[_Sentence]:
    found = []
    asked = set(index_terms(context.question.text))
    named = _names(context.question.text)
    for at in sorted(sources):
        item = context.sources[at].item
        text = item.text or ""
        # An item about Chile names Peru as well; what it says before that is not about Peru.
        elsewhere = not set(index_terms(item.title)) <= asked
        before = set(index_terms(f"{item.title} {item.heading}"))
        for start, end in sentence_spans(text):
            before |= set(index_terms(text[start:end]))
            if end - start < _SHORTEST or text[start:end] == item.title:
                continue
            if not elsewhere or named <= before:
                found.append(_Sentence(at, start, end, text[start:end]))
    return found


def _write(chosen: Sequence[_Sentence], model: str) -> Draft:
    if not chosen:
        return Draft(ABSTENTION, abstained=True, model=model)
    text = ""
    attributions = []
    for sentence in chosen:
        start = len(text) + bool(text)
        said = " ".join(sentence.text.split())
        attributions.append(
            Attribution(
                start, start + len(said), sentence.source, sentence.start, sentence.end,
                relevance=answerable(sentence.cosine),
            )
        )  # fmt: skip
        text += f"{' ' if text else ''}{said} [{sentence.source + 1}]"
    return Draft(text, tuple(attributions), model=model)
