"""mPLUG-Owl's pictures and prompts, as published."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rag_owl.errors import InvalidInput
from rag_owl.model.owl1.model import PLACEHOLDER
from rag_owl.model.prompting import Clip, Part, Place, Prompt, PromptWriter, Shown, Turn, Wording
from rag_owl.model.spliced.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

# CLIP's, of each colour.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
_SPEAKERS = {"user": "Human: ", "assistant": "AI: "}
# The speakers' names are plain words here: at the beginning of a line of somebody's text they
# get a space without width, so that nobody can speak for another. Tokenizers keep whatever else
# ends a line (as bytes, in LLaMA's), and a model may read it as one: as `str.splitlines`.
_SPEAKER = re.compile(
    r"(?:^|(?<=[\r\v\f\x1c-\x1e\x85\u2028\u2029]))([^\S\n]*)(human|ai)(\s*:)",
    re.IGNORECASE | re.MULTILINE,
)


class Owl1Processor:
    def __init__(self, tokenizer: ModelTokenizer, image_size: int, vectors: int) -> None:
        """vectors: of one picture. Raises InvalidCheckpoint: a tokenizer of another model."""
        self.tokenizer = tokenizer
        self.image_size = image_size
        self._begin = tokenizer.control("<s>")
        self._picture = Place((PLACEHOLDER,) * vectors, vectors)

    def pixels(self, pictures: Sequence[Image]) -> Tensor:
        """Each picture as one square, its aspect not kept -> (N, 3, S, S)."""
        if not pictures:
            raise InvalidInput("no picture given.")
        return torch.stack([self._square(picture) for picture in pictures])

    def _square(self, picture: Image) -> Tensor:
        from PIL.Image import Resampling

        size = (self.image_size, self.image_size)
        small = picture.convert("RGB").resize(size, Resampling.BICUBIC)
        pixels = np.array(small, dtype=np.float32) / 255  # (S, S, 3)
        normed = (pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
        return torch.from_numpy(normed).permute(2, 0, 1).contiguous()

    def prompt(self, turns: Sequence[Turn]) -> Prompt:
        """The ids of a conversation, up to where the assistant begins to speak."""
        writer = PromptWriter(self.tokenizer)
        writer.ids([self._begin])
        parts: list[Part | Wording] = []
        if not turns or turns[0].role != "system":
            parts.append(Wording(SYSTEM))
        for turn in turns:
            if turn.role == "system":
                parts += turn.parts
                continue
            parts.append(Wording("\n" + _SPEAKERS[turn.role]))
            parts += [_quiet(part) if isinstance(part, str) else part for part in turn.parts]
        parts.append(Wording("\nAI: "))
        writer.parts("", parts, self._around)
        return writer.prompt

    def _around(self, part: Shown | Clip) -> list[str | Place]:
        pictures: list[str | Place] = []
        for number in range(part.pictures):
            pictures += [" ", self._picture] if number else [self._picture]
        return pictures


def _quiet(text: str) -> str:
    return _SPEAKER.sub("\\1\\2\u200b\\3", text)
