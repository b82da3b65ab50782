"""Any cross-encoder for natural language inference as judge, by sentence-transformers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_owl.errors import InvalidCheckpoint, ModelError, ModelNotFound
from rag_owl.loading import ONE_AT_A_TIME
from rag_owl.sentences import sentence_spans
from rag_owl.types import Bearing, Claim, Item

_PIECE = 1_200  # characters of an item's text that are read at once: about 300 tokens
_TIMEOUT = 5  # seconds for the first word with the hub


class CrossEncoderJudge:
    """Implements `rag_owl.ports.Judge`. Safe for several threads; they wait for each other.

    The item is the premise, the statement the hypothesis. Thresholds are those of the largest
    class; it is not calibrated on anything here.
    """

    supported_from = 0.5
    unsupported_below = 0.5
    contradicted_from = 0.5

    def __init__(self, name: str, model: Any) -> None:
        """model: a CrossEncoder. Raises `InvalidCheckpoint` for one that is no inference model."""
        self.name = name
        self._model = model
        self._lock = threading.Lock()
        labels = {str(v).lower(): int(k) for k, v in model.config.id2label.items()}
        self._entailed = _index(labels, "entail", "not")
        if self._entailed is None:
            raise InvalidCheckpoint(
                f"{name} has the labels {', '.join(labels)}; a judge needs one for entailment"
            )
        self._contradicted = _index(labels, "contradict", "no_contradict")

    @classmethod
    def load(cls, name: str, device: str | None = None) -> CrossEncoderJudge:
        """From a folder or the hub. Raises `ModelNotFound`, `InvalidCheckpoint`."""
        from sentence_transformers import CrossEncoder

        local = Path(name).is_dir()
        try:
            with ONE_AT_A_TIME:
                model = CrossEncoder(name, device=device, local_files_only=local)
        except OSError as error:
            raise ModelNotFound(
                f"the judge {name} cannot be loaded: {str(error).splitlines()[0][:200]}. Give a "
                "folder, or a hub id that can be reached or was loaded before"
            ) from error
        except Exception as error:
            raise InvalidCheckpoint(
                f"{name} is no cross-encoder that sentence-transformers reads: "
                f"{str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
            ) from error
        return cls(Path(name).name if local else name, model)

    def judge_all(self, claims: Sequence[Claim]) -> list[Bearing | None]:
        """None where an item has no text. A long text supports where its best piece does."""
        pairs: list[tuple[str, str]] = []
        owner: list[int] = []
        for i, claim in enumerate(claims):
            for piece in _pieces(claim.item):
                pairs.append((piece, claim.statement))
                owner.append(i)
        found: list[Bearing | None] = [None] * len(claims)
        if not pairs:
            return found
        with self._lock:
            shares = np.asarray(
                self._model.predict(pairs, apply_softmax=True, show_progress_bar=False), np.float64
            )
        if shares.ndim != 2 or not np.isfinite(shares).all():
            raise ModelError(f"the judge {self.name} gave no probabilities; its files are damaged")
        for i, row in zip(owner, shares, strict=True):
            contradicted = float(row[self._contradicted]) if self._contradicted is not None else 0.0
            bearing = Bearing(float(row[self._entailed]), contradicted)
            best = found[i]
            # Beside a piece that supports, others say nothing of the statement.
            if best is None or _strength(bearing) > _strength(best):
                found[i] = bearing
        return found


def _strength(bearing: Bearing) -> tuple[bool, float]:
    sure = bearing.supported >= 0.5
    return sure, bearing.supported if sure else max(bearing.supported, bearing.contradicted)


def _index(labels: dict[str, int], part: str, without: str) -> int | None:
    return next((i for label, i in labels.items() if part in label and without not in label), None)


def _pieces(item: Item) -> list[str]:
    """Whole sentences of at most about `_PIECE` characters, each under the item's title."""
    if not item.text:
        return []
    head = " ".join(f"{part}." for part in (item.title, item.heading) if part)
    pieces = [""]
    for start, end in sentence_spans(item.text):
        sentence = item.text[start:end][: 4 * _PIECE]
        if pieces[-1] and len(pieces[-1]) + len(sentence) > _PIECE:
            pieces.append("")
        pieces[-1] = f"{pieces[-1]} {sentence}".strip()
    return [f"{head} {piece}".strip() for piece in pieces if piece]
