"""Text questions about country cards: short facts under a title, in plainer words than SQuAD's.

What people keep in collections is often such cards; encyclopaedia prose alone does not teach them.
"""

from __future__ import annotations

import random
from typing import Any

from rag_owl.model.nano.window import tokenise
from rag_owl.model.train.nano.episodes import FACTS, country_fact, tell
from rag_owl.model.train.nano.passages import Episode, occurrences, token_range
from rag_owl.model.train.nano.statements import CONTRADICTED, SUPPORTED, UNRELATED
from rag_owl.statements import declare

ASKED = {
    "capital": ["What is the capital of {}?", "Which city is the capital of {}?",
                "Name the capital of {}.", "What is {}'s capital?"],
    "highest": ["What is the highest point of {}?", "Which is the highest mountain of {}?",
                "What is the highest place in {}?"],
    "population": ["How many people live in {}?", "What is the population of {}?",
                   "How many inhabitants does {} have?"],
    "currency": ["What is the currency of {}?", "Which money is used in {}?",
                 "What currency do people in {} pay with?"],
    "climate": ["What is the climate of {} like?", "What is the weather like in {}?"],
    "location": ["Where is {}?", "Where does {} lie?", "Where is {} located?"],
    "exports": ["What does {} export?", "Which goods does {} sell abroad?"],
    "symbols": ["What is the national symbol of {}?"],
    "languages": ["Which languages are spoken in {}?", "What do people in {} speak?",
                  "Name the languages of {}."],
    "religions": ["Which religions do people in {} follow?"],
    "government": ["How is {} governed?", "What kind of state is {}?"],
    "resources": ["Which natural resources does {} have?"],
    "terrain": ["What does the land of {} look like?", "What is the terrain of {}?"],
    "flag": ["What does the flag of {} look like?", "Describe the flag of {}.",
             "What is on the flag of {}?"],
    "meaning": ["What does the flag of {} stand for?", "What do the colours of {}'s flag mean?",
                "What is the meaning of the flag of {}?"],
    "neighbours": ["Which countries border {}?", "What are the neighbours of {}?",
                   "With which countries does {} share a border?"],
}  # fmt: skip
"""Fact -> questions that name the country."""
_UNKNOWN = [
    "What is the area of {}?", "When did {} become independent?", "Who founded {}?",
    "What is the time zone of {}?", "On which side of the road do people drive in {}?",
    "What is the internet domain of {}?", "How many airports does {} have?",
    "Who won the last election in {}?", "What is the national bird of {}?",
    "What is the life expectancy in {}?", "Which sport is most popular in {}?",
    "What is the longest river of {}?", "How long is the coastline of {}?",
    "What is the motto of {}?", "Who is the king of {}?", "What is the literacy rate of {}?",
    "Which football club of {} is the best known?", "What do people in {} eat at breakfast?",
    "How many soldiers does the army of {} have?", "What is the name of {}'s parliament?",
]  # fmt: skip
"""Questions that no card answers, though one is about that very country."""
_NAMED = {
    "capital": ["The capital of {0} is {1}.", "{1} is the capital of {0}."],
    "highest": ["The highest point of {0} is {1}."],
    "population": ["About {1} people live in {0}.", "{0} has {1} inhabitants."],
    "currency": ["The currency of {0} is the {1}.", "People in {0} pay in {1}."],
    "climate": ["The climate of {0} is {1}."],
    "location": ["{0} lies in {1}.", "{0} is in {1}."],
    "exports": ["{0} exports {1}."],
    "symbols": ["The national symbol of {0} is the {1}."],
    "languages": ["People in {0} speak {1}.", "The languages of {0} are {1}."],
    "religions": ["The people of {0} are {1}."],
    "government": ["{0} is a {1}."],
    "resources": ["The natural resources of {0} are {1}."],
    "terrain": ["The land of {0} is {1}."],
    "flag": ["The flag of {0}: {1}.", "{0}'s flag shows {1}."],
    "meaning": ["On the flag of {0}, {1}."],
    "neighbours": ["{0} borders {1}.", "The neighbours of {0} are {1}.",
                   "Around {0} lie {1}."],
}  # fmt: skip
_WEIGHTS = {"neighbours": 4, "flag": 3, "meaning": 3}
"""How often a kind is asked about; others 1."""
_REVERSED = {
    "capital": ["Which country has {} as its capital?", "{} is the capital of which country?"],
    "highest": ["In which country is {}?", "Which country has {} as its highest point?"],
    "currency": ["Where does one pay with the {}?", "Which country uses the {}?"],
    "symbols": ["Which country has the {} as its symbol?"],
}


