"""A conversation to the ids and picture starts of one prompt.

The template is the published one (chatml). A picture stands in the text as the five ordinary
tokens of `<|image|>`, tokenised alone; they become a placeholder only because the processor says
where it put them. The same characters in anybody's text are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.checkpoint import find_folder
from rag_owl.model.owl3.preprocessing import crop, square
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer
from rag_owl.model.prompting import Clip, Place, Prompt, PromptWriter, Shown, Turn

if TYPE_CHECKING:
    from PIL.Image import Image

    from rag_owl.model.owl3.config import Owl3Config

Layout: TypeAlias = Literal["v2_global", "v3_global"]
PLACEHOLDER = "<|image|>"


class Owl3Processor:
    def __init__(self, tokenizer: Owl3Tokenizer, image_size: int, layout: Layout) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.layout = layout
        placeholder = tokenizer.encode(PLACEHOLDER)
        self._picture = Place(tuple(placeholder), len(placeholder))

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
        writer = PromptWriter(tokens)
        if turns[0].role != "system":
            turns = [Turn("system", ()), *turns]
        for number, turn in enumerate(turns):
            if turn.role == "system" and number:
                raise InvalidInput("a system turn can only come first.")
            if turn.role != "user" and not all(isinstance(part, str) for part in turn.parts):
                raise InvalidInput(f"a picture in the {turn.role}'s turn; users show pictures.")
            if number:
                writer.ids(tokens.encode("\n"))
            writer.ids([tokens.turn_start])
            if turn.role == "assistant":
                # Its words are tokenised apart from the header, as when it spoke them.
                writer.ids(tokens.encode("assistant\n"))
                writer.parts("", turn.parts, self._around)
            else:
                writer.parts(f"{turn.role}\n", turn.parts, self._around)
            writer.ids([tokens.turn_end])
            if turn.role == "assistant":
                writer.ids([tokens.end_of_text])
        if answer:
            writer.ids([*tokens.encode("\n"), tokens.turn_start, *tokens.encode("assistant\n")])
        return writer.prompt

    def _around(self, part: Shown | Clip) -> list[str | Place]:
        """A picture's or video's own text, with each placeholder apart."""
        if isinstance(part, Clip):
            frames: list[str | Place] = [self._picture] * part.frames
            if self.layout == "v3_global":
                return ["<|start_video_frame|>", *frames, "<|end_video_frame|>"]
            return frames
        if part.grid is None:
            return [self._picture]
        rows, columns = part.grid
        v2 = self.layout == "v2_global"
        chunks: list[str | Place] = [f"Cut to {rows} rows {columns} columns with a global view\n"]
        if not v2:
            chunks = [f"<|start_cut|>{rows}*{columns}\n"]
        for row in range(rows):
            for column in range(columns):
                label = f"subimg({row},{column})" if v2 else ""
                chunks += [(" " if column else "") + label, self._picture]
            chunks.append("\n")
        return (
            [*chunks, "global_view", self._picture]
            if v2
            else [*chunks, self._picture, "<|end_cut|>"]
        )
