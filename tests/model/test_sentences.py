"""The baseline answerer, with the real embedder."""

from __future__ import annotations

import pytest

from rag_owl.indexer.embed import load_text_embedder
from rag_owl.model.sentences import SentencesAnswerer
from rag_owl.types import Channel, Context, ImageLocation, Item, Question, Retrieved, TextLocation


@pytest.fixture(scope="module")
def answerer() -> SentencesAnswerer:
    return SentencesAnswerer(load_text_embedder())


def source(title: str, text: str, **similarities: float) -> Retrieved:
    item = Item(
        id=title, document_id=title, document_name=title, revision=1, ordinal=0, kind="passage",
        title=title, text=text, location=TextLocation(0, len(text)),
    )  # fmt: skip
    named: dict[Channel, float] = dict(similarities)  # type: ignore[arg-type]
    return Retrieved(item, 1.0, named)


JAPAN = source(
    "Japan", "Japan\n\nTokyo is the capital of Japan. Its currency is the yen.", picture=0.99
)
CHAD = source(
    "Chad", "Chad\n\nN'Djamena is the capital of Chad. Arabic is spoken there.", picture=0.6
)


def test_it_quotes_word_for_word_and_points_there(answerer: SentencesAnswerer) -> None:
    pieces: list[str] = []
    context = Context(Question("c", "What is the capital of Chad?"), (JAPAN, CHAD))
    draft = answerer.answer(context, pieces.append)
    assert draft.text == "N'Djamena is the capital of Chad. [2]"
    assert "".join(pieces) == draft.text
    (attribution,) = draft.attributions
    text = CHAD.item.text or ""
    assert attribution.source == 1
    assert (
        text[attribution.item_start : attribution.item_end] == "N'Djamena is the capital of Chad."
    )
    assert draft.text[attribution.start : attribution.end] == "N'Djamena is the capital of Chad."


def test_with_a_picture_only_what_it_shows_is_evidence(answerer: SentencesAnswerer) -> None:
    question = Question("c", "What is the capital of this country?", pictures=("0" * 64,))
    draft = answerer.answer(Context(question, (CHAD, JAPAN)))
    assert draft.text == "Tokyo is the capital of Japan. [2]"


@pytest.mark.parametrize(
    "question",
    [
        "How long does bread dough have to rise?",
        "What is the capital of Atlantis?",  # near to the other capitals, and not among them
        "Who won the World Cup of 1998?",
    ],
)
def test_it_abstains_in_plain_words(answerer: SentencesAnswerer, question: str) -> None:
    draft = answerer.answer(Context(Question("c", question), (JAPAN, CHAD)))
    assert draft.abstained
    assert draft.attributions == ()
    assert "does not seem to hold an answer" in draft.text


def test_without_sources_it_abstains(answerer: SentencesAnswerer) -> None:
    assert answerer.answer(Context(Question("c", "Why?"), ())).abstained
    picture = Retrieved(
        Item("p", "p", "p", 1, 0, "picture", "P", ImageLocation(), picture="0" * 64), 1.0
    )
    assert answerer.answer(Context(Question("c", "Why?"), (picture,))).abstained


def test_an_item_that_only_mentions_a_name_is_not_quoted_for_it(
    answerer: SentencesAnswerer,
) -> None:
    chile = source("Chile", "The capital of Chile is Santiago. Chile borders Peru and Bolivia.")
    asked = Question("c", "What is the capital of Peru?")
    assert "Santiago" not in answerer.answer(Context(asked, (chile,))).text
    lima = source("Lima", "Lima lies in Peru. It is the capital and the largest city of the land.")
    draft = answerer.answer(Context(asked, (chile, lima)))
    assert "It is the capital" in draft.text  # of what the sentence before it names
    assert "Santiago" not in draft.text
