"""Qwen2-VL's pictures and prompts, as published: pictures keep their shape and get as many tokens
as their pixels are worth, within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rag_owl.errors import InvalidCheckpoint, InvalidInput
from rag_owl.model.checkpoint import read_json
from rag_owl.model.pixels import PIXELS, Pixels
from rag_owl.model.prompting import (
    Clip,
    Finest,
    Mark,
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

SYSTEM = "You are a helpful assistant."
FRAME_TOKENS = 128  # of two frames of a video: the published least
LEAST_TOKENS = 4  # of a picture, as published
MOST_ASPECT = 200  # a longer sliver is squeezed; the published code refuses it
_SMALLER = 4  # a quarter of the tokens: half as wide and high


class Qwen2VLProcessor:
    """How many tokens a picture may take is its size here."""

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        image_processor: Any,
        pixels: Pixels = PIXELS,
    ) -> None:
        """image_processor: transformers' `Qwen2VLImageProcessorPil`. pixels: the published
        `max_pixels` and `min_pixels`, of a retrieved picture and of one of the user's.

        Raises InvalidCheckpoint: a tokenizer of another model.
        """
        self.tokenizer = tokenizer
        self._images = image_processor
        self.factor: int = image_processor.patch_size * image_processor.merge_size
        source, question = self._most(pixels.source), self._most(pixels.question)
        self.finest = Finest(
            source=source,
            question=question,
            frame=FRAME_TOKENS,
            source_least=self._least(pixels.source_least, source),
            question_least=self._least(pixels.question_least, question),
            paired=True,
        )
        self.image_size = self.factor * 16  # frames are decoded at most twice as large
        control = tokenizer.control
        self._open, self._close = control("<|im_start|>"), control("<|im_end|>")
        self._begins, self._ends = control("<|vision_start|>"), control("<|vision_end|>")
        self._picture, self._video = control("<|image_pad|>"), control("<|video_pad|>")
        self.stop_ids = (self._close, control("<|endoftext|>"))  # what ends a turn

    @classmethod
    def load(
        cls,
        tokenizer: ModelTokenizer,
        folder: Path,
        config: Any,
        pixels: Pixels = PIXELS,
    ) -> Qwen2VLProcessor:
        """With the folder's `preprocessor_config.json`, where it holds one. Raises
        InvalidCheckpoint: it does not fit the model, or the tokenizer does not.
        """
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        file = folder / "preprocessor_config.json"
        stated = read_json(file) if file.is_file() else {}
        vision = config.vision_config
        parts = {
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
        }
        for name, value in parts.items():
            if stated.get(name, value) != value:
                raise InvalidCheckpoint(
                    f"{file}: {name} {stated[name]}; the model in config.json has {value}."
                )
        more = {name: stated[name] for name in ("image_mean", "image_std") if name in stated}
        for name, value in more.items():
            numbers = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
            if not numbers or len(value) != 3:
                raise InvalidCheckpoint(f"{file}: {name} must be three numbers, not {value!r}.")
        processor = cls(
            tokenizer,
            Qwen2VLImageProcessorPil(**parts, **more),
            pixels,
        )
        for name, mine in (("image", processor._picture), ("video", processor._video)):
            wanted = getattr(config, f"{name}_token_id")
            if mine != wanted:
                raise InvalidCheckpoint(
                    f"{folder}: the tokenizer's <|{name}_pad|> is {mine}, config.json says "
                    f"{wanted}; it is of another model."
                )
        return processor

    # --- pictures -------------------------------------------------------------------------------

    def _most(self, pixels: int) -> int:
        """As tokens."""
        return max(LEAST_TOKENS, pixels // self.factor**2)

    def _least(self, pixels: int, most: int) -> int:
        """As tokens; 0: as published."""
        tokens = min(most, ceil(pixels / self.factor**2))
        return tokens if tokens > LEAST_TOKENS else 0

    def shown(self, size: Size, most: int, least: int = 0) -> Shown:
        """Rows and columns of tokens: the published rule, which rounds up where it enlarges, and
        again where that leads beyond `most`."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        width, height = size
        if min(size) < 1:
            raise InvalidInput(f"a picture of {width} x {height} pixels.")
        width, height = min(width, height * MOST_ASPECT), min(height, width * MOST_ASPECT)
        token = self.factor * self.factor
        high, wide = smart_resize(
            height,
            width,
            self.factor,
            min_pixels=max(LEAST_TOKENS, least) * token,
            max_pixels=most * token,
        )
        if high * wide > most * token:
            high, wide = smart_resize(
                high, wide, self.factor, min_pixels=LEAST_TOKENS * token, max_pixels=most * token
            )
        return Shown((high // self.factor, wide // self.factor))

    def lesser(self, most: int) -> int:
        return most // _SMALLER if most // _SMALLER >= LEAST_TOKENS else 0

    def piece(self, frames: Sequence[Image], most: int, least: int = 0) -> Piece:
        """A picture, or two frames of a video -> patches (rows * columns * merge^2, width)."""
        from PIL.Image import Resampling

        size = frames[0].size
        shown = self.shown(size, most, least)
        rows, columns = shown.grid or (0, 0)
        resized = [
            frame.convert("RGB").resize(
                (columns * self.factor, rows * self.factor), Resampling.BICUBIC
            )
            for frame in frames
        ]
        patches = [self._patches(frame) for frame in resized]
        if len(patches) == 2:
            # A still picture is shown at both moments; of two frames each has its own.
            moments = self._images.temporal_patch_size
            first, second = (p.view(len(p), -1, moments, self._area) for p in patches)
            pixels = torch.cat([first[:, :, : moments // 2], second[:, :, moments // 2 :]], dim=2)
            return Piece(pixels.flatten(1), size, shown)
        return Piece(patches[0], size, shown)

    @property
    def _area(self) -> int:
        side: int = self._images.patch_size
        return side * side

    def _patches(self, picture: Image) -> Tensor:
        seen = self._images(images=[picture], do_resize=False, return_tensors="pt")
        pixels: Tensor = seen["pixel_values"]
        return pixels

    def pixels(self, pictures: Sequence[Image]) -> Tensor:
        raise InvalidInput("Qwen2-VL's pictures differ in size; ask for a piece of each.")

    # --- text -----------------------------------------------------------------------------------

    def prompt(self, turns: Sequence[Turn], *, answer: bool = True) -> Prompt:
        """The ids of a conversation; with `answer`, up to where the assistant begins to speak."""
        writer = PromptWriter(self.tokenizer)
        if not turns or turns[0].role != "system":
            turns = [Turn("system", (SYSTEM,)), *turns]
        line = self.tokenizer.encode("\n")
        for turn in turns:
            writer.ids([self._open])
            writer.parts(f"{turn.role}\n", turn.parts, self._around)
            writer.ids([self._close, *line])
        if answer:
            writer.ids([self._open, *self.tokenizer.encode("assistant\n")])
        return writer.prompt

    def _around(self, part: Shown | Clip) -> list[str | Place | Mark]:
        if part.grid is None:
            raise InvalidInput("a picture of Qwen2-VL needs its rows and columns.")
        tokens = part.grid[0] * part.grid[1]
        clip = isinstance(part, Clip)
        place = Place((self._video if clip else self._picture,) * tokens, tokens)
        steps = part.frames if isinstance(part, Clip) else 1
        return [Mark((self._begins,)), *[place] * steps, Mark((self._ends,))]
