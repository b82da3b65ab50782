"""How follow-ups are understood, and how conversations are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rag_owl import RagOwl
from rag_owl.conversation import read, subject
from rag_owl.errors import InvalidInput, InvalidQuestion, NotFound
from rag_owl.model.sentences import SentencesAnswerer
from rag_owl.types import Context, Draft, Retrieved, Turn


def turn(question: str, text: str = "", *titles: str) -> Turn:
    return Turn(question, question, text, titles=titles)


JAPAN = turn("What is the capital of Japan?", "Tokyo is the capital of Japan. [1]", "Japan")
BY_PICTURE = turn("What is the capital of this country?", JAPAN.text, "Japan")
DUTCH = turn("What is the capital of the Netherlands?", "Amsterdam [1]", "Netherlands")
REPORT = turn("Who leads Nanosoft?", "Ann Lee leads it. [1]", "Annual report 2023")
WHICH = turn("Of which country is Canberra the capital?", "It is Australia. [1]", "Australia")
WRONG = turn("What is the currency of Japan?", "In Singapore it is the dollar. [4]", "Singapore")
UNTITLED = turn("What is the capital of this country?", "Tokyo is the capital of Japan. [1]")
OWL = turn("How much does this owl weigh?", "The Eagle Owl weighs 2700 grams. [1]")
UNKNOWN = turn("What is shown here?", "Nothing was found.")


@pytest.mark.parametrize(
    ("before", "asked", "reading"),
    [
        (JAPAN, "And its currency?", "What is the currency of Japan?"),
        (JAPAN, "and exports", "What are the exports of Japan?"),
        (JAPAN, "How many people live there?", "How many people live in Japan?"),
        (JAPAN, "What do the colours on its flag mean?",
         "What do the colours on the flag of Japan mean?"),
        (JAPAN, "Which countries border it?", "Which countries border Japan?"),
        (JAPAN, "What about Switzerland?", "What is the capital of Switzerland?"),
        (JAPAN, "And in Côte d'Ivoire?", "What is the capital of Côte d'Ivoire?"),
        (JAPAN, "What does the flag look like?", "What does the flag of Japan look like?"),
        (JAPAN, "And which languages are spoken?", "Which languages are spoken in Japan?"),
        (JAPAN, "Thanks! And the capital of Chad?", "What is the capital of Chad?"),
        (JAPAN, "Und die Währung?", "What is the capital of Japan? Und die Währung?"),
        (BY_PICTURE, "And its currency?", "What is the currency of Japan?"),
        (BY_PICTURE, "And Chad?", "What is the capital of Chad?"),
        (DUTCH, "And what do they export?", "What do the Netherlands export?"),
        (REPORT, "And its revenue?", "What is the revenue of Nanosoft?"),
        (REPORT, "What about Macrohard?", "Who leads Macrohard?"),
        (WHICH, "What is its currency?", "What is the currency of Australia?"),
        (WRONG, "And its capital?", "What is the capital of Japan?"),
        (JAPAN, "And of this one?", "What is the capital of Japan? And of this one?"),
        (UNTITLED, "And its currency?", "What is the currency of Japan?"),
        (OWL, "Where does it nest?", "Where does the Eagle Owl nest?"),
        (UNKNOWN, "And its colour?", "What is shown here? And its colour?"),
    ],
)  # fmt: skip
def test_a_follow_up_is_read_with_what_went_before(before: Turn, asked: str, reading: str) -> None:
    assert read(asked, [before]) == reading


@pytest.mark.parametrize(
    "asked",
    ["What is the capital of Chad?", "Who painted the Mona Lisa?", "?", "   ", "it " * 4_000,
     "Is there a museum in Paris?", "."],
)  # fmt: skip
def test_what_stands_by_itself_stays_as_it_is(asked: str) -> None:
    assert read(asked, [JAPAN]) == asked
    assert read(asked, []) == asked


def test_with_a_picture_this_one_asks_the_same_of_it() -> None:
    assert read("And this one?", [BY_PICTURE], pictured=True) == BY_PICTURE.question
    assert read("And of this flag?", [JAPAN], pictured=True) == "What is the capital of this flag?"
    other = "How many people live in this country?"
    assert read(other, [JAPAN], pictured=True) == other


def test_a_chain_keeps_its_subject() -> None:
    turns: list[Turn] = [BY_PICTURE]
    for asked, reading in (
        ("And its currency?", "What is the currency of Japan?"),
        ("What about Chad?", "What is the currency of Chad?"),
        ("And its neighbours?", "What are the neighbours of Chad?"),
    ):
        assert read(asked, turns) == reading
        turns.append(Turn(asked, reading, ""))
    assert subject(turns[-1]) == "Chad"


# --- kept with the answers ------------------------------------------------------------------------

PLAIN = {"model": "sentences", "picture_embedder": "descriptor"}
TEXTS = {
    "Elf owl": "The elf owl weighs 40 grams. The elf owl lives in the Sonoran desert.",
    "Eagle owl": "The eagle owl weighs 2700 grams. The eagle owl lives in old forests.",
    "Barn owl": "The barn owl weighs 500 grams. The barn owl lives near farms.",
}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owls")
    for number, (title, text) in enumerate(TEXTS.items()):
        picture = Image.new("RGB", (40, 30), (80 * number, 200 - 90 * number, 60))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{title}\n\n{text}\n")
    return folder


@pytest.fixture(scope="module")
def owl(
    tmp_path_factory: pytest.TempPathFactory, notes: Path, module_on_each_database: None
) -> Iterator[RagOwl]:
    """Every conversation is its own, and nothing else is added or deleted."""
    with RagOwl.open(tmp_path_factory.mktemp("conversation") / "data", **PLAIN) as opened:
        opened.ingest("owls", [notes])
        yield opened


def test_a_conversation_goes_on(owl: RagOwl) -> None:
    first = owl.ask("owls", "How much does the elf owl weigh?")
    assert "40 grams" in first.text
    assert first.conversation_id
    assert first.reading is None
    second = owl.ask("owls", "Where does it live?", conversation_id=first.conversation_id)
    assert second.conversation_id == first.conversation_id
    assert second.question == "Where does it live?"
    assert second.reading is not None
    assert "elf owl" in second.reading.lower()
    assert "Sonoran" in second.text
    assert owl.answer(second.id) == second
    third = owl.ask("owls", "And the Barn Owl?", conversation_id=first.conversation_id)
    assert "farms" in third.text
    assert [owl.sources(each.id)[0] is not None for each in (first, third)] == [True, True]


def test_a_conversation_is_of_one_collection_and_must_exist(owl: RagOwl, tmp_path: Path) -> None:
    first = owl.ask("owls", "How much does the elf owl weigh?")
    (tmp_path / "bread.txt").write_text("Bread is baked at 230 degrees.")
    owl.ingest("bread", [tmp_path / "bread.txt"])
    for given in ("nothing", "\0", "x" * 500, 7):
        with pytest.raises(NotFound, match="no conversation"):
            owl.ask("owls", "And its colour?", conversation_id=given)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="in this collection"):
        owl.ask("bread", "And its colour?", conversation_id=first.conversation_id)


def test_an_item_switched_off_is_not_shown(owl: RagOwl) -> None:
    first = owl.ask("owls", "How much does the elf owl weigh?", k=2)
    assert len(first.sources) == 2
    used = first.citations[0].item_id
    shown: list[Retrieved] = []

    def see(found: Sequence[Retrieved]) -> None:
        shown.extend(found)

    again = owl.replay(first.id, exclude_items=[used], on_sources=see)
    assert used not in again.sources
    assert len(again.sources) == 2  # the next best takes its place
    assert tuple(hit.item.id for hit in shown) == again.sources
    assert again.exclude_items == (used,)
    assert again.replay_of == first.id
    assert "40 grams" not in again.text
    assert owl.answer(again.id) == again
    assert owl.replay(again.id).exclude_items == (used,)
    assert owl.replay(again.id, exclude_items=[]).text == first.text


def test_a_replayed_answer_takes_the_place_of_the_first_in_the_conversation(owl: RagOwl) -> None:
    first = owl.ask("owls", "How much does the elf owl weigh?")
    follow = owl.ask("owls", "Where does it live?", conversation_id=first.conversation_id)
    again = owl.replay(follow.id)
    assert (again.question, again.reading) == (follow.question, follow.reading)
    assert again.text == follow.text
    with pytest.raises(NotFound):
        owl.replay("nothing")


@pytest.fixture
def alone(tmp_path: Path, notes: Path, on_each_database: None) -> Iterator[RagOwl]:
    with RagOwl.open(tmp_path / "data", **PLAIN) as opened:
        opened.ingest("owls", [notes])
        yield opened


def test_what_was_shown_is_told_again_also_when_some_is_gone(alone: RagOwl) -> None:
    owl = alone
    answer = owl.ask("owls", "How much does the elf owl weigh?", k=3)
    before = owl.sources(answer.id)
    assert [hit.item.id for hit in before if hit] == list(answer.sources)
    assert all(hit and hit.score > 0 for hit in before)
    gone = next(hit for hit in before if hit and hit.item.title == "Barn owl")
    owl.delete_document("owls", gone.item.document_id)
    after = owl.sources(answer.id)
    assert [hit is None for hit in after] == [hit == gone for hit in before]


def test_a_model_that_says_what_no_database_holds_is_stored(
    owl: RagOwl, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SentencesAnswerer.answer

    def odd(self: SentencesAnswerer, context: Context, on_text: Any = None) -> Draft:
        draft = plain(self, context)
        said = draft.text.replace(" owl ", "\0owl\ud800")
        on_text(said)
        return replace(draft, text=said)

    monkeypatch.setattr(SentencesAnswerer, "answer", odd)
    heard: list[str] = []
    answer = owl.ask("owls", "How much does the elf owl weigh?", on_text=heard.append)
    assert answer.text.startswith("The elf owl\ufffdweighs 40 grams.")
    assert "".join(heard) == answer.text
    assert owl.answer(answer.id) == answer


def test_an_answer_is_rated(owl: RagOwl) -> None:
    answer = owl.ask("owls", "How much does the elf owl weigh?")
    assert answer.rating is None
    rated = owl.rate(answer.id, -1, "too heavy")
    assert (rated.rating, rated.rating_comment) == (-1, "too heavy")
    assert owl.answer(answer.id) == rated
    for bad in (2, True, "1", 0.5):
        with pytest.raises(InvalidInput, match="-1, 0 or 1"):
            owl.rate(answer.id, bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="NUL"):
        owl.rate(answer.id, 1, "\0")
    with pytest.raises(NotFound):
        owl.rate("nothing", 1)


def test_a_question_has_a_budget_which_its_replay_keeps(tmp_path: Path) -> None:
    for name in ("elf", "eagle"):
        text = f"The {name} owl hunts. " + f"The {name} owl was seen in the old forest. " * 9
        (tmp_path / f"{name}.txt").write_text(text)

    with RagOwl.open(tmp_path / "data", **PLAIN) as owl:
        owl.ingest("owls", [tmp_path / "elf.txt", tmp_path / "eagle.txt"])
        asked = "What does the elf owl hunt?"
        whole = owl.ask("owls", asked)
        assert (len(whole.sources), whole.left_out) == (2, ())
        short = owl.ask("owls", asked, budget=500)
        assert len(short.left_out) == 1
        assert owl.replay(short.id).left_out == short.left_out
        assert owl.replay(whole.id).left_out == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"budget": 499}, "budget"),
        ({"budget": 1e3}, "budget"),
        ({"seed": "1"}, "seed"),
        ({"exclude_items": "abc"}, "exclude_items is a list"),
        ({"exclude_items": [7]}, "exclude_items: 7"),
        ({"exclude_items": ["\ud800"]}, "exclude_items"),
        ({"exclude_items": ["x"] * 401}, "more than 400"),
    ],
)
def test_bad_options_are_named(owl: RagOwl, given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidQuestion, match=message):
        owl.ask("owls", "How much?", **given)  # type: ignore[arg-type]
