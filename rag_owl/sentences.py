"""Where sentences and lines are, by rules that hold for most scripts and need no model."""

from __future__ import annotations

import re
from collections.abc import Iterator

_CLOSERS = "\"'”’»›)\\]}」』）】〉》〕］"
_END = re.compile(
    # Full stops of Chinese and Japanese end a sentence wherever they stand; a full stop between
    # digits does not count as one. The others need white space after them.
    rf"[。！？｡]+[{_CLOSERS}]*"
    rf"|[.!?…।॥؟۔።]+[{_CLOSERS}*_]*(?=\s)"
    # The end of a paragraph, and a line before an entry of a list or a heading.
    r"|\n[ \t]*\n"
    r"|\n(?=[ \t]*(?:[-*+•‣–][ \t]|\d{1,3}[.)][ \t]|\#{1,6}[ \t]|>[ \t]|\|))"
)
_MAY_END = re.compile(r"[。！？｡.!?…।॥؟۔\n]")  # where `_END` may match; found many times as fast
_ABBREVIATED = """
adm al appt approx aug bd bros bsp bzw ca capt cf cmdr co corp dec dept dr ed eds etc evtl feb ff
fr gen gov hon hr hrsg ibid ie inc incl jan jr lt ltd maj mfg misc mr mrs ms mt nov nr oct op pp
pres prof pt rep resp rev sen sep sept sgt sog sr ss st str supp tel u.a usw vgl viz vols vs z.b
"""
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
# Words of their own as well, and abbreviations only before a number: "No. 5", but "He said no."
_NUMBERED = "art cap ch chap col fig figs kap max min no nos p sec tab v vol"
_BEFORE_NUMBERS = frozenset(_NUMBERED.split())
_ENDING_ABBREVIATIONS = frozenset(("etc", "usw", "inc", "ltd", "co", "corp", "jr", "sr"))
_WORD_BEFORE = re.compile(r".*[\s(\[\"'“‘«„]|", re.DOTALL)  # what stands before the last word


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Sentences without the white space around them; nothing but white space is between them."""
    start = 0
    for match in _ends(text):
        if match[0][0] in ".!?…" and not _ends_sentence(text, match):
            continue
        yield from _stripped(text, start, match.end())
        start = match.end()
    yield from _stripped(text, start, len(text))


def _ends(text: str) -> Iterator[re.Match[str]]:
    """As `_END.finditer`."""
    position = 0
    while (place := _MAY_END.search(text, position)) is not None:
        match = _END.match(text, place.start())
        if match is not None:
            yield match
        position = match.end() if match is not None else place.end()


def line_spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while (newline := text.find("\n", start)) >= 0:
        yield from _stripped(text, start, newline)
        start = newline + 1
    yield from _stripped(text, start, len(text))


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    after = _next_visible(text, match.end())
    if after.islower():  # "approx. five", "e.g. this", "… and so on"
        return False
    if match[0] != ".":
        return True
    word = _word_before(text, match.start())
    bare = word.lower()
    if len(word) == 1 and word.isalpha() and word.isupper():  # an initial: "J. Smith"
        return False
    if "." in bare and all(len(part) == 1 for part in bare.split(".")):  # "e.g", "U.S", "z.B"
        return False
    if bare in _ABBREVIATIONS:
        return bare in _ENDING_ABBREVIATIONS and after.isupper()
    if bare in _BEFORE_NUMBERS and after.isdigit():
        return False
    line = text.rfind("\n", 0, match.start()) + 1
    return not (word.isdigit() and len(word) <= 3 and text[line : match.start()].strip() == word)


def _word_before(text: str, end: int) -> str:
    start = max(0, end - 24)
    if end and text[end - 1] == "\n":
        end -= 1
    before = _WORD_BEFORE.match(text, start, end)
    return text[before.end() : end] if before else ""


def _next_visible(text: str, position: int) -> str:
    return text[position : position + 64].lstrip()[:1]


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end
