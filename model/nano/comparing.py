"""Questions about several pictures at once, answered from how alike they are.

Which one shows something else, which shows the same as another one, how many show it, whether all
show the same. The rules know English, as the reader does; what no rule fits is left to the reader.

n pictures of the user's, in the order they were given; numbers in answers count from 1
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag_owl.terms import index_terms

Floats: TypeAlias = NDArray[np.float64]
Kind: TypeAlias = Literal["same", "odd", "like", "unlike", "count"]

ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip
_PICTURE = r"(?:pictures?|photo(?:graph)?s?|images?)"
_REFERENCE = re.compile(
    rf"\b(?P<word>{'|'.join(ORDINALS)}|last)\b|\b{_PICTURE}\s+#?(?P<digits>\d{{1,2}})\b", re.I
)
_SAME = re.compile(r"\b(?:same|identical|different|differs?|alike)\b", re.I)
_ALL_SAME = re.compile(r"\s*(?:do|does|are|is|can|could|would)\b", re.I)
_SAMENESS = re.compile(r"\b(?:same|identical|alike)\b", re.I)
_WHICH = re.compile(rf"\b(?:which|find|name|show\s+me|tell\s+me|what\s+{_PICTURE})\b", re.I)
_LIKE = re.compile(r"\b(?:same|like|alike|match(?:es|ing)?|identical|similar|equals?)\b", re.I)
_ODD = re.compile(
    r"\b(?:differs?|different|odd|something\s+else|stands\s+out|unlike)\b"
    r"|(?:\bnot|n['’]t)\b.{0,20}\b(?:others?|rest|belong|fit|match)\b",
    re.I,
)
# What is compared then is no picture: "Do these two countries have the same capital?"
_FACTS = re.compile(r"\b(?:ha(?:s|ve|d)|shares?|speaks?|uses?|capitals?|currenc(?:y|ies))\b", re.I)
_HOW_MANY = re.compile(
    rf"\bhow\s+many\s+(?:(?:(?:of|the|these|those|my|other|others|ones?)\s+)*"
    rf"(?:{_PICTURE}|others?|ones|them)"
    r"|of\s+(?:the|these|those|my)\s+(?:\w+\s+)?(?:show|look\s+like|depict))\b",
    re.I,
)
_SHOWN = re.compile(r"\b(?:shows?|depicts?|looks?)\b", re.I)
_TEENS = (11, 12, 13)
_OTHERS = re.compile(r"\bothers?\b", re.I)


@dataclass(frozen=True)
class Asked:
    kind: Kind
    reference: int | None = None  # index of the picture that the others are compared with
    others: bool = False  # the reference itself does not count
    negated: bool = False  # "Do they differ?": yes means that they do not show the same


@dataclass(frozen=True)
class Said:
    short: str
    text: str  # one sentence
    pictures: tuple[int, ...]  # indices of what it rests on


def read(question: str, pictures: int) -> Asked | None:
    """What is asked about so many pictures (n), or None where the rules do not know it.

    >>> read("Which of the others shows the same as the second one?", 4)
    Asked(kind='like', reference=1, others=True, negated=False)
    """
    if pictures < 2:
        return None
    reference = _reference(question, pictures)
    others = _OTHERS.search(question) is not None
    if _HOW_MANY.search(question):
        compared = reference if _LIKE.search(question) else None
        return Asked("count", compared, others)
    which, odd = _WHICH.search(question), _ODD.search(question)
    if which and reference is not None and pictures > 2:
        if odd and not _SAMENESS.search(question):
            return Asked("unlike", reference, True)
        return Asked("like", reference, True) if _LIKE.search(question) else None
    if odd and pictures > 2 and (which or re.search(r"\bodd\b", question, re.I)):
        return Asked("odd")
    facts = _FACTS.search(question)
    if _SAME.search(question) and not facts and (pictures == 2 or _ALL_SAME.match(question)):
        return Asked("same", negated=_SAMENESS.search(question) is None)
    return None


def answer(asked: Asked, alike: Floats, same_from: float) -> Said | None:
    """From the cosines (n, n) of the user's pictures; `same_from`: from there on two show the same.

    None for a count of something that no picture of the user's is the example of.
    """
    n = len(alike)
    everything = tuple(range(n))
    if asked.kind == "same":
        return _all_same(asked, alike, same_from)
    if asked.kind == "odd":
        means = (alike.sum(1) - alike.diagonal()) / (n - 1)
        at = int(means.argmin())
        rest = float(np.delete(means, at).min())
        text = (
            f"The {name(at)} picture shows something else than the others (mean similarity "
            f"{means[at]:.2f}, of the others at least {rest:.2f})."
        )
        return Said(f"the {name(at)}", text, everything)
    if asked.reference is None:
        return None
    row = np.where(everything == np.array(asked.reference), np.nan, alike[asked.reference])
    first = f"the {name(asked.reference)}"
    if asked.kind == "count":
        shown = [i for i in everything if i != asked.reference and row[i] >= same_from]
        count = len(shown) + (not asked.others)
        said = f"{count} of {'the other ' if asked.others else 'the '}{n - asked.others} pictures"
        beside = f" ({_list(shown)})" if shown else ""
        return Said(
            str(count), f"{said} show the same as {first}, itself {_counted(asked)}{beside}.",
            everything,
        )  # fmt: skip
    unlike = asked.kind == "unlike"
    at = int(np.nanargmin(row) if unlike else np.nanargmax(row))
    score = float(row[at])
    if unlike:
        verb = "is least like" if score >= same_from else "shows something else than"
    else:
        verb = "shows the same as" if score >= same_from else "is most like"
    text = f"The {name(at)} picture {verb} {first} (similarity {score:.2f}){_doubt(verb)}."
    return Said(f"the {name(at)}", text, (asked.reference, at))


def count_of(what: str, same: Sequence[bool]) -> Said:
    """same: per picture of the user's whether it shows what the item of that title shows."""
    n = len(same)
    shown = [i for i in range(n) if same[i]]
    which = f": {_list(shown)}" if shown else ""
    return Said(
        str(len(shown)), f"{len(shown)} of the {n} pictures look like {what}{which}.",
        tuple(range(n)),
    )  # fmt: skip


