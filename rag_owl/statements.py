"""What an answer says, as a statement that a text can be compared with."""

from __future__ import annotations

import re

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
