"""owl-nano's support head as what citations are checked with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.nano import language, minilm, weights
from rag_owl.model.nano.reader import SUPPORT, Reader
from rag_owl.model.nano.signals import SIGNALS, compare, together
from rag_owl.model.nano.window import MAX_PREFIX, Piece, Tokens, collate, lay_out, tokenise
from rag_owl.types import Bearing, Claim, Item

TOKENS = 128  # of an item's text that are read: it was trained on texts of about a hundred
_BATCH = 16
FILE = "support.json"  # beside the weights: python -m benchmarks.quality.calibrate


@dataclass(frozen=True)
class Calibration:
    """From signals to a probability (a logistic model), and thresholds on it."""

    weights: tuple[float, ...]  # per SIGNALS
    offset: float
    supported_from: float
    unsupported_below: float
    contradicted_from: float

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """None where there is none for just these weights. Raises `InvalidCheckpoint`."""
        stored = support_file(folder)
        if stored is None:
            return None
        try:
            judge = stored["judge"]
            if list(judge["weights"]) != list(SIGNALS):
                return None
            return cls(
                tuple(judge["weights"].values()),
                judge["offset"],
                judge["supported_from"],
                judge["unsupported_below"],
                judge["contradicted_from"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidCheckpoint(f"{folder / FILE} is damaged: reinstall rag-owl") from error

    def probability(self, signals: NDArray[np.float64]) -> float:
        score = float(signals @ np.array(self.weights)) + self.offset
        return 1 / (1 + math.exp(-max(min(score, 30.0), -30.0)))


def support_file(folder: Path = weights.FOLDER) -> dict[str, Any] | None:
    """What was calibrated on just these weights, or None. Raises `InvalidCheckpoint`."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fits = stored["reader"] == weights.manifest(folder)["files"]["reader.safetensors"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidCheckpoint(f"{path} is damaged: reinstall rag-owl") from error
    return stored if fits else None


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
        return [None if found is None else self._bearing(*found) for found in self.signals(claims)]

    def _bearing(self, signals: NDArray[np.float64], shares: Sequence[float]) -> Bearing:
        supported, contradicted, unrelated = shares
        if self._calibration is None:
            return Bearing(supported, contradicted)
        likely = self._calibration.probability(signals)
        rest = contradicted / max(contradicted + unrelated, 1e-9)
        return Bearing(likely, (1 - likely) * rest)

    def signals(
        self, claims: Sequence[Claim]
    ) -> list[tuple[NDArray[np.float64], list[float]] | None]:
        """Per claim SIGNALS and the head's probabilities of SUPPORT: what is calibrated."""
        found: list[tuple[NDArray[np.float64], list[float]] | None] = [None] * len(claims)
        ready = [
            i
            for i, claim in enumerate(claims)
            if claim.item.text and language.reads(claim.statement)
        ]
        # Of like lengths together: less padding is computed.
        ready.sort(key=lambda i: len(claims[i].item.text or ""))
        for at in range(0, len(ready), _BATCH):
            batch = ready[at : at + _BATCH]
            for i, result in zip(batch, self._read([claims[i] for i in batch]), strict=True):
                found[i] = result
        return found

    def _read(self, claims: Sequence[Claim]) -> list[tuple[NDArray[np.float64], list[float]]]:
        windows, words = [], []
        for claim in claims:
            item, text = claim.item, claim.item.text or ""
            head = " ".join(f"{part}." for part in (item.title, item.heading) if part)
            said, prefix, coded = tokenise(self._tokenizer, [claim.statement, head, text])
            common = compare(claim.statement, text, head)
            shown = around(coded, *common.nearest)
            windows.append(lay_out(said.ids, [Piece(0, prefix.ids[:MAX_PREFIX], shown)]))
            words.append(common)
        reading = self._reader.infer(collate(windows))
        support = reading.support[:, 0].float()  # (B, 3)
        shares = support.softmax(-1).tolist()
        return [
            (together(support[b].tolist(), float(reading.item[b, 0]), common), shares[b])
            for b, common in enumerate(words)
        ]


def around(text: Tokens, start: int, end: int, most: int = TOKENS) -> Tokens:
    """At most `most` tokens, with those of the characters [start, end) in their middle."""
    n = len(text.ids)
    if n <= most:
        return text
    first = int(np.searchsorted(text.spans[:, 1], start, side="right"))
    last = int(np.searchsorted(text.spans[:, 0], end, side="left"))
    low = max(0, min((first + last - most) // 2, n - most))
    return text.cut(low, low + most)


assert len(SUPPORT) == 3
