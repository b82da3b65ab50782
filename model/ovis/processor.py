"""Ovis 1.6's prompts, one template for each of its language models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rag_owl.errors import InvalidCheckpoint, InvalidInput
from rag_owl.model.ovis.partition import TILE, choose_grid, letterbox, placeholders, tiles
from rag_owl.model.prompting import (
    Clip,
    Finest,
    Part,
    Piece,
    Place,
    Prompt,
    PromptWriter,
    Shown,
    Size,
    Turn,
)
from rag_owl.model.spliced.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Template:
    """`open` … `close` are control tokens; after `ends_role` or at once comes the message."""

    begin: str | None
    open: str
    ends_role: str | None
    lead: str  # between the role and the message
    close: str
    after: str  # between a turn's end and the next one
    assistant: str = "assistant"
    system: str | None = None  # said where nobody says another
    knows_system: bool = True
    strips: bool = True  # the space around a message


TEMPLATES = {
    "GemmaConversationFormatter": Template(
        begin="<bos>",
        open="<start_of_turn>",
        ends_role=None,
        lead="\n",
        close="<end_of_turn>",
        after="\n",
        assistant="model",
        knows_system=False,
    ),
    "Llama3ConversationFormatter": Template(
        begin="<|begin_of_text|>",
        open="<|start_header_id|>",
        ends_role="<|end_header_id|>",
        lead="\n\n",
        close="<|eot_id|>",
        after="",
        system="You are a helpful and honest multimodal assistant.",
    ),
    "QwenConversationFormatter": Template(
        begin=None,
        open="<|im_start|>",
        ends_role=None,
        lead="\n",
        close="<|im_end|>",
        after="\n",
        system="You are a helpful assistant.",
        strips=False,
    ),
}


MOST_TILES = 9  # as published


class OvisProcessor:
    """Large pictures are cut into tiles; how many a picture may have is its size here."""

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        image_size: int,
        vectors: int,
        formatter: str,
        *,
        source_pixels: int = 0,
        question_pixels: int = 0,
    ) -> None:
        """vectors: of one tile. formatter: as config.json names it. source_pixels and
        question_pixels: what tiles of a retrieved picture and of one of the user's show together;
        frames of a video have one tile each, as the model was trained.

        Raises InvalidCheckpoint: an unknown formatter, or a tokenizer of another model.
        """
        template = TEMPLATES.get(formatter)
        if template is None:
            raise InvalidCheckpoint(
                f"conversation_formatter_class {formatter!r} in config.json; known: "
                f"{', '.join(TEMPLATES)}."
            )
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.vectors = vectors
        tile = image_size * image_size
        self.finest = Finest(
            source=max(1, min(MOST_TILES, source_pixels // tile)),
            question=max(1, min(MOST_TILES, question_pixels // tile)),
            frame=1,
        )
        self._template = template
        control = tokenizer.control
        self._begin = [control(template.begin)] if template.begin else []
        self._open, self._close = control(template.open), control(template.close)
        self._ends_role = [control(template.ends_role)] if template.ends_role else []

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends a turn."""
        return (self._close,)

    # --- pictures -------------------------------------------------------------------------------

    def pixels(self, pictures: Sequence[Image]) -> Tensor:
        """Each picture as one tile, as published where there are several -> (N, 3, S, S)."""
        if not pictures:
            raise InvalidInput("no picture given.")
        return torch.stack([letterbox(picture, self.image_size) for picture in pictures])

    def partitioned(self, picture: Image, most: int = MOST_TILES) -> tuple[Tensor, Shown]:
        """One picture as tiles -> (n, 3, S, S), and what to put into the text."""
        pixels, grid = tiles(picture, self.image_size, most)
        return pixels, Shown(grid if len(pixels) > 1 else None)

    def shown(self, size: Size, most: int, least: int = 0) -> Shown:
        """`least` says nothing here: one tile shows any small picture in full."""
        grid = choose_grid(*size, self.image_size, most)
        return Shown(grid if grid != (1, 1) else None)

    def lesser(self, most: int) -> int:
        return max(1, most // 2) if most > 1 else 0

    def piece(self, frames: Sequence[Image], most: int, least: int = 0) -> Piece:
        (picture,) = frames
        pixels, shown = self.partitioned(picture, most)
        return Piece(pixels, picture.size, shown)

    # --- text -----------------------------------------------------------------------------------

    def prompt(self, turns: Sequence[Turn], *, answer: bool = True) -> Prompt:
        """The ids of a conversation; with `answer`, up to where the assistant begins to speak.

        Raises InvalidInput: a system turn for a model that knows none.
        """
        template, tokens = self._template, self.tokenizer
        writer = PromptWriter(tokens)
        writer.ids(self._begin)
        if template.system and (not turns or turns[0].role != "system"):
            turns = [Turn("system", (template.system,)), *turns]
        for turn in turns:
            if turn.role == "system" and not template.knows_system:
                raise InvalidInput("this model knows no system turn; say it in the user's.")
            name = template.assistant if turn.role == "assistant" else turn.role
            parts = _stripped(turn.parts) if template.strips else turn.parts
            writer.parts(self._header(writer, name), parts, self._around)
            writer.ids([self._close])
            if template.after:
                writer.ids(tokens.encode(template.after))
        if answer:
            writer.ids(tokens.encode(self._header(writer, template.assistant)))
        return writer.prompt

    def _header(self, writer: PromptWriter, name: str) -> str:
        """Begins a turn -> the words that are tokenised together with its message."""
        writer.ids([self._open])
        if not self._ends_role:
            return name + self._template.lead
        writer.ids([*self.tokenizer.encode(name), *self._ends_role])
        return self._template.lead

    def _around(self, part: Shown | Clip) -> list[str | Place]:
        if isinstance(part, Clip):
            pictures: list[str | Place] = []
            for number in range(part.frames):
                pictures += ["\n", self._place(None)] if number else [self._place(None)]
            return pictures
        return [self._place(part.grid)]

    def _place(self, grid: tuple[int, int] | None) -> Place:
        ids = placeholders(grid or (1, 1))
        return Place(tuple(ids), len(ids) + ids.count(TILE) * (self.vectors - 1))


def _stripped(parts: Sequence[Part]) -> list[Part]:
    """As the published code strips each message; pictures are no space."""
    stripped = list(parts)
    for at, strip in ((0, str.lstrip), (-1, str.rstrip)):
        if stripped and isinstance(edge := stripped[at], str):
            stripped[at] = strip(edge)
    return stripped
