"""owl-nano's support head as what citations are checked with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.nano import language, minilm, weights
from rag_owl.model.nano.reader import Reader, Reading
from rag_owl.model.nano.signals import ASKED, SIGNALS, compare, pointed, speaks_of, together
from rag_owl.model.nano.window import MAX_PREFIX, Piece, Tokens, collate, lay_out, tokenise
from rag_owl.types import Bearing, Claim, Item

TOKENS = 112  # of an item's text that are read: it was trained on texts of about so many
_BATCH = 16


@dataclass(frozen=True)
class Signs:
    """What is calibrated of one claim."""

    signals: NDArray[np.float64]  # SIGNALS
    asked: NDArray[np.float64] | None  # ASKED, where the statement speaks of the question
    shares: tuple[float, float, float]  # the head's probabilities of SUPPORT


@dataclass(frozen=True)
class Calibration:
    """From signals to a probability (logistic models), and thresholds on it."""

    weights: NDArray[np.float64]  # per SIGNALS
    offset: float
    asked_weights: NDArray[np.float64]  # per ASKED
    asked_offset: float
    supported_from: float
    unsupported_below: float
    contradicted_from: float

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """None where there is none for just these weights. Raises `InvalidCheckpoint`."""
        stored = weights.evidence(folder)
        if stored is None:
            return None
        try:
            judge = stored["judge"]
            if {*judge["weights"]} != {*SIGNALS} or {*judge["asked_weights"]} != {*ASKED}:
                return None
            return cls(
                np.array([judge["weights"][name] for name in SIGNALS]),
                judge["offset"],
                np.array([judge["asked_weights"][name] for name in ASKED]),
                judge["asked_offset"],
                judge["supported_from"],
                judge["unsupported_below"],
                judge["contradicted_from"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            path = folder / weights.EVIDENCE
            raise InvalidCheckpoint(f"{path} is damaged: reinstall rag-owl") from error

    def probability(self, signs: Signs) -> float:
        score = float(signs.signals @ self.weights) + self.offset
        if signs.asked is not None:
            score = float(signs.asked @ self.asked_weights) + self.asked_offset
        return 1 / (1 + math.exp(-max(min(score, 30.0), -30.0)))


class NanoJudge:
    """Implements `rag_owl.ports.Judge`. Safe for several threads."""

    name = "owl-nano"

    def __init__(
        self, reader: Reader, plain: dict[str, float], calibration: Calibration | None = None
    ) -> None:
        """plain: thresholds on the head's own probabilities, for weights without a calibration."""
        self._reader = reader
        self._tokenizer: Any = minilm.tokenizer()
        self._calibration = calibration
        self.supported_from = plain["supported_from"]
        self.unsupported_below = plain["supported_from"]
        self.contradicted_from = plain["contradicted_from"]
        if calibration is not None:
            self.supported_from = calibration.supported_from
            self.unsupported_below = calibration.unsupported_below
            self.contradicted_from = calibration.contradicted_from

    @classmethod
    def load(cls, folder: Path = weights.FOLDER) -> NanoJudge:
        """From the bundled files. Raises `InvalidCheckpoint` when one is missing or damaged."""
        plain = weights.manifest(folder)["calibration"]
        return cls(weights.load_reader(folder), plain, Calibration.load(folder))

    def judge(self, statement: str, item: Item) -> Bearing | None:
        """One claim of `judge_all`."""
        return self.judge_all([Claim(statement, item)])[0]

    def judge_all(self, claims: Sequence[Claim]) -> list[Bearing | None]:
        """None where a statement is not English, or an item has no text."""
        return [self._bearing(signs) if signs else None for signs in self.signs(claims)]

    def _bearing(self, signs: Signs) -> Bearing:
        supported, contradicted, unrelated = signs.shares
        if self._calibration is None:
            return Bearing(supported, contradicted)
        likely = self._calibration.probability(signs)
        rest = contradicted / max(contradicted + unrelated, 1e-9)
        return Bearing(likely, (1 - likely) * rest)

    def signs(self, claims: Sequence[Claim]) -> list[Signs | None]:
        """What the judgement is made of."""
        found: list[Signs | None] = [None] * len(claims)
        ready = [
            i
            for i, claim in enumerate(claims)
            if claim.item.text and language.reads(claim.statement)
        ]
        # Of like lengths together: less padding is computed.
        ready.sort(key=lambda i: len(claims[i].item.text or ""))
        for at in range(0, len(ready), _BATCH):
            batch = ready[at : at + _BATCH]
            for i, signs in zip(batch, self._read([claims[i] for i in batch]), strict=True):
                found[i] = signs
        return found

    def _read(self, claims: Sequence[Claim]) -> list[Signs]:
        """Each claim is a row `statement [SEP] item`, and one more, `question [SEP] item`, where
        the statement is an answer to the question."""
        windows, words = [], []
        asked: dict[int, int] = {}  # claim -> its second row
        for claim in claims:
            text, head = claim.item.text or "", _head(claim.item)
            said, prefix, coded = tokenise(self._tokenizer, [claim.statement, head, text])
            words.append(compare(claim.statement, text, head))
            shown = around(coded, *words[-1].nearest)
            windows.append(lay_out(said.ids, [Piece(0, prefix.ids[:MAX_PREFIX], shown)]))
        for i, claim in enumerate(claims):
            if claim.question is not None and speaks_of(claim.statement, claim.question):
                question = tokenise(self._tokenizer, [claim.question])[0]
                asked[i] = len(windows)
                windows.append(lay_out(question.ids, windows[i].pieces))
        reading = self._reader.infer(collate(windows))
        out = []
        for i, claim in enumerate(claims):
            logits = reading.support[i, 0].float()
            signals = together(logits.tolist(), float(reading.item[i, 0]), words[i].signals)
            extra = None
            if i in asked:
                row = asked[i]
                part = windows[row].pieces[0].text
                pointers = _pointers(reading, row, windows[row].starts[0], len(part.ids))
                place = pointed(*pointers, claim.item.text or "", part, claim)
                extra = np.concatenate([signals, place])
            yes, no, nothing = logits.softmax(0).tolist()
            out.append(Signs(signals, extra, (yes, no, nothing)))
        return out


def _head(item: Item) -> str:
    return " ".join(f"{part}." for part in (item.title, item.heading) if part)


def _pointers(reading: Reading, row: int, first: int, count: int) -> tuple[Any, Any, float]:
    """Start and end logits (n,) of the text's tokens, and both of "no answer here" together."""
    nothing = float(reading.start[row, 0] + reading.end[row, 0])
    text = slice(first, first + count)
    return reading.start[row, text].float(), reading.end[row, text].float(), nothing


def around(text: Tokens, start: int, end: int, most: int = TOKENS) -> Tokens:
    """At most `most` tokens, with those of the characters [start, end) in their middle."""
    n = len(text.ids)
    if n <= most:
        return text
    first = int(np.searchsorted(text.spans[:, 1], start, side="right"))
    last = int(np.searchsorted(text.spans[:, 0], end, side="left"))
    low = max(0, min((first + last - most) // 2, n - most))
    return text.cut(low, low + most)