def is_of_what_is_shown(question: str) -> bool:
    """Whether a count can only be one of the pictures."""
    return _SHOWN.search(question) is not None


def named(question: str, titles: Sequence[str]) -> list[int]:
    """Of the items those whose whole title stands in the question."""
    asked = set(index_terms(question))
    found = [set(index_terms(title)) for title in titles]
    return [i for i, terms in enumerate(found) if terms and terms <= asked]


def _all_same(asked: Asked, alike: Floats, same_from: float) -> Said:
    n = len(alike)
    score = float(alike[~np.eye(n, dtype=bool)].min())
    same = score >= same_from
    short = "Yes" if same != asked.negated else "No"
    if n == 2:
        found = f"the two pictures {'' if same else 'do not '}show the same (similarity"
    else:
        found = f"the {n} pictures {'' if same else 'do not '}all show the same (least similarity"
    return Said(short, f"{short}: {found} {score:.2f}).", tuple(range(n)))


def _reference(question: str, pictures: int) -> int | None:
    for found in _REFERENCE.finditer(question):
        if found["digits"]:
            at = int(found["digits"]) - 1
        elif found["word"].lower() == "last":
            at = pictures - 1
        else:
            at = ORDINALS.index(found["word"].lower())
        if 0 <= at < pictures:
            return at
    return None


def name(at: int) -> str:
    """
    >>> name(1), name(20)
    ('second', '21st')
    """
    if at < len(ORDINALS):
        return ORDINALS[at]
    number = at + 1
    end = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in _TEENS else "th"
    return f"{number}{end}"


def _list(shown: Sequence[int]) -> str:
    names = [f"the {name(i)}" for i in shown]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _counted(asked: Asked) -> str:
    return "not counted" if asked.others else "counted"


def _doubt(verb: str) -> str:
    return ", too little to be sure" if verb.startswith("is ") else ""
