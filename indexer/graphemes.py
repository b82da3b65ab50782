"""Where text may be cut when it must be."""

from __future__ import annotations

import unicodedata

import regex

_GRAPHEME = regex.compile(r"\X")  # Unicode UAX #29: what a reader sees as one character
# Best first. The mark itself stays with what is before the cut.
_MARKS = ("\n\n", "\n", ". ", "。", " ")


def cut(text: str, start: int, limit: int) -> int:
    """The best end, after `start` and at most `start + limit`, for a piece of overlong text.

    At the end of a paragraph, a line, a sentence or a word in the second half of what is allowed,
    or else between graphemes. Only a single grapheme longer than `limit` is cut inside.
    """
    if len(text) - start <= limit:
        return len(text)
    for mark in _MARKS:
        found = text.rfind(mark, start + limit // 2, start + limit)
        if found >= 0:
            return found + len(mark)
    return grapheme_end(text, start, limit)


def grapheme_end(text: str, start: int, limit: int) -> int:
    """The last boundary between graphemes at most `limit` characters after `start`."""
    end = start
    # `start` is a boundary; one is looked for beyond the limit so that the last one is known whole
    for match in _GRAPHEME.finditer(text, start, min(len(text), start + limit + 64)):
        if match.end() > start + limit:
            break
        end = match.end()
    return end if end > start else start + limit


def extends(char: str) -> bool:
    """Whether a character belongs to the one before it: accents, joiners, variation selectors."""
    return char in "\u200c\u200d" or unicodedata.category(char).startswith("M")
