"""A conversation to the ids and picture starts of one prompt.

The template is the published one (chatml). A picture stands in the text as the five ordinary
tokens of `<|image|>`, tokenised alone; they become a placeholder only because the processor says
where it put them. The same characters in anybody's text are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.checkpoint import find_folder
from rag_owl.model.owl3.preprocessing import Grid, crop, square
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

    from rag_owl.model.owl3.config import Owl3Config

Layout: TypeAlias = Literal["v2_global", "v3_global"]
Role: TypeAlias = Literal["system", "user", "assistant"]
PLACEHOLDER = "<|image|>"


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture at this place of the text; with a grid, its tiles and then the whole of it."""

    grid: Grid | None = None

    @property
    def pictures(self) -> int:
        return 1 if self.grid is None else self.grid[0] * self.grid[1] + 1


@dataclass(frozen=True, slots=True)
class Clip:
    """A video at this place of the text: its frames, one after the other."""

    frames: int

    @property
    def pictures(self) -> int:
        return self.frames


Part: TypeAlias = str | Shown | Clip


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    parts: tuple[Part, ...]


@dataclass(slots=True)
class Prompt:
    """One row: ids, each picture's first placeholder, and which tokens each part became.

    `spans[i]` is [start, end) of the i-th part, counted over all turns.
    """

    input_ids: list[int] = field(default_factory=list)
    image_starts: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def tensor(self) -> Tensor:
        """(1, T)."""
        return torch.tensor([self.input_ids])


class Owl3Processor:
    def __init__(self, tokenizer: Owl3Tokenizer, image_size: int, layout: Layout) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.layout = layout
        self._placeholder = tokenizer.encode(PLACEHOLDER)

    @classmethod
    def load(cls, folder: str | Path, config: Owl3Config) -> Owl3Processor:
        """The processor of a model folder or hub id.

        Raises ModelNotFound; InvalidCheckpoint: no tokenizer there.
        """
        return cls.of(Owl3Tokenizer.load(find_folder(folder)), config)

    @classmethod
    def of(cls, tokenizer: Owl3Tokenizer, config: Owl3Config) -> Owl3Processor:
        """With the crop layout that the model's variant was trained on."""
        layout: Layout = "v2_global" if config.variant == "240728" else "v3_global"
        return cls(tokenizer, config.vision.image_size, layout)

    # --- pictures ---------------------------------------------------------------------------

    def pixels(self, pictures: Sequence[Image]) -> Tensor:
        """Each picture or frame as one square -> (N, 3, S, S)."""
        if not pictures:
            raise InvalidInput("no picture given.")
        return torch.stack([square(picture, self.image_size) for picture in pictures])

    def cropped(self, picture: Image) -> tuple[Tensor, Shown]:
        """One picture as tiles and whole -> (n, 3, S, S), and what to put into the text."""
        pixels, grid = crop(picture, self.image_size)
        return pixels, Shown(grid)

    # --- text -------------------------------------------------------------------------------

    def prompt(self, turns: Sequence[Turn], *, answer: bool = True) -> Prompt:
        """The ids of a conversation; with `answer`, up to where the assistant begins to speak.

        Without a system turn the published empty one stands first. Raises InvalidInput: no turn,
        or a picture elsewhere than in a user's turn.
        """
        if not turns:
            raise InvalidInput("a prompt needs at least one turn.")
        tokens = self.tokenizer
        prompt = Prompt()
        ids = prompt.input_ids
        if turns[0].role != "system":
            turns = [Turn("system", ()), *turns]
        for number, turn in enumerate(turns):
            if turn.role == "system" and number:
                raise InvalidInput("a system turn can only come first.")
            if turn.role != "user" and not all(isinstance(part, str) for part in turn.parts):
                raise InvalidInput(f"a picture in the {turn.role}'s turn; users show pictures.")
            if number:
                ids.extend(tokens.encode("\n"))
            ids.append(tokens.turn_start)
            if turn.role == "assistant":
                # Its words are tokenised apart from the header, as when it spoke them.
                ids.extend(tokens.encode("assistant\n"))
                self._add(prompt, "", turn.parts)
            else:
                self._add(prompt, f"{turn.role}\n", turn.parts)
            ids.append(tokens.turn_end)
            if turn.role == "assistant":
                ids.append(tokens.end_of_text)
        if answer:
            ids.extend([*tokens.encode("\n"), tokens.turn_start, *tokens.encode("assistant\n")])
        return prompt

    def _add(self, prompt: Prompt, header: str, parts: Sequence[Part]) -> None:
        """Text between two placeholders is tokenised in one piece, whatever parts it came from."""
        pieces: list[tuple[str, int]] = [(header, -1)]  # text, part
        first_part = len(prompt.spans)
        prompt.spans.extend([(-1, -1)] * len(parts))
        for i, part in enumerate(parts):
            if isinstance(part, str):
                pieces.append((part, first_part + i))
                continue
            for chunk in self._around(part):
                if chunk == PLACEHOLDER:
                    self._flush(prompt, pieces)
                    start = len(prompt.input_ids)
                    prompt.image_starts.append(start)
                    prompt.input_ids.extend(self._placeholder)
                    _widen(prompt.spans, first_part + i, start, len(prompt.input_ids))
                    pieces = []
                else:
                    pieces.append((chunk, first_part + i))
        self._flush(prompt, pieces)
        here = len(prompt.input_ids)
        for i in range(first_part, len(prompt.spans)):
            if prompt.spans[i] == (-1, -1):
                prompt.spans[i] = (here, here)  # an empty text

    def _flush(self, prompt: Prompt, pieces: list[tuple[str, int]]) -> None:
        text = "".join(piece for piece, _ in pieces)
        if not text:
            return
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        first = len(prompt.input_ids)
        prompt.input_ids.extend(ids)
        begin, token = 0, 0
        for piece, part in pieces:
            end = begin + len(piece)
            while token < len(offsets) and offsets[token][1] <= begin:
                token += 1
            last = token
            while last < len(offsets) and offsets[last][0] < end:
                last += 1
            if part >= 0 and last > token:
                _widen(prompt.spans, part, first + token, first + last)
            begin = end

    def _around(self, part: Shown | Clip) -> list[str]:
        """A picture's or video's own text, with each placeholder apart."""
        if isinstance(part, Clip):
            frames = [PLACEHOLDER] * part.frames
            if self.layout == "v3_global":
                return ["<|start_video_frame|>", *frames, "<|end_video_frame|>"]
            return frames
        if part.grid is None:
            return [PLACEHOLDER]
        rows, columns = part.grid
        v2 = self.layout == "v2_global"
        chunks = [f"Cut to {rows} rows {columns} columns with a global view\n"]
        if not v2:
            chunks = [f"<|start_cut|>{rows}*{columns}\n"]
        for row in range(rows):
            for column in range(columns):
                label = f"subimg({row},{column})" if v2 else ""
                chunks += [(" " if column else "") + label, PLACEHOLDER]
            chunks.append("\n")
        return (
            [*chunks, "global_view", PLACEHOLDER] if v2 else [*chunks, PLACEHOLDER, "<|end_cut|>"]
        )


def _widen(spans: list[tuple[int, int]], part: int, start: int, end: int) -> None:
    before = spans[part]
    spans[part] = (start if before[0] < 0 else before[0], end)
