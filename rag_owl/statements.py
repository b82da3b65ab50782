"""What an answer says, as statements that a text can be compared with."""

from __future__ import annotations

import re

from rag_owl.sentences import sentence_spans

MARKER = re.compile(r"\[(\d{1,4})\]")
_LEADING_MARKERS = re.compile(r"(\s*\[\d{1,4}\])+")
_TRAILING_MARKER = re.compile(r"\s*\[\d{1,4}\]\s*$")

_BE = r"(?:is|are|was|were)"


def declare(question: str, answer: str) -> str:
    """A question and its answer as a statement; what no rule fits stays "question answer".

    >>> declare("Who wrote Hamlet?", "Shakespeare")
    'Shakespeare wrote Hamlet.'
    """
    q = question.strip().rstrip("?").strip()
    m = re.match(rf"(?i)(?:what|who) ({_BE}) (.+)$", q)
    if m:
        subject = m[2][0].upper() + m[2][1:]
        return f"{subject} {m[1].lower()} {answer}."
    m = re.match(r"(?i)who (.+)$", q)
    if m and not re.match(r"(?i)(did|does|do|has|have|had)\b", m[1]):
        return f"{answer} {m[1]}."
    m = re.match(rf"(?i)(?:what|which)((?: [\w'-]+){{1,3}}?) ({_BE}|has|had|can|will) (.+)$", q)
    if m:
        return f"{answer} {m[2]} {m[3]}."
    m = re.match(rf"(?i)(when|where|in what year|in which year|in what \w+) ({_BE}) (.+)$", q)
    if m:
        link = "in" if m[1].lower() == "where" or not re.match(r"(?i)(in|on|at)\b", answer) else ""
        subject = m[3][0].upper() + m[3][1:]
        return " ".join(f"{subject} {m[2]} {link} {answer}.".split())
    return f"{question.strip()} {answer}."


def statements(text: str, sources: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """(start, end, sources that its markers name) of each sentence, markers not included.

    Markers after the full stop belong to the sentence before them. Markers that point to no
    source are left to the check of the evidence.
    """
    found: list[tuple[int, int, list[int]]] = []
    for start, end in sentence_spans(text):
        leading = _LEADING_MARKERS.match(text, start, end)
        if leading and found:
            found[-1][2].extend(int(m) for m in MARKER.findall(leading.group()))
            start = leading.end()
        named = [int(m) for m in MARKER.findall(text, start, end)]
        body = text[start:end]
        while (trimmed := _TRAILING_MARKER.sub("", body)) != body:
            body = trimmed
        start += len(body) - len(body.lstrip())
        if body.strip():
            found.append((start, start + len(body.strip()), named))
        elif found:
            found[-1][2].extend(named)
    return [
        (start, end, tuple(dict.fromkeys(m - 1 for m in named if 1 <= m <= sources)))
        for start, end, named in found
    ]
