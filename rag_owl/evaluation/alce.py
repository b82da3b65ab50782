"""Citation recall and precision as ALCE defines them.

Gao et al. 2023, "Enabling Large Language Models to Generate Text with Citations", section 3 and the
authors' own `eval.py`. Per answer, over its sentences:

- recall: the share of sentences that have citations, all of them to sources that exist, and whose
  cited sources, joined, entail them;
- precision: the share of citations that stand with such a sentence and are not irrelevant: one is
  irrelevant when it alone does not entail the sentence and the others do without it.

At most the first three citations of a sentence count. A citation to a source that does not exist
makes the sentence unsupported and counts for no precision. A figure over many answers is the mean
over answers. What is ours: sentences are split by `rag_owl.sentences`, line by line; a short answer
on a line of its own is read as the answer to the question (ALCE does so for lists: "question
answer"); an abstention is no answer and is left out; a sentence that the judge cannot read is left
out as well, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rag_owl.ports import Judge
from rag_owl.sentences import sentence_spans
from rag_owl.statements import MARKER, declare
from rag_owl.types import Claim, Item

MOST_CITATIONS = 3  # of one sentence
_WITH_SPACE = re.compile(rf"\s*{MARKER.pattern}")
_LEADING = re.compile(r"(\s*\[\d{1,4}\])+")

Entails = Callable[[Sequence[int], str], bool | None]
"""Whether sources (their indices from 0, joined in this order) entail a statement; None: unread."""


@dataclass(frozen=True, slots=True)
class Cited:
    """A sentence without its markers, and the markers as they stand, from 1."""

    statement: str
    markers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CitationScore:
    recall: float | None  # None: no sentence could be judged
    precision: float | None
    sentences: int
    citations: int
    unread: int  # sentences that the judge could not read; left out of both


def cited_sentences(text: str, citations: Sequence[tuple[int, int, int]] = ()) -> list[Cited]:
    """The sentences of an answer; markers after a full stop belong to the sentence before them.

    citations: (start, end, marker) of what is cited without a marker in the text, or with one.
    """
    found: list[Cited] = []
    line_start = 0
    for line in text.split("\n"):
        here: list[tuple[int, int, list[int]]] = []
        for start, end in sentence_spans(line):
            leading = _LEADING.match(line, start, end)
            if leading and here:
                here[-1][2].extend(int(m) for m in MARKER.findall(leading[0]))
                start = leading.end()
            if any(char.isalnum() for char in without_markers(line[start:end])):
                here.append((start, end, [int(m) for m in MARKER.findall(line[start:end])]))
        for start, end, markers in here:
            more = [
                marker
                for first, last, marker in citations
                if first < line_start + end and line_start + start < last
            ]
            markers += [marker for marker in dict.fromkeys(more) if marker not in markers]
            found.append(Cited(without_markers(line[start:end]), tuple(markers)))
        line_start += len(line) + 1
    return found


def without_markers(text: str) -> str:
    return " ".join(_WITH_SPACE.sub("", text).split())


def score(sentences: Sequence[Cited], sources: int, entails: Entails) -> CitationScore | None:
    """-> the score of one answer; None where it has no sentence. sources: how many there are."""
    supported = precise = cited = unread = 0
    for sentence in sentences:
        if not sentence.markers or not all(1 <= m <= sources for m in sentence.markers):
            continue
        refs = [marker - 1 for marker in sentence.markers[:MOST_CITATIONS]]
        verdict = entails(refs, sentence.statement)
        if verdict is None:
            unread += 1
            continue
        cited += len(refs)
        if verdict:
            supported += 1
            precise += sum(
                _counts(at, refs, sentence.statement, entails) for at in range(len(refs))
            )
    if not sentences:
        return None
    judged = len(sentences) - unread
    return CitationScore(
        recall=supported / judged if judged else None,
        precision=(precise / cited if cited else 0.0) if judged else None,
        sentences=len(sentences),
        citations=cited,
        unread=unread,
    )


def _counts(at: int, refs: Sequence[int], statement: str, entails: Entails) -> bool:
    """Of a sentence that its citations together entail: whether this one is not irrelevant."""
    if len(refs) == 1 or entails([refs[at]], statement):
        return True
    return not entails([*refs[:at], *refs[at + 1 :]], statement)


def statement_of(question: str, sentence: str, short: str | None) -> str:
    """A bare answer as a statement with its question, everything else as it stands."""
    return declare(question, sentence) if short and sentence in short else sentence


def entailment(judge: Judge, items: Sequence[Item | None], question: str | None = None) -> Entails:
    """How `judge` reads the sources of an answer; None among them: deleted since then."""

    def entails(sources: Sequence[int], statement: str) -> bool | None:
        shown = [item for at in sources if (item := items[at]) is not None]
        if not shown:
            return None
        claim = Claim(statement, shown[0] if len(shown) == 1 else _joined(shown), question)
        bearing = judge.judge_all([claim])[0]
        return None if bearing is None else bearing.supported >= judge.supported_from

    return entails


def _joined(items: Sequence[Item]) -> Item:
    """Several items as one, each under its title, as ALCE joins passages."""
    texts = [f"{item.title}\n{item.text}" for item in items if item.text]
    return replace(items[0], title="", heading="", text="\n".join(texts) or None)
