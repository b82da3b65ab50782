"""Picture episodes: a question with a picture, several items, one of which shows the same thing."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rag_owl.model.nano.window import tokenise
from rag_owl.model.train.nano import pictures, warp
from rag_owl.model.train.nano.passages import Episode, occurrences, token_range
from rag_owl.model.train.nano.pictures import SIDE

FACTS = {
    "capital": (
        ["What is the capital of this country?", "Which city is the capital of this country?",
         "What is its capital?", "Name the capital of the country with this flag."],
        ["The capital is {}.", "Its capital is {}.", "{} is the capital.", "Capital: {}."],
    ),
    "highest": (
        ["What is the highest point of this country?", "What is the highest mountain here?",
         "Which is the highest place of the country that has this flag?"],
        ["The highest point is {}.", "Highest point: {}."],
    ),
    "population": (
        ["How many people live in this country?", "What is the population of this country?",
         "How many inhabitants does the country with this flag have?"],
        ["About {} people live there.", "Population: {}.", "It has {} inhabitants."],
    ),
    "currency": (
        ["What is the currency of this country?", "Which money is used in this country?",
         "How does one pay in the country of this flag?"],
        ["The currency is the {}.", "Currency: {}.", "People pay in {}."],
    ),
    "climate": (
        ["What is the climate of this country like?", "How is the weather in this country?"],
        ["The climate is {}.", "Climate: {}."],
    ),
    "location": (
        ["Where is this country?", "Where does the country with this flag lie?"],
        ["It lies in {}.", "Location: {}."],
    ),
    "exports": (
        ["What does this country export?", "Which goods does this country sell abroad?"],
        ["It exports {}.", "Exports: {}."],
    ),
    "symbols": (
        ["What is the national symbol of this country?"],
        ["The national symbol is the {}.", "National symbol: {}."],
    ),
    "languages": (
        ["Which languages are spoken in this country?", "What do people speak here?"],
        ["People speak {}.", "Languages: {}.", "The languages are {}."],
    ),
    "religions": (
        ["Which religions do people of this country follow?"],
        ["Religions: {}.", "The people are {}."],
    ),
    "government": (
        ["What is the government of this country?", "How is this country governed?"],
        ["It is a {}.", "Government: {}."],
    ),
    "resources": (
        ["Which natural resources does this country have?", "What is found in its ground?"],
        ["Its natural resources are {}.", "Resources: {}."],
    ),
    "terrain": (
        ["What does the land of this country look like?", "How is the terrain here?"],
        ["The land is {}.", "Terrain: {}."],
    ),
    "flag": (
        ["Describe this flag.", "How does the text describe this flag?"],
        ["The flag: {}.", "Flag: {}.", "Its flag shows {}."],
    ),
    "meaning": (
        ["What do the colours of this flag mean?", "What does this flag stand for?",
         "What is the meaning of this flag's colours and signs?"],
        ["On the flag, {}.", "Meaning of the flag: {}."],
    ),
    "neighbours": (
        ["Which countries border this country?", "What are the neighbours of this country?",
         "With which countries does this country share a border?"],
        ["It borders {}.", "Neighbours: {}.", "It has borders with {}.",
         "Its neighbours are {}.", "The countries around it are {}."],
    ),
    "name": (
        ["Which country is this?", "Whose flag is this?", "Which country has this flag?",
         "What country does this flag belong to?"],
        ["This is {}.", "{} is a country.", "Country: {}."],
    ),
}  # fmt: skip
"""Fact -> questions, and sentences that hold it."""

MARKS = {
    "code": (
        ["What is the code of this?", "Which code does the thing in this picture have?"],
        ["Its code is {}.", "Code: {}.", "It is filed under {}."],
    ),
    "place": (
        ["Where was this seen?", "In which town is this?", "Where is the thing shown here kept?"],
        ["It was seen in {}.", "Place: {}.", "It is kept in {}."],
    ),
    "owner": (
        ["Who owns this?", "To whom does the thing in this picture belong?", "Whose is this?"],
        ["It belongs to {}.", "Owner: {}.", "{} owns it."],
    ),
    "number": (
        ["How many of these are there?", "How many of them were counted?"],
        ["There are {} of them.", "Count: {}.", "{} were counted."],
    ),
}
_SYLLABLES = "ba ko ri ten mar lo vi sha dun pel ga nor ith sa wen tor mi les ro kan".split()  # noqa: SIM905


def made_up(kind: str, rng: random.Random) -> str:
    if kind == "number":
        return str(rng.randint(2, 990))
    if kind == "code":
        return f"{rng.choice('ABCDEFGHKLMNPRSTUVWXZ')}{rng.randint(10, 9999)}"
    word = "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))).capitalize()
    if kind == "owner":
        return f"{rng.choice(('Anna', 'Ben', 'Clara', 'David', 'Eva', 'Omar', 'Lin'))} {word}"
    return word


FLAG_WEIGHTS = {
    "capital": 4, "population": 2, "currency": 2, "meaning": 3, "name": 6, "neighbours": 4,
}  # fmt: skip
"""How often a kind is asked about with a picture; others 1."""


def country_fact(country: dict[str, Any], kind: str) -> str:
    """The fact in a few words: the first clause, without years and sources in brackets."""
    if kind in ("flag", "meaning"):
        return _flag_text(str(country.get("flag") or ""), kind)
    text = str(country.get(kind) or "")
    if kind in ("languages", "religions"):
        return _enumeration(text)
    if kind == "neighbours":
        return text
    for stop in (";", " (", " per US dollar"):
        text = text.split(stop)[0]
    words = text.strip(" .-").split(", ")
    return ", ".join(words[:3]) if len(text) > 60 else text.strip(" .-")


def _flag_text(text: str, kind: str) -> str:
    """What is seen, or what it stands for: whole clauses of at most 28 words together."""
    seen, _, meant = text.removeprefix("description: ").partition(" meaning: ")
    out = ""
    for clause in (seen if kind == "flag" else meant).split(";"):
        longer = f"{out}; {clause.strip()}" if out else clause.strip()
        if len(longer.split()) > 28:
            break
        out = longer
    return out.strip(" .")


def _enumeration(text: str) -> str:
    """The first names of a list with shares: "Hindi 43.6%, Bengali 8%" -> "Hindi and Bengali"."""
    names = []
    for part in text.split(";")[0].split(", ")[:4]:
        name = re.split(r" (?:\d|\(|[<>])", part)[0].strip()
        if re.fullmatch(r"[A-Z][\w' -]{2,24}", name):
            names.append(name)
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def tell(sentence: str, *values: str) -> str:
    """A sentence that holds a fact. Where there are no neighbours it says just that."""
    if values[-1] == "no land borders":
        return f"{values[0] if len(values) > 1 else 'It'} has no land borders."
    return sentence.format(*values)


class PictureEpisodes:
    """Draws episodes; the pixels of all of them go through the eyes in one batch."""

    def __init__(self, tokenizer: Any, things: pictures.Pictures, flags: pictures.Flags) -> None:
        """things: pictures that the eyes did not learn from, which they would see too surely."""
        self.tokenizer, self.things, self.flags = tokenizer, things, flags
        order = np.argsort(things.labels, kind="stable")
        cuts = np.searchsorted(things.labels[order], np.arange(len(things.names) + 1))
        self.by_class = [order[a:b] for a, b in pairwise(cuts)]

    def flag(self, rng: random.Random, silent: float = 0.1) -> Episode:
        """Country cards with their flags; one in seven questions is of no card's country, and
        `silent` of them are about what no card says."""
        kind = rng.choices(list(FACTS), weights=[FLAG_WEIGHTS.get(k, 1) for k in FACTS])[0]
        known = [i for i, c in enumerate(self.flags.countries) if country_fact(c, kind)]
        shown = rng.sample(known, rng.randint(3, 6))
        groups = self.flags.groups
        gold = shown.pop()
        shown = [i for i in shown if groups[i] != groups[gold]]
        order = list(shown)
        if rng.random() > 0.14:
            order.insert(rng.randint(0, len(order)), gold)
        told = rng.random() >= silent
        texts, values = [], []
        for i in order:
            country = self.flags.countries[i]
            value = country_fact(country, kind)
            lines = [tell(rng.choice(FACTS[kind][1]), value)] if told else []
            # One that says nothing of it says something else.
            others = rng.sample([k for k in FACTS if k != kind], rng.randint(0, 3) + 2 * (not told))
            for other in others:
                if fact := country_fact(country, other):
                    lines += [tell(rng.choice(FACTS[other][1]), fact)]
            rng.shuffle(lines)
            texts.append(" ".join(lines))
            values.append(value)
        titled = rng.random() < 0.5
        titles = [self.flags.countries[i]["name"] + "." if titled else "" for i in order]
        question = rng.choice(FACTS[kind][0])
        at = order.index(gold) if gold in order and told else None
        episode = self._episode(question, titles, texts, values, at)
        episode.user_picture = ("flag", gold)
        episode.item_pictures = [("flag", i) for i in order]
        return episode

    def thing(self, rng: random.Random) -> Episode:
        """Pictures of classes with made-up marks; captions absent, true, or misleading. Half
        of them are strange to the eyes, as most of what they will see."""
        kind = rng.choice(list(MARKS))
        classes = rng.sample(range(len(self.by_class)), rng.randint(3, 5))
        gold = classes[0]
        order = list(classes) if rng.random() > 0.14 else classes[1:]
        rng.shuffle(order)
        captions = rng.choice(("none", "true", "misleading", "misleading"))
        named = list(order)
        if captions == "misleading":
            rng.shuffle(named)
        texts, values = [], []
        for label in named:
            value = made_up(kind, rng)
            lines = [rng.choice(MARKS[kind][1]).format(value)]
            other = rng.choice([k for k in MARKS if k != kind])
            if rng.random() < 0.5:
                lines.append(rng.choice(MARKS[other][1]).format(made_up(other, rng)))
            rng.shuffle(lines)
            if captions != "none":
                name = self.things.names[label].split(",")[0]
                lines.insert(0, rng.choice(("A {}.", "Picture of a {}.", "{}.")).format(name))
            texts.append(" ".join(lines))
            values.append(value)
        at = order.index(gold) if gold in order else None
        question = rng.choice(MARKS[kind][0])
        episode = self._episode(question, [""] * len(order), texts, values, at)
        episode.user_picture = ("thing", int(rng.choice(self.by_class[gold])))
        others = [i for i in self.by_class[gold] if i != episode.user_picture[1]]
        episode.item_pictures = [
            ("thing", int(rng.choice(others if c == gold else self.by_class[c]))) for c in order
        ]
        episode.strange = rng.random() < 0.5
        return episode

    def _episode(
        self,
        question: str,
        titles: Sequence[str],
        texts: Sequence[str],
        values: Sequence[str],
        gold: int | None,
    ) -> Episode:
        coded = tokenise(self.tokenizer, texts)
        heads = [t.ids for t in tokenise(self.tokenizer, titles)]
        limit = 430 // max(len(texts), 1)
        items = [(h[:16], t.cut(0, limit - 17)) for h, t in zip(heads, coded, strict=True)]
        answers = []
        if gold is not None:
            for start, end in occurrences(texts[gold], values[gold]):
                place = token_range(items[gold][1], start, end)
                if place is not None:
                    answers.append((gold, *place))
        return Episode(question, items, answers, [gold] if answers and gold is not None else [])

    def render(self, episodes: Sequence[Episode], g: torch.Generator) -> Tensor:
        """Pixels (n, 3, SIDE, SIDE) from -1 to 1: per episode the user's picture, then the items'.

        The user's is a fresh photograph; what is indexed is nearly clean.
        """
        out = []
        for episode in episodes:
            wanted = [(episode.user_picture, True)] + [(p, False) for p in episode.item_pictures]
            for (kind, index), fresh in wanted:
                out.append(self._one(kind, index, fresh, g))
        return torch.cat(out).mul(2).sub(1)

    def _one(self, kind: str, index: int, fresh: bool, g: torch.Generator) -> Tensor:
        if kind == "thing":
            stored = torch.from_numpy(np.array(self.things.pixels[index]))
            picture = stored.permute(2, 0, 1)[None].float() / 255
            return warp.crop_and_flip(picture, SIDE, g) if fresh else picture
        stored = torch.from_numpy(self.flags.pixels[index])
        flag = stored.permute(2, 0, 1)[None].float() / 255
        if not fresh:
            return F.interpolate(flag, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        aspect = torch.tensor([float(self.flags.aspects[index])])
        background = torch.rand(1, 3, 1, 1, generator=g).expand(-1, -1, SIDE, SIDE)
        return warp.photograph(flag, aspect, background, SIDE, g)
