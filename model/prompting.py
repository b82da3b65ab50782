"""A conversation as ids: which tokens each piece of it became, and where pictures stand.

Text is only ever text: what makes structure is put in as ids by the family's processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Grid: TypeAlias = tuple[int, int]  # rows, columns
Size: TypeAlias = tuple[int, int]  # width, height
Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture at this place of the text.

    grid: into how many parts it falls, where the family has pictures of many sizes: its tiles,
    beside which the whole is shown, or Qwen2-VL's tokens.
    """

    grid: Grid | None = None

    @property
    def pictures(self) -> int:
        return 1 if self.grid is None else self.grid[0] * self.grid[1] + 1


@dataclass(frozen=True, slots=True)
class Clip:
    """A video at this place of the text: its frames, one after the other; grid as a picture's."""

    frames: int
    grid: Grid | None = None

    @property
    def pictures(self) -> int:
        return self.frames


Part: TypeAlias = str | Shown | Clip


@dataclass(frozen=True, slots=True)
class Wording:
    """Words of the template that are tokenised together with the text around them; no part."""

    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The ids that stand for a picture, and the positions that they take in the sequence."""

    ids: tuple[int, ...]
    positions: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Ids beside a picture's place that belong to what is shown and are no picture."""

    ids: tuple[int, ...]


@dataclass(slots=True)
class Prompt:
    """One row: ids, each picture's first id, and which positions each part became.

    `spans[i]` is [start, end) of the i-th part, counted over all turns; `places[i]` that of the
    i-th picture or frame; `visuals` are the pictures and videos in order. Spans and places are
    positions of the sequence, which are indices of ids as long as no placeholder takes more
    positions than it has ids.
    """

    input_ids: list[int] = field(default_factory=list)
    image_starts: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    visuals: list[Shown | Clip] = field(default_factory=list)
    positions: int = 0

    def tensor(self) -> Tensor:
        """(1, T)."""
        return torch.tensor([self.input_ids])


class TextTokenizer(Protocol):
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...


Around: TypeAlias = Callable[[Shown | Clip], Iterable[str | Place | Mark]]
"""A picture's or video's own text, with each placeholder apart."""


class PromptWriter:
    """Builds a `Prompt` piece by piece."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.prompt = Prompt()
        self._tokenizer = tokenizer

    def ids(self, ids: Iterable[int]) -> None:
        """Structure: control tokens and the template's own words."""
        before = len(self.prompt.input_ids)
        self.prompt.input_ids.extend(ids)
        self.prompt.positions += len(self.prompt.input_ids) - before

    def parts(self, header: str, parts: Sequence[Part | Wording], around: Around) -> None:
        """Text between two placeholders is tokenised in one piece, whatever parts it came from."""
        prompt = self.prompt
        pieces: list[tuple[str, int]] = [(header, -1)]  # text, part
        first_part = len(prompt.spans)
        prompt.spans.extend([(-1, -1)] * sum(not isinstance(part, Wording) for part in parts))
        i = first_part - 1
        for part in parts:
            if isinstance(part, Wording):
                pieces.append((part.text, -1))
                continue
            i += 1
            if isinstance(part, str):
                pieces.append((part, i))
                continue
            prompt.visuals.append(part)
            for chunk in around(part):
                if isinstance(chunk, str):
                    pieces.append((chunk, i))
                    continue
                self._flush(pieces)
                pieces = []
                start = prompt.positions
                if isinstance(chunk, Mark):
                    self.ids(chunk.ids)
                    self._widen(i, start, prompt.positions)
                    continue
                prompt.image_starts.append(len(prompt.input_ids))
                prompt.input_ids.extend(chunk.ids)
                prompt.positions += chunk.positions
                prompt.places.append((start, prompt.positions))
                self._widen(i, start, prompt.positions)
        self._flush(pieces)
        for i in range(first_part, len(prompt.spans)):
            if prompt.spans[i] == (-1, -1):
                prompt.spans[i] = (prompt.positions, prompt.positions)  # an empty text

    def _flush(self, pieces: list[tuple[str, int]]) -> None:
        text = "".join(piece for piece, _ in pieces)
        if not text:
            return
        ids, offsets = self._tokenizer.encode_with_offsets(text)
        first = self.prompt.positions
        self.ids(ids)
        begin, token = 0, 0
        for piece, part in pieces:
            end = begin + len(piece)
            while token < len(offsets) and offsets[token][1] <= begin:
                token += 1
            last = token
            while last < len(offsets) and offsets[last][0] < end:
                last += 1
            if part >= 0 and last > token:
                self._widen(part, first + token, first + last)
            begin = end

    def _widen(self, part: int, start: int, end: int) -> None:
        before = self.prompt.spans[part]
        self.prompt.spans[part] = (start if before[0] < 0 else before[0], end)


class Processor(Protocol):
    """What a family makes of a conversation."""

    def prompt(self, turns: Sequence[Turn]) -> Prompt: ...


@dataclass(frozen=True, slots=True)
class Finest:
    """How large pictures are shown where there is room, in the family's own measure; 0: it knows
    one size."""

    source: int = 0  # a retrieved picture
    question: int = 0  # the user's
    frame: int = 0  # of a video
    source_least: int = 0  # a smaller retrieved picture is enlarged to it; 0: the family's own
    question_least: int = 0
    paired: bool = False  # two frames of a video at a time, and a video is one piece of the prompt


@dataclass(frozen=True, slots=True)
class Piece:
    """One picture, or two frames, as its model takes it."""

    pixels: Tensor
    size: Size  # of the picture, upright
    shown: Shown


@runtime_checkable
class ManySizes(Protocol):
    """A processor whose pictures take more or less room in the sequence."""

    finest: Finest

    def shown(self, size: Size, most: int, least: int = 0) -> Shown:
        """What stands in the text for a picture of that size, shown at most so large, and at least
        so where the family enlarges; 0: as its least is published."""
        ...

    def lesser(self, most: int) -> int:
        """The next smaller way to show it; 0: there is none."""
        ...

    def piece(self, frames: Sequence[Image], most: int, least: int = 0) -> Piece:
        """A picture, or the two frames of a step of a video."""
        ...
