"""Follow-up questions: what "And its currency?" means after a question about Japan.

A follow-up is read with the turn before it: pronouns and gaps are filled with what that turn was
about. The reading is what is searched for and what models without a memory are asked; it is kept
with the answer and shown, so that a wrong one is seen. The rules know English; what they do not
understand is searched together with the earlier question, and models that are shown the whole
conversation get the user's own words in any case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rag_owl.types import Question, Turn

MOST_TURNS = 6  # that a follow-up is read with

_LEAD = re.compile(
    r"^(?:(?:and|but|so|or|also|then|ok|okay|now|well|yes|no|thanks|thank you)\b[\s,.!:–-]*)+", re.I
)
_ABOUT = re.compile(r"^(?:(?:what|how) (?:about|of)|same for|the same for)\s+", re.I)
_PLACE = re.compile(
    r"\b(?:(from) |over |in )?there\b(?!\s+(?:is|are|was|were|any|a|an|no)\b)", re.I
)
_THING = re.compile(
    r"\b(?:it|they|them|he|she|him"
    r"|(?:this|that) (?:country|nation|state|place|city|one|person|company|thing|animal|plant"
    r"|species|language|film|book|building|machine|document|subject|flag))\b",
    re.I,
)
_DEMONSTRATIVE = re.compile(
    r"(?:for |of |in |with )?(?:this|that|the other|the next|the second)(?: \w+)?", re.I
)
_ASKING = re.compile(
    r"^(?:(?:in|of|by|from|to|with|on|at|for) )?(?:what|which|who|whom|whose|where|when|why|how|is"
    r"|are|was|were|do|does|did|can|could|will|would|has|have|had|should|name|list|tell|give|show"
    r"|describe|explain|compare)\b",
    re.I,
)
_LARGE = r"(?:[dl]['’])?[A-ZÀ-ÖØ-ÞĀ-Ž][\w'’.-]*"
_ASKS_WHICH = re.compile(
    r"^who\b|\b(?:which|what) (?!(?:is|are|was|were|do|does|did|about|of)\b)\w", re.I
)
# A name: words written large, with the small ones that stand between them.
_NAME = re.compile(
    rf"(?:\bthe )?(?<![\w'’]){_LARGE}"
    rf"(?: (?:(?:of|and|the|de|da|do|du|la|le|el|al|van|von) ){{0,2}}{_LARGE})*"
)
_BESIDES = re.compile(r"\b(?:the|a|an|of|in|for|to|at|on|with|from|by|about)\b", re.I)
# A noun phrase ends before one of these: "flag | look like", "highest point | of".
_WORDS = (
    r"(?:(?!(?:is|are|was|were|do|does|did|look|looks|mean|means|stand|stands|have|has|of|in|on|at"
    r"|for|with|from|by|to|that|which|who|called|spoken|used)\b)[\w'’-]+\s?)+"
)
_PHRASE = re.compile(rf"\bthe {_WORDS}", re.I)
_OWNED = re.compile(rf"\b(?:its|their|his|her) ({_WORDS})", re.I)
_LONGEST = 400  # characters: what is longer says itself what it is about
_FRAGMENT = 8  # words: what is longer is a sentence
_PARTICIPLE = re.compile(r"\w+(?:ed|en)$")


def with_history(question: Question, history: Sequence[Turn]) -> Question:
    """The question as it is searched for and asked: `text` is its reading, `words` the user's.

    A follow-up without a picture whose subject only the earlier picture knows gets that picture.
    """
    if not history:
        return question
    history = tuple(history[-MOST_TURNS:])
    reading = read(question.text, history, pictured=bool(question.pictures or question.video))
    changed = replace(question, history=history)
    if reading == question.text:
        return changed
    changed = replace(changed, text=reading, words=question.text)
    last = history[-1]
    if not (question.pictures or question.video) and subject(last) is None:
        changed = replace(changed, pictures=last.pictures, video=last.video)
    return changed


def is_follow_up(question: Question) -> bool:
    """Whether it was understood by what went before it."""
    return question.words is not None


def read(text: str, history: Sequence[Turn], pictured: bool = False) -> str:
    """The question as it would be asked without what went before it; itself where it can be.

    pictured: the question has pictures of its own, so "this country" is what they show.
    """
    asked = " ".join(text.split())
    if not history or not asked or len(asked) > _LONGEST:
        return text
    last = history[-1]
    about = subject(last)
    lead = _LEAD.match(asked)
    rest = asked[lead.end() :] if lead else asked
    turned = _ABOUT.match(rest)
    if turned:
        rest = rest[turned.end() :]
    bare = rest.rstrip(" ?.!")
    if not bare:
        return text
    if pictured:
        return _of_new_picture(text, bare, last, about, bool(turned))
    refers = any(p.search(bare) for p in (_OWNED, _PLACE, _THING))
    fragment = bool(turned) or (not _ASKING.match(bare) and len(bare.split()) <= _FRAGMENT)
    if refers:
        if about is None or not _BESIDES.sub(" ", _THING.sub(" ", bare)).strip():
            return _together(last, text)
        return _put_in(bare, about, fragment)
    if fragment:
        return _completed(bare, last, about, bool(lead or turned)) or _together(last, text)
    return _continued(rest, about, bool(lead)) or (_sentence(bare) if lead else text)


def subject(turn: Turn) -> str | None:
    """What a turn was about, by name; None where nothing says it.

    That is what its evidence is titled, if the question names it, or asks which one it is. Else a
    name in the question, and last a title that the answer alone holds, as after a picture.
    """
    names = _names(turn.reading)
    return (
        _titled(turn.titles, turn.reading)
        or (_titled(turn.titles, turn.text) if _ASKS_WHICH.search(turn.reading) else None)
        or (names[-1] if names else None)
        or _titled(turn.titles, turn.text)
        or (None if turn.titles else _last_name(turn.text))
    )


def _last_name(said: str) -> str | None:
    """For turns that somebody else kept, who did not keep what was cited."""
    found = _names(re.sub(r"\[\d{1,4}\]", "", said))
    return found[-1] if found else None


def _titled(titles: Sequence[str], said: str) -> str | None:
    for title in titles:
        found = re.search(rf"(?:\bthe )?(?<!\w){re.escape(title)}(?!\w)", said, re.I)
        if title and found:
            return _small_the(found[0])
    return None


def _of_new_picture(text: str, bare: str, last: Turn, about: str | None, turned: bool) -> str:
    """ "And this one?" with a picture: the earlier question, asked of the new picture."""
    shown = _DEMONSTRATIVE.fullmatch(bare)
    if not shown and not (turned and _THING.fullmatch(bare)):
        return text
    thing = re.sub(r"^(?:for|of|in|with) ", "", bare, flags=re.I)
    thing = re.sub(r" one$", "", thing, flags=re.I)
    return _replaced(last.reading, about, thing) if about else last.reading


def _put_in(bare: str, about: str, fragment: bool) -> str:
    """Pronouns become the subject."""
    owned = _OWNED.search(bare)
    if owned:
        phrase = owned[1].rstrip()
        rest = bare[owned.start(1) + len(phrase) :]
        bare = f"{bare[: owned.start()]}the {phrase} of {about}{rest}"
    bare = _PLACE.sub(lambda found: f"{found[1] or 'in'} {about}", bare)
    bare = _THING.sub(lambda _: about, bare)
    return _question(bare) if fragment else _sentence(bare)


def _completed(bare: str, last: Turn, about: str | None, led: bool) -> str | None:
    """A fragment: another subject for the same question, or another question on the subject.

    None where it is neither for certain.
    """
    names = _names(f". {bare}")
    if not names:
        if about is None:
            return None
        article = "" if re.match(r"(?:the|a|an|any|all)\b", bare, re.I) else "the "
        return _question(f"{article}{bare} of {about}")
    beside = bare
    for name in names:
        beside = beside.replace(name, " ")
    if _BESIDES.sub(" ", beside).strip(" ,'’s"):  # "the capital of Chad"
        return _question(bare) if _BESIDES.search(beside) else None
    if not led and bare == names[0] and " " not in bare:
        return None  # "Switzerland?", or "Population?", which any first word looks like
    if about and re.search(rf"(?<!\w){re.escape(about)}(?!\w)", last.reading, re.I):
        return _replaced(last.reading, about, names[0])
    replaced = _THING.sub(lambda _: names[0], last.reading, count=1)
    return replaced if replaced != last.reading else None


def _continued(rest: str, about: str | None, led: bool) -> str | None:
    """A whole question that names nobody, as "What does the flag look like?": of the subject."""
    bare = rest.rstrip(" ?.!")
    short = len(bare.split()) <= _FRAGMENT + 2
    if about is None or _names(bare) or not short:
        return None
    if not re.match(r"(?:what|which|how|where|in what|in which)\b", bare, re.I):
        return None
    phrase = _PHRASE.search(bare)
    if phrase and not bare[phrase.end() :].lstrip().lower().startswith("of "):
        end = phrase.start() + len(phrase[0].rstrip())
        return _sentence(f"{bare[:end]} of {about}{bare[end:]}")
    if led:
        return _sentence(f"{bare} {'in' if _PARTICIPLE.search(bare) else 'of'} {about}")
    return None


def _together(last: Turn, text: str) -> str:
    return f"{last.reading} {text}"


def _question(phrase: str) -> str:
    """ "the exports of Chad" -> "What are the exports of Chad?" """
    head = re.split(r"\b(?:of|in|for)\b", phrase)[0].split()
    plural = bool(head) and re.search(r"[^s]s$", head[-1]) is not None
    if re.match(r"(?:the|a|an|any|all)\b", phrase, re.I):
        phrase = phrase[0].lower() + phrase[1:]
    return f"What {'are' if plural else 'is'} {phrase}?"


def _sentence(bare: str) -> str:
    return f"{bare[0].upper()}{bare[1:]}?"


def _replaced(said: str, old: str, new: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, said, flags=re.I)


def _names(said: str) -> list[str]:
    """The names in a sentence; its first word is written large anyway."""
    found = []
    for match in _NAME.finditer(said):
        name = match[0].strip(" .'’-")
        after_the = match.start() > 0 or name.startswith("The ")
        if after_the and name.lower() not in ("i", "the"):
            found.append(_small_the(name.removesuffix("'s").removesuffix("’s")))
    return found


def _small_the(name: str) -> str:
    return re.sub(r"^the ", "the ", name, flags=re.I)
