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
_SAME_SENTENCE = 0.7  # of a sentence's terms in another one: the same with something changed
_CANDIDATES = 2  # sources that a statement without a marker is compared with
_NAME_OR_NUMBER = re.compile(r"\d(?:[\w,.]*\w)?|\b[^\W\d_a-z][\w'’-]+")
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
        self._whole: dict[int, set[str]] = {}
        self._near: dict[tuple[str, int], tuple[float, str]] = {}

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
        self._judge([(self._said(each), each.source, each.bare) for each in unsure])
        return [self._support(each, v) for each, v in zip(asked, verbatim, strict=True)]

    def contradicting(self, statement: str, cited: Sequence[int], bare: bool = False) -> list[int]:
        """Sources beside the cited ones that speak of the same and say something else."""
        said = declare(self._question, statement) if bare else statement
        others = [source for source in range(len(self._items)) if source not in cited]
        found = {o for o in others for c in cited if self._twin(said, c, o)}
        candidates = [source for source in self.denying(said, cited) if source not in found]
        if candidates and self.judge is not None:
            self._judge([(said, source, bare) for source in candidates])
            least = self.judge.contradicted_from
            for source in candidates:
                bearing = self._known.get((said, source))
                if bearing is not None and bearing.contradicted >= least:
                    found.add(source)
        return sorted(found)

    def denying(self, statement: str, cited: Sequence[int]) -> list[int]:
        """Those whose words make it worth asking the judge, the nearest ones."""
        found = []
        for source in range(len(self._items)):
            if source in cited:
                continue
            share, sentence = self._nearest(statement, source)
            if share >= _SAME_MATTER and any(
                self._gone(statement, sentence, c, source) for c in cited
            ):
                found.append((-share, source))
        return [source for _, source in sorted(found)[:_CANDIDATES]]

    def best(self, statement: str) -> int | None:
        """The source that bears out a statement without a marker, if there is one."""
        shares = [(self._nearest(statement, i)[0], -i) for i in range(len(self._items))]
        near = sorted((s for s in shares if s[0] >= 0.5), reverse=True)[:_CANDIDATES]
        asked = [Asked(statement, -minus) for _, minus in near]
        found = [(ORDER.index(s.verdict), -at) for at, s in enumerate(self.check(asked))]
        rank, at = max(found, default=(0, 0))
        return asked[-at].source if rank >= ORDER.index("partly") else None

    def place(self, statement: str, source: int) -> tuple[int, int] | None:
        """The characters of the source's sentence that shares most words with a statement, at
        least half of them: a pointer for readers, and no check."""
        share, sentence = self._nearest(statement, source)
        if share < 0.5:
            return None
        start = (self._items[source].text or "").index(sentence)
        return start, start + len(sentence)

    # --- one statement and one item -----------------------------------------------------------

    def _said(self, asked: Asked) -> str:
        return declare(self._question, asked.statement) if asked.bare else asked.statement

    def _verbatim(self, asked: Asked) -> bool:
        plain = _plain(asked.statement)
        if not plain:
            return False
        if asked.quote is not None and plain in _plain(asked.quote):
            return True
        # Without a place only whole sentences count: a name stands in many texts.
        if asked.bare or plain[-1] not in ".!?。！？":
            return False
        there = self._sentences(asked.source)
        return all(plain[a:b] in there for a, b in sentence_spans(plain))

    def _sentences(self, source: int) -> set[str]:
        if source not in self._whole:
            text = self._items[source].text or ""
            self._whole[source] = {_plain(text[a:b]) for a, b in sentence_spans(text)}
        return self._whole[source]

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

    def _judge(self, wanted: Sequence[tuple[str, int, bool]]) -> None:
        """statement, source, and whether the answerer itself pointed at the answer: then a judge
        that would ask its pointer again learns nothing from the question."""
        new = {(s, at): bare for s, at, bare in wanted if s and (s, at) not in self._known}
        if not new or self.judge is None:
            return
        claims = [
            Claim(said[:LONGEST], self._items[at], None if bare else self._question)
            for (said, at), bare in new.items()
        ]
        self._known |= zip(new, self.judge.judge_all(claims), strict=True)

    def _nearest(self, statement: str, source: int) -> tuple[float, str]:
        """The sentence of a source that shares most terms with a statement, and which share."""
        known = self._near.get((statement, source))
        if known is not None:
            return known
        wanted = set(index_terms(statement[:LONGEST]))
        text = self._items[source].text or ""
        best = (0.0, "")
        for start, end in sentence_spans(text):
            shared = len(wanted & set(index_terms(text[start:end]))) / max(1, len(wanted))
            best = max(best, (shared, text[start:end]), key=lambda one: one[0])
        self._near[statement, source] = best
        return best

    def _twin(self, statement: str, cited: int, source: int) -> bool:
        """Whether the sentence that a statement rests on stands in another source as well, but
        without a name or number that the statement gives in answer to the question."""
        ground = self._nearest(statement, cited)[1]
        share, sentence = self._nearest(ground, source)
        if share < _SAME_SENTENCE:
            return False
        gone = self._gone(ground, sentence, cited, source)
        return bool(gone & set(index_terms(statement)))

    def _gone(self, said: str, sentence: str, cited: int, source: int) -> set[str]:
        """The terms of names and numbers that another source's sentence lacks. None at all where
        it lacks what was asked about, or what the cited item is about: then it speaks of something
        else."""
        own, other = self._items[cited], self._items[source]
        there = set(index_terms(f"{sentence} {other.title} {other.heading}"))
        named = [set(index_terms(name)) for name in names_and_numbers(said)]
        gone = set().union(*named) - there
        subject = set(index_terms(f"{self._question} {own.title} {own.heading}"))
        return set() if gone & subject or set(index_terms(own.title)) - there else gone


def names_and_numbers(text: str) -> list[str]:
    """What is written with a capital letter or a digit."""
    found = _NAME_OR_NUMBER.finditer(text)
    return [m[0] for m in found if m.start() > 0 or m[0].lower() not in _FIRST_WORDS]


def without_markers(text: str) -> str:
    return MARKER.sub("", text).strip()


def _plain(text: str) -> str:
    return " ".join(text.split())
