"""Questions about several pictures: how they are read, what likeness says, and the whole way."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rag_owl import evidence
from rag_owl.blobs import FolderBlobs
from rag_owl.model.nano import NanoAnswerer, shown
from rag_owl.model.nano.comparing import Asked, answer, name, named, read
from rag_owl.sample.facts import COUNTRIES
from rag_owl.sample.flags import FLAGS
from rag_owl.sample.text import describe
from rag_owl.types import Answer, Context, ImageLocation, Item, Question, Retrieved


@pytest.mark.parametrize(
    ("question", "pictures", "asked"),
    [
        ("Do the two pictures show the same thing?", 2, Asked("same")),
        ("Are these the same or different?", 2, Asked("same")),
        ("Do these flags differ?", 2, Asked("same", negated=True)),
        ("Do they all show the same?", 5, Asked("same")),
        ("One of these shows something else than the others. Which one?", 4, Asked("odd")),
        ("Which picture is not like the others?", 3, Asked("odd")),
        ("Which one doesn't belong?", 3, Asked("odd")),
        ("Find the odd one out.", 8, Asked("odd")),
        (
            "Which of the other pictures shows the same as the first one?",
            4,
            Asked("like", 0, True),
        ),
        ("Which photo matches image 3?", 4, Asked("like", 2, True)),
        ("Which of these differs from the last one?", 4, Asked("unlike", 3, True)),
        ("How many of these pictures show the flag of Japan?", 3, Asked("count")),
        ("How many of these show the flag of Japan?", 2, Asked("count")),
        ("How many of these flags show a star?", 2, Asked("count")),
        ("How many of those have the euro as currency?", 2, None),
        ("How many of the others show the same as the first?", 3, Asked("count", 0, True)),
        ("What is the capital of this country?", 1, None),
        ("Do these two countries have the same capital?", 2, None),
        ("How many people live in the countries with these flags?", 2, None),
        ("What is different here?", 4, None),
        ("Which of these is the same as the ninth?", 3, None),  # there is none
    ],
)
def test_what_is_asked_about_the_pictures(question: str, pictures: int, asked: Asked | None):
    assert read(question, pictures) == asked


def alike(*groups: int, same: float = 0.9, other: float = 0.1) -> np.ndarray:
    return np.array([[same if a == b else other for b in groups] for a in groups])


def test_likeness_says_which_differs_and_which_is_the_same():
    odd = answer(Asked("odd"), alike(1, 1, 2, 1), 0.5)
    assert odd is not None
    assert odd.short == "the third"
    like = answer(Asked("like", 1, True), alike(2, 1, 3, 1), 0.5)
    assert like is not None
    assert (like.short, like.pictures) == ("the fourth", (1, 3))
    assert "shows the same" in like.text
    doubtful = answer(Asked("like", 0, True), alike(1, 2, 3), 0.5)
    assert doubtful is not None
    assert "too little to be sure" in doubtful.text
    unlike = answer(Asked("unlike", 0, True), alike(1, 1, 2), 0.5)
    assert unlike is not None
    assert unlike.short == "the third"


def test_a_count_says_whether_the_example_is_among_it():
    others = answer(Asked("count", 0, True), alike(1, 1, 2, 1), 0.5)
    every = answer(Asked("count", 0), alike(1, 1, 2, 1), 0.5)
    assert others is not None
    assert every is not None
    assert (others.short, every.short) == ("2", "3")
    assert "the second and the fourth" in others.text
    assert answer(Asked("count"), alike(1, 1), 0.5) is None


def test_all_the_same_or_not():
    for groups, negated, short in (((1, 1, 1), False, "Yes"), ((1, 1, 2), False, "No"),
                                   ((1, 2), True, "Yes"), ((1, 1), True, "No")):  # fmt: skip
        said = answer(Asked("same", negated=negated), alike(*groups), 0.5)
        assert said is not None
        assert said.short == short


def test_names_and_ordinals():
    assert [name(i) for i in (0, 9, 10, 11, 20, 21, 22)] == [
        "first", "tenth", "11th", "12th", "21st", "22nd", "23rd",
    ]  # fmt: skip
    assert named(
        "How many show the flag of South Korea?", ["Korea", "South Korea", "", "Japan"]
    ) == [
        0,
        1,
    ]


def test_of_many_pictured_items_the_most_alike_are_read():
    many = [0.1 * (i % 10) for i in range(30)]
    kept = shown.shortlist([*many, None])
    assert len(kept) == shown.MOST_PICTURED + 1
    assert 30 in kept
    assert min(many[i] for i in kept if i < 30) >= 0.8 - 1e-9
    assert shown.shortlist([None, 0.2]) == [0, 1]


def test_views_are_pictures_and_the_first_is_the_picture_itself():
    picture = Image.new("RGB", (40, 90), (200, 10, 10))
    views = shown.views(picture)
    assert views[0] is picture
    assert len(views) == 9
    assert all(view.mode == "RGB" and min(view.size) > 60 for view in views[1:])


# --- with the model -------------------------------------------------------------------------------

STEMS = ("japan", "france", "kenya", "brazil", "canada")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    return FolderBlobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def model(blobs):
    return NanoAnswerer.load(blobs)


def put(blobs: FolderBlobs, picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return blobs.put(file.getvalue())


def photo(stem: str, seed: int) -> Image.Image:
    angle = random.Random(seed).uniform(-10, 10)
    picture = FLAGS[stem].render().convert("RGB")
    return picture.rotate(angle, fillcolor=(120, 130, 90)).filter(ImageFilter.GaussianBlur(1.5))


@pytest.fixture(scope="module")
def flags(blobs):
    found = []
    for country in (c for c in COUNTRIES if c.stem in STEMS):
        key = put(blobs, FLAGS[country.stem].render().convert("RGB"))
        item = Item(
            country.stem, country.stem, f"{country.stem}.png", 1, 0, "picture", country.name,
            ImageLocation(), describe(country).text, picture=key,
        )  # fmt: skip
        found.append(Retrieved(item, 1.0))
    return tuple(found)


def ask(model, blobs, question: str, stems: tuple[str, ...], sources=()) -> Answer:
    keys = tuple(put(blobs, photo(stem, 50 + i)) for i, stem in enumerate(stems))
    context = Context(Question("c", question, keys), sources)
    draft = model.answer(context)
    return evidence.verify(draft, context, 1, grounding=model.grounding)


def test_the_odd_one_is_named_with_what_it_looks_like(model, blobs, flags):
    asked = "One of these four pictures shows something else than the others. Which one?"
    found = ask(model, blobs, asked, ("kenya", "kenya", "japan", "kenya"), flags)
    assert found.short == "the third"
    assert not found.abstained
    assert found.looks[0].pictures == (1, 2, 3, 4)
    japan = next(c for c in found.citations if c.title == "Japan")
    assert found.text[japan.start : japan.end] == "The third looks like Japan"
    assert japan.support.alike is not None
    assert japan.support.verdict == "supported"
    assert found.statements[0].verdict == "unchecked"  # nobody else saw the user's pictures


def test_without_anything_retrieved_it_still_compares(model, blobs):
    asked = "Which of the other pictures shows the same as the first one?"
    found = ask(model, blobs, asked, ("brazil", "france", "brazil", "canada"))
    assert found.short == "the third"
    assert not found.abstained
    assert found.citations == ()


def test_what_is_counted_is_what_the_collection_shows_under_that_name(model, blobs, flags):
    asked = "How many of these pictures show the flag of France?"
    found = ask(model, blobs, asked, ("france", "japan", "france"), flags)
    assert found.short == "2"
    assert [c.title for c in found.citations] == ["France"]
    none = ask(model, blobs, asked, ("kenya", "japan"), flags)
    assert none.short == "0"
    unknown = "How many of these pictures show a lighthouse?"
    assert ask(model, blobs, unknown, ("kenya", "japan"), flags).abstained
