"""Follow-up questions over the sample: how many are answered right, by each answerer.

    python -m benchmarks.quality.followups [--model sentences --model owl-nano] [--verbose]

Thirty scripted follow-ups in eleven conversations, some begun with a picture. One is right when the
answer holds the fact as the sample states it, and cites the document of the country meant; one
about what the sample does not hold is right when the answer abstains. The first questions of the
conversations do not count. The baseline asks the follow-ups word for word, without a conversation.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe as describe_machine
from benchmarks.quality.scores import normalise
from rag_owl import RagOwl
from rag_owl.sample import write_sample
from rag_owl.sample.facts import COUNTRIES
from rag_owl.sample.text import describe
from rag_owl.types import Answer

NOTHING = "nothing"  # the sample does not hold it


@dataclass(frozen=True, slots=True)
class Asked:
    words: str
    country: str  # stem: whose fact is wanted
    fact: str  # of `rag_owl.sample.text.FACTS`, or NOTHING
    picture: str = ""  # stem of a flag shown with it


# Each conversation: a first question, and what follows.
CONVERSATIONS: tuple[tuple[Asked, ...], ...] = (
    (
        Asked("What is the capital of Japan?", "japan", "capital"),
        Asked("And its currency?", "japan", "currency"),
        Asked("How many people live there?", "japan", "population"),
        Asked("What is its highest point?", "japan", "peak"),
    ),
    (
        Asked(
            "What is the capital of this country?",
            "south-africa",
            "capital",
            picture="south-africa",
        ),
        Asked("And its neighbours?", "south-africa", "neighbours"),
        Asked("Which languages are spoken there?", "south-africa", "languages"),
        Asked("What does it export?", "south-africa", "exports"),
    ),
    (
        Asked("Which languages are spoken in Switzerland?", "switzerland", "languages"),
        Asked("And in Brazil?", "brazil", "languages"),
        Asked("What about Kenya?", "kenya", "languages"),
        Asked("And its capital?", "kenya", "capital"),
    ),
    (
        Asked("Which country does this flag belong to?", "norway", "region", picture="norway"),
        Asked("What is its currency?", "norway", "currency"),
        Asked("And the highest point?", "norway", "peak"),
        Asked("What do the colours on its flag stand for?", "norway", "meaning"),
    ),
    (
        Asked("What is the currency of India?", "india", "currency"),
        Asked("And of Vietnam?", "vietnam", "currency"),
        Asked("And what are its neighbours?", "vietnam", "neighbours"),
        Asked("And the capital?", "vietnam", "capital"),
    ),
    (
        Asked("What does Chile export?", "chile", "exports"),
        Asked("Which countries does it border?", "chile", "neighbours"),
        Asked("What does its flag look like?", "chile", "flag"),
    ),
    (
        Asked("What is the highest point of Nepal?", "nepal", "peak"),
        Asked("And who is its president?", "nepal", NOTHING),
        Asked("What is the capital, then?", "nepal", "capital"),
    ),
    (
        Asked("What is the capital of this country?", "ghana", "capital", picture="ghana"),
        Asked("And of this one?", "cuba", "capital", picture="cuba"),
        Asked("And its currency?", "cuba", "currency"),
    ),
    (
        Asked("How many people live in the Netherlands?", "netherlands", "population"),
        Asked("What is their currency?", "netherlands", "currency"),
        Asked("What is the highest point there?", "netherlands", "peak"),
        Asked("And the capital of Finland?", "finland", "capital"),
    ),
    (
        Asked("Of which country is Canberra the capital?", "australia", "capital"),
        Asked("What is its currency?", "australia", "currency"),
        Asked("How many people live in that country?", "australia", "population"),
    ),
    (
        Asked("Which countries border Mali?", "mali", "neighbours"),
        Asked("And what is its national anthem?", "mali", NOTHING),
        Asked("What does that country export?", "mali", "exports"),
        Asked("And Mauritania?", "mauritania", "exports"),
        Asked("Which languages do people speak there?", "mauritania", "languages"),
    ),
)


def follow_ups() -> Iterator[tuple[int, Asked]]:
    for number, (_, *rest) in enumerate(CONVERSATIONS):
        yield from ((number, asked) for asked in rest)


def right(answer: Answer, asked: Asked) -> bool:
    if asked.fact == NOTHING:
        return answer.abstained
    facts = {country.stem: country for country in COUNTRIES}
    wanted = describe(facts[asked.country]).answer(asked.fact)
    cited = any(Path(each.document_name).stem == asked.country for each in answer.citations)
    return not answer.abstained and cited and normalise(wanted) in normalise(answer.text)


def run(owl: RagOwl, folder: Path, model: str, *, together: bool, verbose: bool) -> float:
    """The share of follow-ups that are right. together: as conversations."""
    good = count = 0
    for first, *rest in CONVERSATIONS:
        conversation = None
        for asked in (first, *rest):
            images = [folder / f"{asked.picture}.png"] if asked.picture else []
            answer = owl.ask(
                "sample", asked.words, images, model=model, conversation_id=conversation
            )
            if together:
                conversation = answer.conversation_id
            if asked is first:
                continue
            well = right(answer, asked)
            good, count = good + well, count + 1
            if verbose:
                mark = "right" if well else "WRONG"
                print(f"  {mark}: {asked.words} [{answer.reading}] -> {answer.text!r}")
    return good / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="an answerer; may be repeated")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    print(describe_machine())
    total = sum(1 for _ in follow_ups())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "sample")
        write_sample(folder)
        with RagOwl.open(Path(scratch, "data")) as owl:
            owl.ingest("sample", [folder])
            for model in arguments.model or ["sentences", "owl-nano"]:
                share = run(owl, folder, model, together=True, verbose=arguments.verbose)
                alone = run(owl, folder, model, together=False, verbose=False)
                print(
                    f"{model}: {share:.3f} of {total} follow-ups right "
                    f"(asked word for word without a conversation: {alone:.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
