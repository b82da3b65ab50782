"""The text of a country, written from its row of facts.

Every sentence says which country it speaks of, so that it can be quoted alone as an answer. Where
several wordings are at hand, a checksum of country and fact chooses: the texts differ from one
another, and are the same on every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rag_owl.sample.facts import Country

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Description:
    """A country's text and where its facts stand in it.

    Spans are offsets of `text` in code points, end exclusive: `sentences` by fact, and `answers`,
    the words within that sentence that are the fact alone.
    """

    text: str
    sentences: Mapping[str, Span]
    answers: Mapping[str, Span]

    def answer(self, fact: str) -> str:
        start, end = self.answers[fact]
        return self.text[start:end]


_ANSWER = "{answer}"

# {Name} begins a sentence. The fact itself is {answer}.
_WORDINGS: dict[str, tuple[str, ...]] = {
    "region": (
        "{Name} is a country in {answer}.",
        "{Name} is a state in {answer}.",
        "{Name} lies in {answer}.",
    ),
    "capital": (
        "The capital of {name} is {answer}.",
        "{answer} is the capital of {name}.",
        "The capital city of {name} is {answer}.",
    ),
    "population": (
        "About {answer} people lived in {name} in {year}.",
        "In {year} {name} had about {answer} inhabitants.",
        "The population of {name} was about {answer} in {year}.",
    ),
    "language": (
        "The official language of {name} is {answer}.",
        "{answer} is the official language of {name}.",
    ),
    "languages": (
        "The official languages of {name} are {answer}.",
        "In {name} the official languages are {answer}.",
    ),
    "main language": ("The main language of {name} is {answer}.",),
    "main languages": ("The main languages of {name} are {answer}.",),
    "currency": (
        "The currency of {name} is the {answer}.",
        "In {name} the currency is the {answer}.",
    ),
    "neighbours": (
        "{Name} borders {answer}.",
        "{Name} has land borders with {answer}.",
        "The neighbours of {name} by land are {answer}.",
    ),
    "neighbour": (
        "{Name} borders {answer}.",
        "The only neighbour of {name} by land is {answer}.",
    ),
    "landlocked": (
        "{Name} is a landlocked country that borders {answer}.",
        "{Name} has no coast: it is landlocked and borders {answer}.",
    ),
    "island": (
        "{Name} is surrounded by the sea and has {answer}.",
        "{Name} has the sea on every side and {answer}.",
    ),
    "peak": (
        "The highest point of {name} is {answer}, at {metres} metres.",
        "With {metres} metres, {answer} is the highest point of {name}.",
    ),
    "exports": (
        "{Name} exports {answer}.",
        "Among the exports of {name} are {answer}.",
        "Important exports of {name} are {answer}.",
    ),
    "export": ("{Name} exports {answer}.",),
    "flag": (
        "The flag of {name} shows {answer}.",
        "The national flag of {name} shows {answer}.",
    ),
    "meaning": ("On the flag of {name}, {answer}.", "In the flag of {name}, {answer}."),
    "remark": (_ANSWER,),
}

# Where a long name would make a long text, these follow on from the sentence before.
_JOINED = {
    "capital": ", and its capital is {answer}.",
    "currency": ", and its currency is the {answer}.",
    "exports": "; the country exports {answer}.",
    "meaning": "; {answer}.",
}
_MANY_WORDS = 130

_PARAGRAPHS = (
    ("region", "capital", "population", "languages", "currency"),
    ("neighbours", "peak", "exports", "remark"),
    ("flag", "meaning"),
)

FACTS = tuple(fact for paragraph in _PARAGRAPHS for fact in paragraph)


def describe(country: Country) -> Description:
    """The title, an empty line, then three paragraphs with a sentence for each of `FACTS`."""
    description = _written(country, join=False)
    if len(description.text.split()) > _MANY_WORDS:
        description = _written(country, join=True)
    return description


def _written(country: Country, join: bool) -> Description:
    text = country.title + "\n"
    sentences: dict[str, Span] = {}
    answers: dict[str, Span] = {}
    for paragraph in _PARAGRAPHS:
        text += "\n"
        before = ""  # the fact of the sentence before, in this paragraph
        for fact in paragraph:
            joined = join and fact in _JOINED
            wording = _JOINED[fact] if joined else _wording(country, fact)
            sentence, (start, end) = _filled(wording, country, fact)
            text = text.removesuffix(".") if joined else text + (" " if before else "")
            answers[fact] = len(text) + start, len(text) + end
            begin = sentences[before][0] if joined else len(text)
            text += sentence
            sentences[fact] = begin, len(text)
            if joined:
                sentences[before] = sentences[fact]
            before = fact
        text += "\n"
    return Description(text, sentences, answers)


def population(people: int) -> str:
    """123_000_000 -> "123 million"; 492_000 -> "492,000"."""
    if people < 1_000_000:
        return f"{people:,}"
    unit, name = (10**9, "billion") if people >= 10**9 else (10**6, "million")
    return f"{people / unit:.3g} {name}"


def listed(words: tuple[str, ...]) -> str:
    """("a", "b", "c") -> "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _wording(country: Country, fact: str) -> str:
    wordings = _WORDINGS[_kind(country, fact)]
    return wordings[zlib.crc32(f"{country.stem}/{fact}".encode()) % len(wordings)]


def _filled(wording: str, country: Country, fact: str) -> tuple[str, Span]:
    """-> the sentence and where the fact stands in it."""
    values = dict(_values(country))
    before, after = wording.split(_ANSWER)
    head, answer, tail = before.format(**values), values[fact], after.format(**values)
    if not head:
        answer = answer[0].upper() + answer[1:]
    if answer.endswith(".") and tail == ".":
        tail = ""  # "Washington, D.C."
    return head + answer + tail, (len(head), len(head) + len(answer))


def _kind(country: Country, fact: str) -> str:
    """The key of `_WORDINGS` that suits this country."""
    if fact == "languages":
        number = "language" if len(country.languages) == 1 else "languages"
        return number if country.official else "main " + number
    if fact == "neighbours":
        if country.landlocked:
            return "landlocked"
        return ("island", "neighbour", "neighbours")[min(len(country.neighbours), 2)]
    if fact == "exports" and len(country.exports) == 1:
        return "export"
    return fact


def _values(country: Country) -> Iterator[tuple[str, str]]:
    yield "name", country.name
    yield "Name", country.name[0].upper() + country.name[1:]
    yield "year", str(country.year)
    yield "metres", f"{country.metres:,}"
    yield "region", country.region
    yield "capital", country.capital
    yield "population", population(country.population)
    yield "languages", listed(country.languages)
    yield "currency", country.currency
    yield "neighbours", listed(country.neighbours) if country.neighbours else "no land borders"
    yield "peak", country.peak
    yield "exports", listed(country.exports)
    yield "flag", country.flag
    yield "meaning", country.meaning
    yield "remark", country.remark
