"""owl-nano as shipped: it reads, points, looks, and says when there is no answer."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rag_owl.blobs import FolderBlobs
from rag_owl.errors import InvalidQuestion
from rag_owl.model.nano import NanoAnswerer, NanoPictureEmbedder
from rag_owl.model.nano.answerer import _YES_OR_NO
from rag_owl.model.nano.pointing import Span
from rag_owl.sample.facts import COUNTRIES
from rag_owl.sample.flags import FLAGS
from rag_owl.sample.text import describe
from rag_owl.types import Context, ImageLocation, Item, Question, Retrieved, TextLocation

RIVER = (
    "The Amur forms the border between the Russian Far East and Northeastern China. "
    "It is 2,824 kilometres long. ÉCLUSE number 9 was finished by Ivan Petrov in 1911."
)
BRIDGE = "The bridge at Khabarovsk was opened in 1916. It carries a railway and a road."
FISH = "The kaluga is a large sturgeon. It may weigh a thousand kilograms."


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    return FolderBlobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def model(blobs):
    return NanoAnswerer.load(blobs)


def item(name: str, text: str | None, picture: str | None = None, title: str = "") -> Retrieved:
    place = ImageLocation() if picture else TextLocation(0, len(text or ""))
    kind = "picture" if picture else "passage"
    return Retrieved(Item(name, name, name, 1, 0, kind, title, place, text, picture=picture), 1.0)


def ask(text: str, *texts: str, pictures: tuple[str, ...] = ()) -> Context:
    sources = tuple(item(str(i), t) for i, t in enumerate(texts))
    return Context(Question("c", text, pictures), sources)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_it_points_at_the_answer_and_states_its_ground(model):
    said: list[str] = []
    draft = model.answer(ask("How long is the Amur?", BRIDGE, RIVER, FISH), said.append)
    assert not draft.abstained
    assert draft.short is not None
    assert "2,824" in draft.short
    assert "".join(said) == draft.text
    short, ground = draft.attributions
    assert short.source == ground.source == 1
    assert RIVER[short.item_start : short.item_end] == draft.short
    assert RIVER[ground.item_start : ground.item_end] == "It is 2,824 kilometres long."
    assert draft.text[ground.start : ground.end] == "It is 2,824 kilometres long."
    assert "[2]" in draft.text
    assert draft.answerable is not None
    assert 0 <= draft.answerable <= 1


def test_a_question_of_yes_or_no_gets_the_sentence_and_no_word_of_it_for_an_answer(model):
    draft = model.answer(ask("Was the bridge at Khabarovsk opened in 1920?", BRIDGE, RIVER))
    assert draft.short is None
    assert draft.text == "The bridge at Khabarovsk was opened in 1916. [1]"
    (ground,) = draft.attributions
    assert BRIDGE[ground.item_start : ground.item_end] in draft.text


def test_what_says_no_stays_the_answer_of_a_question_of_yes_or_no(model):
    backup = (
        "A backup is one file, a plain tar archive. It is not compressed. It holds all documents."
    )
    draft = model.answer(ask("Is a backup compressed?", backup, RIVER))
    assert draft.short == "not compressed"


@pytest.mark.parametrize(
    ("question", "is_one"),
    [
        ("Was it opened in 1920?", True),
        ("Isn't it red?", True),
        ("Is a backup compressed?", True),
        ("Was the bridge opened in 1916 or in 1920?", False),
        ("Can you tell me who built it?", False),
        ("Could you name the river?", False),
        ("Do you know when it was founded?", False),
        ("Who was it?", False),
    ],
)
def test_what_is_asked_for_yes_or_no(question: str, is_one: bool):
    assert (_YES_OR_NO.match(question) is not None) is is_one


def test_the_pointed_words_keep_their_case_and_accents(model):
    spans = model.point(ask("Who finished the écluse number 9?", RIVER), [], [None])
    assert "Ivan Petrov" in RIVER[spans[0].start : spans[0].end]


def test_of_near_places_the_text_that_is_more_like_the_question_wins(blobs):
    model = NanoAnswerer.load(blobs)
    twins = [
        "The town hall of Aldbury was finished in 1861. Its clock came later.",
        "The railway station of Aldbury was finished in 1874. Its clock came later.",
    ]
    asked = ask("When was the station for trains in Aldbury finished?", *twins)
    model.calibrate(plain_alike=0.0)
    plain = {s.item: s for s in model.point(asked, [], [None] * 2)}
    assert all(s.behind == 0 for s in plain.values())
    model.calibrate(plain_alike=1000.0)
    best, other = model.point(asked, [], [None] * 2)
    assert best.item == 1
    assert (best.behind, best.score) == (0.0, plain[1].score)
    assert other.behind > 0
    assert other.score == pytest.approx(plain[0].score - other.behind)
    assert other.mass == pytest.approx(plain[0].mass - other.behind)


def test_what_is_far_behind_is_not_compared(model):
    found = model.point(ask("How long is the Amur?", RIVER, FISH), [], [None] * 2)
    assert found[0].score - found[1].score > 12
    assert all(s.behind == 0 for s in found)


def test_of_a_list_nothing_is_left_out_for_being_less_like_the_question(model):
    asked = ask("Which countries have a llama on the coat of arms?", RIVER, BRIDGE, FISH)
    alike, less, weak = (
        Span(i, 0, 4, score, 0.0, behind=behind)
        for i, (score, behind) in enumerate([(19.0, 0.0), (-2.0, 20.0), (-9.0, 20.0)])
    )
    chosen = model._chosen(asked, [alike, less, weak])
    assert [(s.item, s.score) for s in chosen] == [(0, 19.0), (1, 18.0)]
    one = ask("How long is the Amur?", RIVER, BRIDGE, FISH)
    assert model._chosen(one, [alike, less, weak]) == [alike]


def test_what_a_question_s_picture_is_taken_for_changes_no_item(model, blobs):
    noise = np.random.default_rng(5).integers(0, 255, (2, 40, 40, 3), np.uint8)
    near = np.clip(noise[0].astype(int) + 3, 0, 255).astype(np.uint8)
    keys = [blobs.put(png(Image.fromarray(p))) for p in (noise[0], near, noise[1])]
    sources = tuple(item(str(i), f"Picture {i}.", key) for i, key in enumerate(keys))
    context = Context(Question("c", "Which one is this?", (keys[0],)), sources)
    told = []
    for _ in range(2):
        (mine,), items = model.look_at(context)
        told.append([model.likeness(mine, own) for own in items])
    assert mine.closer is not None
    assert told[0] == told[1]


def test_it_abstains_where_nothing_answers(model):
    draft = model.answer(ask("Who won the chess championship of 1972?", FISH, BRIDGE))
    assert draft.abstained
    assert draft.attributions == ()
    assert draft.short is None


def test_nothing_retrieved_is_an_abstention(model):
    assert model.answer(ask("How long is the Amur?")).abstained
    assert model.answer(Context(Question("c", "How long?"), (item("a", None),))).abstained


def test_more_than_a_window_is_read(model):
    filler = [f"{FISH} {BRIDGE} " * 12 for _ in range(6)]
    long = "Nothing of interest stands here. " * 150 + RIVER
    best = model.best(ask("How long is the Amur?", *filler, long))
    assert best is not None
    assert best.item == 6
    assert "2,824" in long[best.start : best.end]


def test_a_language_that_it_does_not_read_gets_words_only_and_says_so(model):
    draft = model.answer(ask("Wie lang ist der Amur und wo ist die Brücke?", BRIDGE, RIVER))
    assert "English" in draft.text
    assert not draft.abstained
    assert draft.short is None
    assert draft.attributions[0].source == 1
    assert model.answer(ask("アムール川の長さは？", BRIDGE)).abstained


def test_a_question_s_damaged_picture_is_named(model, blobs):
    key = blobs.put(b"this is no picture")
    with pytest.raises(InvalidQuestion, match="picture"):
        model.answer(ask("What is this?", RIVER, pictures=(key,)))


def test_an_item_s_damaged_picture_does_not_stop_the_reading(model, blobs):
    key = blobs.put(b"this is no picture either")
    sources = (item("river", RIVER, key), item("fish", FISH))
    draft = model.answer(Context(Question("c", "How long is the Amur?"), sources))
    assert "2,824" in (draft.short or "")


@pytest.fixture(scope="module")
def flags(blobs):
    """Five countries of the sample with their flags in the blob store."""
    chosen = [c for c in COUNTRIES if c.stem in ("japan", "france", "kenya", "brazil", "canada")]
    return [
        (c, item(c.name, describe(c).text, blobs.put(png(FLAGS[c.stem].render())), c.name))
        for c in chosen
    ]


def photo(stem: str, seed: int) -> Image.Image:
    picture = FLAGS[stem].render().convert("RGB")
    rng = random.Random(seed)
    picture = picture.rotate(rng.uniform(-10, 10), expand=False, fillcolor=(120, 130, 90))
    return picture.filter(ImageFilter.GaussianBlur(1.5))


def test_a_picture_question_is_answered_from_the_item_that_shows_it(model, blobs, flags):
    right = 0
    for number, (country, _) in enumerate(flags):
        key = blobs.put(png(photo(country.stem, number)))
        question = Question("c", "What is the capital of this country?", (key,))
        draft = model.answer(Context(question, tuple(source for _, source in flags)))
        cited = [flags[a.source][0].name for a in draft.attributions]
        right += draft.short == country.capital and set(cited) == {country.name}
    assert right >= 4


def test_two_flags_are_compared(model, blobs, flags):
    one, other, third = (
        blobs.put(png(photo(stem, 40 + i))) for i, stem in enumerate(("japan", "japan", "kenya"))
    )
    sources = tuple(source for _, source in flags)
    same = model.answer(Context(Question("c", "Are these the same flag?", (one, other)), sources))
    differ = model.answer(Context(Question("c", "Do these flags differ?", (one, third)), sources))
    assert (same.short, differ.short) == ("Yes", "Yes")
    assert "do not" in differ.text
    names = [flags[a.source][0].name for a in differ.attributions]
    assert names == ["Japan", "Kenya"]
    for attribution in differ.attributions:
        assert flags[attribution.source][0].name in differ.text[attribution.start : attribution.end]


def test_the_heatmap_covers_both_pictures(model, blobs, flags):
    key = blobs.put(png(photo("brazil", 7)))
    context = Context(
        Question("c", "Which country is this?", (key,)),
        (flags[0][1], item("text", RIVER)),
    )
    user, own = model.heatmap(context, 0)
    assert [m.shape for m in user] == [(8, 8)]
    assert own is not None
    assert own.shape == (8, 8)
    assert own.min() >= 0 < own.sum()
    assert model.heatmap(context, 1)[1] is None
    assert model.heatmap(ask("Who?", RIVER), 0) == ([], None)


def test_warped_flags_are_found_and_described(flags):
    embedder = NanoPictureEmbedder.load()
    stems = sorted(FLAGS)[:60]
    index = embedder.embed_pictures([FLAGS[s].render().convert("RGB") for s in stems])
    seen = embedder.embed_pictures([photo(s, i) for i, s in enumerate(stems)])
    assert np.mean((seen @ index.T).argmax(1) == np.arange(len(stems))) > 0.9


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("What is this?", True),
        ("Which country does this flag belong to?", True),
        ("Whose flag is this?", True),
        ("What is in this picture?", True),
        ("Which flower is shown here?", True),
        ("What is the national anthem of this country called?", False),
        ("Who is the president of this country?", False),
        ("What is this country's capital?", False),
        ("How many people live in the country with this flag?", False),
    ],
)
def test_a_name_answers_what_it_is_and_no_other_question(question: str, named: bool):
    from rag_owl.model.nano.answerer import _WHAT_IS_IT

    assert bool(_WHAT_IS_IT.search(question)) == named


def test_no_word_or_number_is_cut():
    from rag_owl.model.nano.pointing import whole

    text = "About 60.9 million, 1,234.5 more; Ankara-born."
    for part, wanted in (
        ("9 million", "60.9 million"),
        ("60", "60.9"),
        ("234", "1,234.5"),
        ("illion", "million"),
        ("kara", "Ankara"),
        ("5", "1,234.5"),
        ("million", "million"),
        ("About", "About"),
    ):
        start = text.rindex(part) if part == "5" else text.index(part)
        assert text[slice(*whole(text, start, start + len(part)))] == wanted
    assert whole("x", 0, 1) == (0, 1)
    assert whole("5.", 0, 1) == (0, 1)


@pytest.mark.parametrize(
    ("text", "part", "wanted"),
    [
        ("run `rag-owl doctor --deep` now", "doctor", "rag-owl doctor --deep"),
        ("run `rag-owl doctor --deep` now", "`rag-owl", "rag-owl doctor --deep"),
        ("see `docker/constraints.txt`.", "docker/constraints", "docker/constraints.txt"),
        ("The path `/v1/*` matches", "v1", "/v1/*"),
        ("The pattern `*.md` matches", "*.md", "*.md"),
        ("all *.md files", "*.md", "*.md"),
        ("call `f(`", "f(", "f("),
        ("use `a` or `b`", "`a` or `b`", "`a` or `b`"),
        (f"run `{'x' * 97}` and wait an hour, then call `y`", "an hour", "an hour"),
        ("an odd ` and hold for two seconds, then `y`", "two seconds", "two seconds"),
        ("`/data` (a volume) is", "`/data` (a vol", "`/data` (a volume)"),
        ("removes (or names what lies far, far away from where it was)", "removes (or", "removes"),
        ("| user | 10001 | x |", "10001 |", "10001"),
        ("(Wozniak, 1976) in", "1976)", "(Wozniak, 1976)"),
        ("1) Preheat the oven", "1) Preheat the oven", "1) Preheat the oven"),
        ("(1) Paris 2) Rome", "2) Rome", "2) Rome"),
        ("| foo (bar | baz) | c |", "foo (bar", "foo"),
        ("330 m (1,083 ft tall. It was built (in 1889)", "330 m (1,083 ft tall", None),
        ("((a b) c) d", "((a b", "((a b"),
        ("is **bold** text", "**bold**", "bold"),
        ("is **bold** text", "**bold", "bold"),
        ("**bold** and **fat**", "**bold** and **fat**", "**bold** and **fat**"),
        ("a | b", "|", "|"),
    ],
)
def test_no_code_or_bracket_is_cut(text: str, part: str, wanted: str | None):
    from rag_owl.model.nano.pointing import whole

    start = text.index(part)
    assert text[slice(*whole(text, start, start + len(part)))] == (wanted or part)
