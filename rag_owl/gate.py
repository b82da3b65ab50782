"""An answer of which only what has support is let through, statement by statement.

While text comes, a statement is checked when the next one has begun, and only then sent; so what
was sent never changes. The last ones, and those of models that say everything at once, are decided
by the finished answer's own verdicts, which are the same: the checker remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from rag_owl.checking import Asked, Checker, without_markers
from rag_owl.statements import MARKER, statements
from rag_owl.types import Answer, Citation, Look, Moment, Statement

Placed = TypeVar("Placed", Citation, Statement, Moment, Look)

NOTHING_SUPPORTED = "No statement of the answer is borne out by the retrieved items."
_ENOUGH = ("supported", "partly")


class Gate:
    """Stands between an answerer and whoever listens, for one answer."""

    def __init__(self, checker: Checker, on_text: Callable[[str], None] | None) -> None:
        self._checker = checker
        self._say = on_text or (lambda _: None)
        self._text = ""
        self._decided = 0  # characters of the text
        self._kept: list[tuple[int, int]] = []
        self._sent = ""
        self._space = ""  # behind what was let through: it is sent with what follows, if anything

    def on_text(self, piece: str) -> None:
        # First what earlier pieces completed: an answer of one piece is left to `finish`.
        self._decide_complete()
        self._text += piece
        self._say("")  # a listener that has gone away says so

    def finish(self, answer: Answer) -> Answer:
        """The answer with what was let through, the rest decided; the last text is sent."""
        if answer.abstained:
            self._send(answer.text if not self._sent else "")
            return answer
        end = len(answer.text)
        for statement, (start, stop) in zip(answer.statements, _stretches(answer), strict=True):
            if statement.start >= self._decided and statement.verdict in _ENOUGH:
                self._keep(answer.text, start, stop)
        self._decided = end
        return _cut(answer, self._kept, self._sent) if self._kept else self._nothing(answer)

    def _decide_complete(self) -> None:
        """All but the last statement of the text so far."""
        rest = self._text[self._decided :]
        found = statements(rest, self._checker.sources)
        if found and rest[found[-1][0]] == "[":  # it may become a marker of the one before
            found = found[:-1]
        for (start, end, marked), following in pairwise(found):
            if self._is_supported(rest[start:end], marked):
                self._keep(self._text, self._decided + start, self._decided + following[0])
        if len(found) > 1:
            self._decided += found[-1][0]

    def _is_supported(self, said: str, marked: Sequence[int]) -> bool:
        said = without_markers(said)
        sources = list(marked)
        if not sources:
            best = self._checker.best(said)
            sources = [best] if best is not None else []
        found = self._checker.check([Asked(said, source) for source in sources])
        return any(support.verdict in _ENOUGH for support in found)

    def _keep(self, text: str, start: int, end: int) -> None:
        self._kept.append((start, end))
        said = text[start:end].rstrip()
        self._send(self._space + said)
        self._space = text[start + len(said) : end]

    def _send(self, text: str) -> None:
        if text:
            self._sent += text
            self._say(text)

    def _nothing(self, answer: Answer) -> Answer:
        self._send(NOTHING_SUPPORTED)
        return replace(
            answer,
            text=NOTHING_SUPPORTED,
            abstained=True,
            short=None,
            citations=(),
            moments=(),
            looks=(),
            statements=(),
            dangling_markers=(),
        )


def _stretches(answer: Answer) -> list[tuple[int, int]]:
    """Each statement with its markers and the white space behind it: up to the next one."""
    starts = [statement.start for statement in answer.statements]
    return list(zip(starts, [*starts[1:], len(answer.text)], strict=True))


def _cut(answer: Answer, kept: Sequence[tuple[int, int]], sent: str) -> Answer:
    """The answer with only these stretches of its text; `sent` is what they are together, without
    the white space behind the last."""
    shifts: list[tuple[int, int, int]] = []  # start, end, how far it moves
    at = 0
    for start, end in kept:
        shifts.append((start, end, at - start))
        at += end - start

    def moved(one: Placed) -> Placed | None:
        for start, end, by in shifts:
            if start <= one.start and one.end <= end:
                return replace(one, start=one.start + by, end=min(one.end + by, len(sent)))
        return None

    said = tuple(s for one in answer.statements if (s := moved(one)) is not None)
    left = len(answer.statements) - len(said)
    notes = answer.notes
    if left:
        words = f"{left} statements" if left > 1 else "1 statement"
        notes = (*notes, f"Left out: {words} without support.")
    markers = {int(m) for m in MARKER.findall(sent)}
    return replace(
        answer,
        text=sent,
        citations=tuple(c for one in answer.citations if (c := moved(one)) is not None),
        statements=said,
        moments=tuple(m for one in answer.moments if (m := moved(one)) is not None),
        looks=tuple(look for one in answer.looks if (look := moved(one)) is not None),
        short=answer.short if answer.short and answer.short in sent else None,
        dangling_markers=tuple(m for m in answer.dangling_markers if m in markers),
        notes=notes,
    )
