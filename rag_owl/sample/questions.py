"""Questions on the sample collection with their answers, from the same facts as its texts.

Each question is a row of the evaluation format (JSONL): `id`, `question`, `images` (files of the
sample), `answers` (none: the collection cannot answer) and `items`, the place in a document that
answers it. The id says what is asked: `japan/capital`, `japan/picture/capital`,
`japan/unanswerable/anthem`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypedDict

from rag_owl.sample.facts import COUNTRIES, Country
from rag_owl.sample.text import Description, describe


class Evidence(TypedDict):
    document: str  # the name of picture and text together: the picture's
    start: int
    end: int


class SampleQuestion(TypedDict):
    id: str
    question: str
    images: list[str]
    answers: list[str]
    items: list[Evidence]


_ASKED = {
    "capital": "What is the capital of {name}?",
    "population": "How many people live in {name}?",
    "languages": "Which languages are spoken in {name}?",
    "currency": "What is the currency of {name}?",
    "neighbours": "Which countries border {name}?",
    "peak": "What is the highest point of {name}?",
    "exports": "What does {name} export?",
    "flag": "What does the flag of {name} look like?",
    "meaning": "What do the colours and signs on the flag of {name} stand for?",
}

_ASKED_BY_PICTURE = {
    "capital": "What is the capital of this country?",
    "population": "How many people live in the country with this flag?",
    "languages": "Which languages are spoken in this country?",
    "currency": "What is the currency of this country?",
    "neighbours": "Which countries border this country?",
    "peak": "What is the highest point of this country?",
    "meaning": "What do the colours and signs on this flag stand for?",
}

# Asked the other way round, where the fact belongs to one country of the sample alone.
_REVERSED = {
    "capital": "Of which country is {value} the capital?",
    "currency": "Which country uses the {value}?",
    "peak": "In which country is {value} the highest point?",
}

# Nothing in the texts bears on these.
_UNANSWERABLE = {
    "president": "Who is the president of {name}?",
    "anthem": "What is the national anthem of {name} called?",
    "dialling code": "What is the international dialling code of {name}?",
    "railways": "How many kilometres of railway does {name} have?",
    "dish": "What is the national dish of {name}?",
}

# Countries that the sample does not hold, though some are named as neighbours.
NOT_IN_SAMPLE = (
    *("Afghanistan", "Albania", "Angola", "Belarus", "Bolivia", "Cambodia", "Croatia", "Ecuador"),
    *("Egypt", "Eritrea", "Fiji", "Guatemala", "Iran", "Iraq", "Kazakhstan", "Mexico", "Mongolia"),
    *("Mozambique", "Paraguay", "Peru", "Portugal", "Serbia", "Spain", "Sri Lanka", "Zambia"),
)


def sample_questions() -> list[SampleQuestion]:
    """-> text questions, picture questions and unanswerable ones, in a fixed order.

    The files that `images` and `items` name are those that `write_sample` writes.
    """
    questions: list[SampleQuestion] = []
    for number, country in enumerate(COUNTRIES):
        description = describe(country)
        questions += _by_text(country, description)
        questions += _by_picture(country, description)
        questions += _reversed(country, description)
        questions += _unanswerable(country, number)
    for name in NOT_IN_SAMPLE:
        stem = name.lower().replace(" ", "-")
        asked = f"What is the capital of {name}?"
        questions.append(_question(f"{stem}/unanswerable/capital", asked))
    return questions


def _question(
    identifier: str,
    question: str,
    images: tuple[str, ...] = (),
    answers: tuple[str, ...] = (),
    items: tuple[Evidence, ...] = (),
) -> SampleQuestion:
    return SampleQuestion(
        id=identifier,
        question=question,
        images=list(images),
        answers=list(answers),
        items=list(items),
    )


def _evidence(country: Country, span: tuple[int, int]) -> Evidence:
    return Evidence(document=f"{country.stem}.png", start=span[0], end=span[1])


def _by_text(country: Country, description: Description) -> Iterator[SampleQuestion]:
    for fact, asked in _ASKED.items():
        yield _question(
            f"{country.stem}/{fact}",
            asked.format(name=country.name),
            answers=(description.answer(fact),),
            items=(_evidence(country, description.answers[fact]),),
        )


def _by_picture(country: Country, description: Description) -> Iterator[SampleQuestion]:
    picture = (f"{country.stem}.png",)
    yield _question(
        f"{country.stem}/picture/country",
        "Which country does this flag belong to?",
        picture,
        _names(country),
        (_evidence(country, (0, len(country.title))),),
    )
    for fact, asked in _ASKED_BY_PICTURE.items():
        yield _question(
            f"{country.stem}/picture/{fact}",
            asked,
            picture,
            (description.answer(fact),),
            (_evidence(country, description.answers[fact]),),
        )


def _reversed(country: Country, description: Description) -> Iterator[SampleQuestion]:
    for fact, asked in _REVERSED.items():
        value: str = getattr(country, fact)
        holders = Counter(getattr(other, fact) for other in COUNTRIES)
        # "an unnamed hill" tells nobody which country is meant.
        if holders[value] == 1 and not value.startswith(("a ", "an ")):
            yield _question(
                f"{country.stem}/reversed/{fact}",
                asked.format(value=value),
                answers=_names(country),
                items=(_evidence(country, description.sentences[fact]),),
            )


def _unanswerable(country: Country, number: int) -> Iterator[SampleQuestion]:
    """One for each country, in turn; every other one is asked with the picture."""
    subject, asked = list(_UNANSWERABLE.items())[number % len(_UNANSWERABLE)]
    by_picture = number % 2 == 1
    yield _question(
        f"{country.stem}/unanswerable/{subject.replace(' ', '-')}",
        asked.format(name="this country" if by_picture else country.name),
        (f"{country.stem}.png",) if by_picture else (),
    )


def _names(country: Country) -> tuple[str, ...]:
    return tuple(dict.fromkeys((country.title, country.name)))
