"""owl-nano's support head as what citations are checked with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag_owl.model.nano import language, minilm, weights
from rag_owl.model.nano.reader import SUPPORT, Reader
from rag_owl.model.nano.window import collate, pack, tokenise
from rag_owl.types import Bearing, Item

WINDOW = 256  # tokens: it was trained on texts of about a hundred


class NanoJudge:
    """Implements `rag_owl.ports.Judge`. Safe for several threads."""

    name = "owl-nano"

    def __init__(self, reader: Reader, calibration: dict[str, float]) -> None:
        self._reader = reader
        self._tokenizer: Any = minilm.tokenizer()
        self.supported_from = calibration["supported_from"]
        self.contradicted_from = calibration["contradicted_from"]

    @classmethod
    def load(cls, folder: Path = weights.FOLDER) -> NanoJudge:
        """From the bundled files. Raises `InvalidCheckpoint` when one is missing or damaged."""
        return cls(weights.load_reader(folder), weights.manifest(folder)["calibration"])

    def judge(self, statement: str, item: Item) -> Bearing | None:
        """None where the statement is not English, or the item has no text."""
        if not item.text or not language.reads(statement):
            return None
        head = " ".join(f"{part}." for part in (item.title, item.heading) if part)
        said, prefix, text = tokenise(self._tokenizer, [statement, head, item.text])
        best: list[float] | None = None
        for window in pack(said.ids, [(prefix.ids, text)], limit=WINDOW):
            logits = self._reader.infer(collate([window])).support[0, 0]
            found: list[float] = logits.float().softmax(0).tolist()
            # A long text supports a statement where its best part does.
            if best is None or found[0] > best[0]:
                best = found
        if best is None:
            return None
        shares = dict(zip(SUPPORT, best, strict=True))
        return Bearing(shares["supported"], shares["contradicted"])
