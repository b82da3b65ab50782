"""Qwen2's tokenizer, with nothing special in it.

Text is encoded as text: `<|im_start|>`, `<|image|>` and their like in a document or a question
become the ordinary tokens of their characters. The three control tokens exist only as ids, which
the processor places where it means them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from rag_owl.errors import InvalidCheckpoint
from rag_owl.model.checkpoint import read_json

# Qwen2's rule for what merges never cross (transformers: Qwen2Converter).
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class Owl3Tokenizer:
    """Text to ids and back."""

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
        tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges))
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        self._tokenizer: Any = tokenizer
        self.text_size = len(vocab)
        self.end_of_text, self.turn_start, self.turn_end = (
            self.text_size + i for i in range(len(CONTROLS))
        )

    @property
    def size(self) -> int:
        """Ids from 0 to this one minus one are in use."""
        return self.text_size + len(CONTROLS)

    @classmethod
    def load(cls, folder: str | Path) -> Owl3Tokenizer:
        """From `vocab.json` and `merges.txt`, or from `tokenizer.json`.

        Raises InvalidCheckpoint: neither is there, or they cannot be read.
        """
        folder = Path(folder)
        try:
            if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
                vocab = read_json(folder / "vocab.json")
                lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
                pairs = [
                    line.split(" ") for line in lines if line and not line.startswith("#version")
                ]
            elif (folder / "tokenizer.json").is_file():
                model = read_json(folder / "tokenizer.json")["model"]
                vocab = model["vocab"]
                pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
            else:
                raise InvalidCheckpoint(
                    f"{folder} holds no tokenizer: neither vocab.json with merges.txt nor "
                    "tokenizer.json. Copy it from the published model."
                )
            vocab = {token: i for token, i in vocab.items() if token not in CONTROLS}
            return cls(vocab, [(left, right) for left, right in pairs])
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidCheckpoint(f"{folder}: the tokenizer cannot be read ({error}).") from None

    @classmethod
    def of_bytes(cls) -> Owl3Tokenizer:
        """One token per byte: for models so small that they have no tokenizer of their own."""
        return cls({token: i for i, token in enumerate(_byte_characters())}, [])

    def save(self, folder: str | Path) -> None:
        """Write `vocab.json` and `merges.txt`, which `load` reads."""
        folder = Path(folder)
        model = json.loads(self._tokenizer.to_str())["model"]
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        text = json.dumps(model["vocab"], ensure_ascii=False)
        (folder / "vocab.json").write_text(text, encoding="utf-8")
        (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """-> ids, and for each the characters [start, end) of `text` that it stands for."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return encoded.ids, encoded.offsets

    def decode(self, ids: list[int]) -> str:
        """The text of the ids; control tokens and unused ids have none."""
        text = [i for i in ids if i < self.text_size]
        decoded: str = self._tokenizer.decode(text, skip_special_tokens=False)
        return decoded


class Decoder(Protocol):
    def decode(self, ids: list[int]) -> str: ...


class TextStream:
    """Ids one by one -> text as it becomes certain: no half character is ever given out."""

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._ends: list[int] = []
        self.text = ""

    @property
    def ends(self) -> list[int]:
        """Per token: how much of `text` stood when it had come."""
        return self._ends

    def add(self, token: int) -> str:
        """-> what is new in the text, perhaps nothing yet."""
        self._ids.append(token)
        whole = self._tokenizer.decode(self._ids)
        new = ""
        if not whole.endswith("\ufffd"):
            new = whole[len(self.text) :]
            self.text = whole
        self._ends.append(len(self.text))
        return new

    def finish(self) -> str:
        """What was held back: the answer ended inside a character."""
        whole = self._tokenizer.decode(self._ids)
        new, self.text = whole[len(self.text) :], whole
        return new


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]
