"""The language models' own tokenizers: `tokenizer.json`, or SentencePiece's `tokenizer.model`.

Text is only ever text: a control token's characters in it become ordinary tokens. Control tokens
are asked for by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl.errors import InvalidCheckpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ModelTokenizer:
    """`load` finds the right one for a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def load(folder: str | Path) -> ModelTokenizer:
        """Raises InvalidCheckpoint: neither file there, or one that cannot be read."""
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            return _Json.read(folder, folder / "tokenizer.json")
        if (folder / "tokenizer.model").is_file():
            return _SentencePiece(folder, folder / "tokenizer.model")
        raise InvalidCheckpoint(
            f"{folder} holds no tokenizer: neither tokenizer.json nor tokenizer.model. Copy it "
            "from the published model."
        )

    @staticmethod
    def of_bytes(controls: Sequence[str]) -> ModelTokenizer:
        """One token per byte, and control tokens behind them: for models of random weights."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(c, special=True) for c in controls])
        return _Json(Path(), tokenizer)

    def encode(self, text: str) -> list[int]:
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """-> ids, and for each the characters [start, end) of `text` that it stands for."""
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        """The text of the ids; control tokens have none."""
        raise NotImplementedError

    def find(self, token: str) -> int | None:
        raise NotImplementedError

    def control(self, token: str) -> int:
        """The id of a control token; from then on its characters in a text are only text.

        Raises InvalidCheckpoint: a tokenizer without it is of another model."""
        found = self.find(token)
        if found is None:
            raise InvalidCheckpoint(
                f"{self._folder}: the tokenizer has no {token}; it is of another model."
            )
        self._keep_out(token)
        return found

    def _keep_out(self, token: str) -> None:
        """See to it that no text becomes this token."""


class _Json(ModelTokenizer):
    @classmethod
    def read(cls, folder: Path, file: Path) -> _Json:
        from tokenizers import Tokenizer

        try:
            return cls(folder, Tokenizer.from_file(str(file)))
        except Exception as error:  # tokenizers raises plain Exceptions
            raise InvalidCheckpoint(f"{file} cannot be read ({error}).") from None

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        super().__init__(folder)
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return encoded.ids, encoded.offsets

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def find(self, token: str) -> int | None:
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def _keep_out(self, token: str) -> None:
        from tokenizers import AddedToken

        # Those that its file does not call special would be found in texts.
        self._tokenizer.add_special_tokens([AddedToken(token, special=True)])


class _SentencePiece(ModelTokenizer):
    def __init__(self, folder: Path, file: Path) -> None:
        super().__init__(folder)
        import sentencepiece

        self._pieces: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(file.read_bytes())
        except (OSError, RuntimeError) as error:
            raise InvalidCheckpoint(f"{file} cannot be read ({error}).") from None

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = self._pieces.EncodeAsIds(text)
        # Where each byte of the text, after the space that is put before it, belongs.
        places = [i for i, character in enumerate(text) for _ in character.encode()]
        offsets, at = [], -1
        for token in ids:
            after = at + self._bytes(token)
            first, last = (min(max(byte, 0), len(places)) for byte in (at, after))
            begin = places[first] if first < len(places) else len(text)
            end = places[last - 1] + 1 if last > first else begin
            offsets.append((begin, end))
            at = after
        return ids, offsets

    def _bytes(self, token: int) -> int:
        """How many bytes of the text a token stands for."""
        if self._pieces.IsByte(token):
            return 1
        return len(self._pieces.IdToPiece(token).replace("\u2581", " ").encode())

    def decode(self, ids: list[int]) -> str:
        text: str = self._pieces.decode([i for i in ids if not self._pieces.IsControl(i)])
        return text

    def find(self, token: str) -> int | None:
        found = int(self._pieces.PieceToId(token))
        return None if found == self._pieces.unk_id() and token != "<unk>" else found
