"""Whether the reader reads a question's language: it was trained on English alone."""

from __future__ import annotations

import regex

_LETTER = regex.compile(r"\p{L}")
_LATIN = regex.compile(r"\p{Latin}")
_WORD = regex.compile(r"\p{L}+")
_ENGLISH_WORDS = """
the of and to in is was are were what which who whom whose when where why how many much does
did do has have had this that these those it its by for on with from at an a as be can
"""
_OTHER_WORDS = """
der die das und ist sind ein eine einer wie wer welche welcher welches wo wann warum von zu
mit dem den im le la les des du et est une un qui que quel quelle quels où quand comment
dans pour el los las y es son una cuál cuáles quién qué dónde cuándo cómo por del il lo gli
e è sono chi che quale dove quando come di o os uma quem qual onde de het een en wat welke
waar hoe van jest jak gdzie kto kiedy är och vad var hur er og hvad hvor
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_OTHER = frozenset(_OTHER_WORDS.split())


def reads(text: str) -> bool:
    """Whether `text` is, as far as function words and script tell, English.

    Undecided texts (a few names) are read: nothing in them is foreign grammar.
    """
    letters = _LETTER.findall(text)
    if not letters:
        return True
    if len(_LATIN.findall(text)) < 0.5 * len(letters):
        return False
    words = [w.lower() for w in _WORD.findall(text)]
    english = sum(w in _ENGLISH for w in words)
    other = sum(w in _OTHER for w in words)
    return english >= other
