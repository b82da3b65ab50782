"""How large pictures are shown to a model that takes them in many sizes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pixels:
    """Of how many pixels pictures are shown, where a family has pictures of many sizes: at most,
    and at least, which only Qwen2-VL enlarges to.
    """

    source: int = 256 * 28 * 28  # a retrieved one
    question: int = 1_280 * 28 * 28  # the user's
    source_least: int = 4 * 28 * 28  # as published
    question_least: int = 4 * 28 * 28


PIXELS = Pixels()
