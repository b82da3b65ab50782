"""The text of a PDF page, and where each run of it stands. Call it under the PDFium lock."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pypdfium2.raw as raw

from rag_owl.types import Box, TextBox

# In heights of a line: a wider gap beside a run begins a new run, one above it a new paragraph.
RUN_GAP = 2.5
PARAGRAPH_GAP = 0.6
_HYPHEN = 0x02  # PDFium's mark for a hyphen that only breaks a word at the end of a line
_NOTHING = (0x00, 0xFFFE, 0xFFFF)


@dataclass(frozen=True, slots=True)
class Affine:
    """Points of page space to fractions of the upright page."""

    origin: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]

    def box(self, left: float, bottom: float, right: float, top: float) -> Box:
        corners = [
            (
                self.origin[0] + x * self.x[0] + y * self.y[0],
                self.origin[1] + x * self.x[1] + y * self.y[1],
            )
            for x, y in ((left, bottom), (right, top))
        ]
        (x0, y0), (x1, y1) = corners
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def page_text(page: Any, to_fractions: Affine, start: int) -> tuple[str, list[TextBox]]:
    """The page's text and a box for every run on one line; offsets begin at `start`.

    Lines end with "\\n", paragraphs with "\\n\\n", white space is one space, a word that was broken
    at the end of a line is whole again. What lies outside of the crop box is left out. A run is
    what stands on one line without a wide gap, so that columns and table cells are apart.
    """
    width, height = page.get_size()
    builder = _Builder(start, width, height)
    textpage = page.get_textpage()
    try:
        for char, box in _characters(textpage, to_fractions):
            builder.add(char, box)
    finally:
        textpage.close()
    return builder.finished()


def _characters(textpage: Any, to_fractions: Affine) -> Iterator[tuple[str, Box | None]]:
    rectangle = raw.FS_RECTF()
    sides = [ctypes.c_double() for _ in range(4)]  # left, right, bottom, top
    high = 0
    for i in range(textpage.count_chars()):
        code = raw.FPDFText_GetUnicode(textpage, i)
        if code in _NOTHING:
            continue
        if code == _HYPHEN:
            yield "", None
            continue
        if 0xD800 <= code < 0xDC00:  # the first half of a character outside the basic plane
            high = code
            continue
        if 0xDC00 <= code < 0xE000:
            code = 0x10000 + ((high - 0xD800) << 10) + code - 0xDC00 if high else 0xFFFD
        high = 0
        char = chr(code)
        if char.isspace():
            yield char, None
            continue
        corners = None
        # The loose box is as high as the line; fonts without metrics have only the tight one.
        if raw.FPDFText_GetLooseCharBox(textpage, i, rectangle):
            corners = (rectangle.left, rectangle.bottom, rectangle.right, rectangle.top)
        if corners is None or corners[0] == corners[2] or corners[1] == corners[3]:
            raw.FPDFText_GetCharBox(textpage, i, *sides)
            left, right, bottom, top = (side.value for side in sides)
            corners = (left, bottom, right, top)
        yield char, to_fractions.box(*corners)


class _Builder:
    def __init__(self, start: int, width: float, height: float) -> None:
        self.start = start
        self.width, self.height = width, height  # points: what makes gaps comparable
        self.pieces: list[str] = []
        self.length = 0
        self.runs: list[TextBox] = []
        self._run: tuple[int, int, Box] | None = None
        self._last: Box | None = None  # of the last character
        self._waiting = ""  # white space that counts if more text follows
        self._hyphen = False  # the word goes on, on the next line

    def add(self, char: str, box: Box | None) -> None:
        """A character with its box; white space has none, nor has "", a hyphen within a word."""
        if box is None:
            self._hyphen = self._hyphen or not char
            if char == "\n" or (char and not self._waiting):
                self._waiting = "\n" if char in "\r\n" else " "
            return
        if box[2] <= 0 or box[3] <= 0 or box[0] >= 1 or box[1] >= 1:
            return  # outside of the crop box: no reader sees it
        box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], 1.0), min(box[3], 1.0))
        goes_on = self._run is not None and self._continues(self._run[2], box)
        if self._hyphen:
            self._waiting = ""
        elif self._last and not goes_on and self._jumps(self._last, box):
            self._waiting = "\n"
        if "\n" in self._waiting and self._run and self._is_apart(self._run[2], box):
            self._waiting = "\n\n"
        if self.pieces:
            self._write(self._waiting)
        at = self.start + self.length
        self._write(char)
        if self._run and goes_on and "\n" not in self._waiting:
            run_start, _, around = self._run
            self._run = (run_start, at + len(char), _union(around, box))
        else:
            self._close_run()
            self._run = (at, at + len(char), box)
        self._last, self._waiting, self._hyphen = box, "", False

    def _write(self, text: str) -> None:
        self.pieces.append(text)
        self.length += len(text)

    def _close_run(self) -> None:
        if self._run:
            start, end, (left, top, right, bottom) = self._run
            # a tenth of a pixel of a page's picture: these are stored with every item
            box = (round(left, 4), round(top, 4), round(right, 4), round(bottom, 4))
            self.runs.append(TextBox(start, end, box))

    def _line(self, one: Box, other: Box) -> float:
        """The height of a line, in points."""
        return max(min(one[3] - one[1], other[3] - other[1]) * self.height, 1e-3)

    def _continues(self, run: Box, box: Box) -> bool:
        line = self._line(run, box)
        overlap = (min(run[3], box[3]) - max(run[1], box[1])) * self.height
        gap = max(box[0] - run[2], run[0] - box[2]) * self.width
        return (overlap >= line / 2 and gap < RUN_GAP * line) or self._continues_sideways(box)

    def _continues_sideways(self, box: Box) -> bool:
        """Text that runs up or down the page: next to its last character, not next to the run."""
        if self._last is None:
            return False
        last = self._last
        line = max(min(last[2] - last[0], box[2] - box[0]) * self.width, 1e-3)
        overlap = (min(last[2], box[2]) - max(last[0], box[0])) * self.width
        gap = max(box[1] - last[3], last[1] - box[3]) * self.height
        return overlap >= 0.9 * line and gap < line / 2

    def _jumps(self, last: Box, box: Box) -> bool:
        """Whether a character stands elsewhere, where PDFium saw no white space between."""
        line = self._line(last, box)
        down = max(box[1] - last[3], last[1] - box[3]) * self.height
        across = (box[0] - last[2]) * self.width
        return down > 0 or across > RUN_GAP * line

    def _is_apart(self, above: Box, below: Box) -> bool:
        line = self._line(above, below)
        gap = (below[1] - above[3]) * self.height
        return gap > PARAGRAPH_GAP * line or gap < -3 * line  # far below, or back up: a new column

    def finished(self) -> tuple[str, list[TextBox]]:
        self._close_run()
        self._run = None
        return "".join(self.pieces), self.runs


def _union(one: Box, other: Box) -> Box:
    return (
        min(one[0], other[0]),
        min(one[1], other[1]),
        max(one[2], other[2]),
        max(one[3], other[3]),
    )
