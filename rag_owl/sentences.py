"""Where sentences begin and end, in any script that marks its sentence ends."""

from __future__ import annotations

import regex

# An end mark with its closing quotes and brackets, then space (none needed after CJK marks), or an
# empty line. Not after an initial, a known abbreviation, or between digits.
_END = regex.compile(
    r"(?:(?<!\b(?:\p{Lu}|Dr|Mr|Mrs|Ms|Prof|St|vs|etc|e\.g|i\.e|cf|approx|ca|No|Fig|Vol|pp|Jr|Sr|Inc|Ltd"
    r"|Co|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec))[.!?…]+[\"'”’)\]»]*(?=\s|$)"
    r"|[。！？｡]+[」』”’）]*)"
    r"|(?=\n\s*\n)|(?=\n\s*[-*•|] )"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence, in order, without surrounding space."""
    spans = []
    start = 0
    for end in [match.end() for match in _END.finditer(text)] + [len(text)]:
        sentence = text[start:end]
        stripped = sentence.strip()
        if stripped:
            first = start + sentence.index(stripped)
            spans.append((first, first + len(stripped)))
        start = max(start, end)
    return spans
