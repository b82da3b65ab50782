"""Text to the terms that the words channel indexes: one alphabet for both databases.

Words are folded (NFKC, lower case, no accents). Chinese, Japanese and Korean run without spaces,
so their characters are indexed singly and in pairs; a query of two or more uses the pairs, which
are rarer, and a single one still finds what it stands in.
"""

from __future__ import annotations

import re
import unicodedata

import regex

_CJK = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"
_RUN = regex.compile(rf"(?V1)({_CJK}+)|([[\p{{L}}\p{{M}}\p{{N}}]--{_CJK}]+)")
_ASCII_WORD = re.compile(r"[a-z0-9]+")  # all that `_RUN` finds in ASCII, many times as fast
_ACCENTS = regex.compile(r"[\u0300-\u036f]")  # other scripts' marks are letters of their own
_LONGEST = 64  # characters of one term: longer runs are no words (base64, hashes)


def index_terms(text: str) -> list[str]:
    """The terms of a stored text, in order, with repetitions (their number matters for BM25)."""
    if text.isascii():
        return [word[:_LONGEST] for word in _ASCII_WORD.findall(text.lower())]
    found: list[str] = []
    for cjk, word in _RUN.findall(_fold(text)):
        if word:
            found.append(word[:_LONGEST])
        else:
            found.extend(cjk)
            found.extend(cjk[at : at + 2] for at in range(len(cjk) - 1))
    return found


def query_terms(text: str) -> list[str]:
    """The distinct terms of a query, in order."""
    found: dict[str, None] = {}
    for cjk, word in _RUN.findall(_fold(text)):
        if word:
            found[word[:_LONGEST]] = None
        elif len(cjk) == 1:
            found[cjk] = None
        else:
            found.update(dict.fromkeys(cjk[at : at + 2] for at in range(len(cjk) - 1)))
    return list(found)


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFKC", _ACCENTS.sub("", decomposed))
