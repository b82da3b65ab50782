"""Which sources bear a statement out, and which say otherwise: by exact words, and by a judge.

A sentence that stands in an item word for word is borne out, which needs no model. Everything else
is for the judge, which is loaded only when it is first asked. What was asked once is remembered,
so that a sentence that was checked before it was sent has the same verdict in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rag_owl.ports import Judge
from rag_owl.sentences import sentence_spans
from rag_owl.statements import MARKER, declare
from rag_owl.terms import index_terms
from rag_owl.types import Bearing, Claim, Item, Support, Verdict

ORDER: tuple[Verdict, ...] = ("unsupported", "unchecked", "partly", "supported")  # the best last
_SAME_MATTER = 0.6  # of a statement's terms in one sentence: that speaks of the same
_CANDIDATES = 2  # sources that a statement without a marker is compared with
_NAME_OR_NUMBER = re.compile(r"\d(?:[\d,.]*\d)?|\b[^\W\d_a-z][\w'’-]+")
LONGEST = 4_000  # characters of one statement that are compared
_SMALL_WORDS = """
a an the in on at of to by for from with and or but as if it its he she they we you i his her their
our your my this that these those there here when where while after before during since until
although though because however also some many most other another each both all no not under over
between among within without according despite unlike like such
"""
_FIRST_WORDS = frozenset(_SMALL_WORDS.split())  # large at the beginning of a sentence, and no names


@dataclass(frozen=True, slots=True)
class Asked:
    statement: str  # without its markers
    source: int
    bare: bool = False  # the answer alone, no sentence
    quote: str | None = None  # where the answerer points to


class Checker:
    """For one answer. Not for several threads at once."""

    def __init__(
        self, question: str, items: Sequence[Item], judge: Callable[[], Judge | None]
    ) -> None:
        """judge: called when it is first needed."""
        self._question = question
        self._items = items
        self._load = judge
        self._loaded: tuple[Judge | None] | None = None
        self._known: dict[tuple[str, int], Bearing | None] = {}

    @property
    def sources(self) -> int:
        return len(self._items)

    @property
    def judge(self) -> Judge | None:
        if self._loaded is None:
            self._loaded = (self._load(),)
        return self._loaded[0]

    def check(self, asked: Sequence[Asked]) -> list[Support]:
        """One verdict each; the judge reads all that it has to in one batch."""
        verbatim = [self._verbatim(each) for each in asked]
        unsure = [a for a, v in zip(asked, verbatim, strict=True) if a.bare or not v]
        self._judge([(self._said(each), each.source) for each in unsure if each.statement])
        return [self._support(each, v) for each, v in zip(asked, verbatim, strict=True)]

    def contradicting(self, statement: str, cited: Sequence[int], bare: bool = False) -> list[int]:
        """Sources beside the cited ones that speak of the same and say something else."""
        said = declare(self._question, statement) if bare else statement
        candidates = [
            source
            for source in range(len(self._items))
            if source not in cited and self._says_otherwise(said, source)
        ]
        if not candidates or self.judge is None:
            return []
        self._judge([(said, source) for source in candidates])
        least = self.judge.contradicted_from
        found = [(source, self._known.get((said, source))) for source in candidates]
        return [s for s, b in found if b is not None and b.contradicted >= least]

    def best(self, statement: str) -> int | None:
        """The source that bears out a statement without a marker, if there is one."""
        shares = [(self._nearest(statement, i)[0], -i) for i in range(len(self._items))]
        near = sorted((s for s in shares if s[0] >= 0.5), reverse=True)[:_CANDIDATES]
        asked = [Asked(statement, -minus) for _, minus in near]
        found = [(ORDER.index(s.verdict), -at) for at, s in enumerate(self.check(asked))]
        rank, at = max(found, default=(0, 0))
        return asked[-at].source if rank >= ORDER.index("partly") else None

    # --- one statement and one item -----------------------------------------------------------

    def _said(self, asked: Asked) -> str:
        return declare(self._question, asked.statement) if asked.bare else asked.statement

    def _verbatim(self, asked: Asked) -> bool:
        plain = _plain(asked.statement)
        if not plain:
            return False
        if asked.quote is not None and plain in _plain(asked.quote):
            return True
        # Without a place only a whole sentence counts: a name stands in many texts.
        text = _plain(self._items[asked.source].text or "")
        return not asked.bare and plain[-1:] in ".!?。！？" and plain in text

    def _support(self, asked: Asked, verbatim: bool) -> Support:
        """A bare answer ("Lima") also stands in its item, but says nothing alone: where the judge
        cannot confirm it as the answer to the question, support is partial."""
        if verbatim and not asked.bare:
            return Support("supported")
        judge = self.judge
        bearing = self._known.get((self._said(asked), asked.source))
        if judge is None or bearing is None:
            return Support("supported" if verbatim else "unchecked")
        verdict: Verdict = "partly"
        if bearing.supported >= judge.supported_from:
            verdict = "supported"
        elif bearing.supported < judge.unsupported_below and not verbatim:
            verdict = "unsupported"
        contradicted = verdict == "unsupported" and bearing.contradicted >= judge.contradicted_from
        return Support(verdict, entailment=bearing.supported, contradicted=contradicted)

    def _judge(self, pairs: Sequence[tuple[str, int]]) -> None:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if not new or self.judge is None:
            return
        claims = [Claim(said[:LONGEST], self._items[at], self._question) for said, at in new]
        self._known |= zip(new, self.judge.judge_all(claims), strict=True)

    def _nearest(self, statement: str, source: int) -> tuple[float, str]:
        """The sentence of a source that shares most terms with a statement, and which share."""
        wanted = set(index_terms(statement[:LONGEST]))
        text = self._items[source].text or ""
        best = (0.0, "")
        for start, end in sentence_spans(text):
            shared = len(wanted & set(index_terms(text[start:end]))) / max(1, len(wanted))
            best = max(best, (shared, text[start:end]), key=lambda one: one[0])
        return best

    def _says_otherwise(self, statement: str, source: int) -> bool:
        """Whether a sentence of it speaks of the same with another name or number in it."""
        share, sentence = self._nearest(statement, source)
        if share < _SAME_MATTER:
            return False
        there = set(index_terms(sentence))
        return any(not set(index_terms(name)) <= there for name in names_and_numbers(statement))


def names_and_numbers(text: str) -> list[str]:
    """What is written with a capital letter or a digit."""
    found = _NAME_OR_NUMBER.finditer(text)
    return [m[0] for m in found if m.start() > 0 or m[0].lower() not in _FIRST_WORDS]


def without_markers(text: str) -> str:
    return MARKER.sub("", text).strip()


def _plain(text: str) -> str:
    return " ".join(text.split())