def card_episode(
    countries: list[dict[str, Any]], rng: random.Random, tokenizer: Any, cards: int
) -> Episode:
    """A question that names a country (or, one in five, a fact) and `cards` cards; in one of six
    only the fact is missing, and one in eight asks what no card says."""
    reverse = rng.random() < 0.2
    kinds = list(_REVERSED if reverse else ASKED)
    kind = rng.choices(kinds, weights=[_WEIGHTS.get(k, 1) for k in kinds])[0]
    known = [c for c in countries if country_fact(c, kind)]
    shown = rng.sample(known, cards)
    gold = rng.randrange(cards)
    missing = rng.random() < 1 / 6
    texts, titles, marks = [], [], []
    for i, country in enumerate(shown):
        name, value = country["name"], country_fact(country, kind)
        # Where nothing in the text says whose facts they are, the title does.
        titled = rng.random() < 0.7
        named = reverse or not titled or rng.random() < 0.5
        lines = [_say(kind, name, value, named, rng)]
        if i == gold and missing:
            lines = []
        others = [k for k in ASKED if k != kind and country_fact(country, k)]
        for other in rng.sample(others, min(len(others), rng.randint(1, 4))):
            lines.append(
                _say(other, name, country_fact(country, other), named and rng.random() < 0.5, rng)
            )
        rng.shuffle(lines)
        if named and reverse:
            lines.insert(0, f"{name} is a country.")
        texts.append(" ".join(lines))
        titles.append(f"{name}." if titled else "")
        marks.append(name if reverse else value)
    asked = (_REVERSED if reverse else ASKED)[kind]
    country = shown[gold]
    question = rng.choice(asked).format(country_fact(country, kind) if reverse else country["name"])
    if rng.random() < 1 / 8:
        question, missing = rng.choice(_UNKNOWN).format(country["name"]), True
    heads = [t.ids[:16] for t in tokenise(tokenizer, titles)]
    coded = [t.cut(0, 110) for t in tokenise(tokenizer, texts)]
    answers = []
    if not missing:
        for start, end in occurrences(texts[gold], marks[gold]):
            place = token_range(coded[gold], start, end)
            if place is not None:
                answers.append((gold, *place))
    items = list(zip(heads, coded, strict=True))
    return Episode(question, items, answers, [gold] if answers else [])


def card_statements(
    countries: list[dict[str, Any]], rng: random.Random, tokenizer: Any
) -> list[Episode]:
    """One card, a true statement and a false one (another country's fact), by name, or about "this
    country" where a picture says which. What says another name is unrelated.
    """
    kind = rng.choice(list(ASKED))
    known = [c for c in countries if country_fact(c, kind)]
    one, other = rng.sample(known, 2)
    value, wrong = country_fact(one, kind), country_fact(other, kind)
    titled = rng.random() < 0.7
    lines = [_say(kind, one["name"], value, not titled or rng.random() < 0.5, rng)]
    others = [k for k in ASKED if k != kind and country_fact(one, k)]
    lines += [
        _say(k, one["name"], country_fact(one, k), rng.random() < 0.3, rng)
        for k in rng.sample(others, min(len(others), rng.randint(1, 4)))
    ]
    rng.shuffle(lines)
    head, text = tokenise(tokenizer, [f"{one['name']}." if titled else "", " ".join(lines)])
    items = [(head.ids[:16], text.cut(0, 110))]
    out = []
    pictured = rng.random() < 0.3
    for said, truth in ((value, SUPPORTED), (wrong, CONTRADICTED)):
        if said in value and truth == CONTRADICTED:
            continue  # the same fact in both countries
        if pictured:
            statement = declare(rng.choice(FACTS[kind][0]), said)
        elif rng.random() < 0.5:
            statement = declare(rng.choice(ASKED[kind]).format(one["name"]), said)
        else:
            statement = _say(kind, one["name"], said, True, rng)
        out.append(Episode(statement, items, [], [], [truth]))
    if not pictured and rng.random() < 0.3:
        moved = _say(kind, other["name"], value, True, rng)
        out.append(Episode(moved, items, [], [], [UNRELATED]))
    return out


def _say(kind: str, name: str, value: str, named: bool, rng: random.Random) -> str:
    if named:
        return tell(rng.choice(_NAMED[kind]), name, value)
    return tell(rng.choice(FACTS[kind][1]), value)
