"""The sample collection: what is drawn, what is written, and the questions about it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from rag_owl.errors import InvalidInput
from rag_owl.sample import write_sample
from rag_owl.sample.draw import Flag, crescent, flag, star, stripes
from rag_owl.sample.facts import COUNTRIES, Country
from rag_owl.sample.flags import FLAGS
from rag_owl.sample.questions import NOT_IN_SAMPLE, sample_questions
from rag_owl.sample.text import FACTS, describe, listed, population

BY_STEM = {country.stem: country for country in COUNTRIES}

LOOK_ALIKES = [
    ("indonesia", "monaco"),
    ("indonesia", "poland"),
    ("chad", "romania"),
    ("netherlands", "luxembourg"),
    ("ireland", "ivory-coast"),
    ("mali", "guinea"),
    ("norway", "iceland"),
    ("russia", "slovenia"),
    ("australia", "new-zealand"),
    ("qatar", "bahrain"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "made" / "on the way"
    write_sample(path)
    return path


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


# --- the files ------------------------------------------------------------------------------------


def test_a_picture_and_a_text_for_each_of_many_countries(folder: Path) -> None:
    pictures = {path.stem for path in folder.glob("*.png")}
    texts = {path.stem for path in folder.glob("*.txt")}
    assert pictures == texts == set(BY_STEM)
    assert len(pictures) >= 140
    assert len(list(folder.iterdir())) == 2 * len(pictures)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", stem) for stem in pictures)
    assert {"japan", "ivory-coast", "sao-tome-and-principe", "netherlands"} <= pictures


def test_every_run_writes_the_same_bytes_and_touches_nothing_else(
    tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "japan.png").write_text("old")
    paths = write_sample(tmp_path)
    assert [path.stem for path in paths[::2]] == sorted(BY_STEM)
    assert [path.suffix for path in paths] == [".png", ".txt"] * len(BY_STEM)
    assert all(path.parent == tmp_path and path.is_file() for path in paths)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / "mine.txt").unlink()
    assert hashes(tmp_path) == hashes(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InvalidInput, match=r"taken.*name a folder"):
        write_sample(tmp_path / "taken")


# --- the flags ------------------------------------------------------------------------------------


def test_pictures_open_with_their_published_proportions(folder: Path) -> None:
    for stem, drawn in FLAGS.items():
        with Image.open(folder / f"{stem}.png") as picture:
            picture.load()
            assert (picture.format, picture.mode, picture.width) == ("PNG", "RGB", 480)
            assert picture.height == round(480 * drawn.height / drawn.width), stem
    sizes = {
        "switzerland": (480, 480),
        "japan": (480, 320),
        "united-kingdom": (480, 240),
        "monaco": (480, 384),
        "qatar": (480, 189),
        "nepal": (480, 585),
    }
    for stem, size in sizes.items():
        with Image.open(folder / f"{stem}.png") as picture:
            assert picture.size == size, stem


# Where a colour must be found, in fractions of width and height.
PROBES = {
    "japan": [((0.5, 0.5), "#BC002D"), ((0.1, 0.1), "#FFFFFF"), ((0.5, 0.85), "#FFFFFF")],
    "indonesia": [((0.5, 0.2), "#FF0000"), ((0.5, 0.8), "#FFFFFF")],
    "poland": [((0.5, 0.2), "#FFFFFF"), ((0.5, 0.8), "#DC143C")],
    "chad": [((0.1, 0.5), "#002664"), ((0.5, 0.5), "#FECB00"), ((0.9, 0.5), "#C60C30")],
    "ireland": [((0.1, 0.5), "#009A44"), ((0.5, 0.5), "#FFFFFF"), ((0.9, 0.5), "#FF8200")],
    "ivory-coast": [((0.1, 0.5), "#FF8200"), ((0.5, 0.5), "#FFFFFF"), ((0.9, 0.5), "#009A44")],
    # Towards the hoist, where a Nordic cross stands.
    "sweden": [((0.375, 0.1), "#FECC02"), ((0.9, 0.5), "#FECC02"), ((0.9, 0.1), "#006AA7")],
    "norway": [((0.364, 0.1), "#00205B"), ((0.3, 0.1), "#FFFFFF"), ((0.9, 0.9), "#BA0C2F")],
    "switzerland": [((0.5, 0.25), "#FFFFFF"), ((0.1, 0.5), "#DA291C"), ((0.3, 0.3), "#DA291C")],
    # The crescent lets the field show between its horns.
    "turkey": [((0.2, 0.5), "#FFFFFF"), ((0.4, 0.5), "#E30A17"), ((0.58, 0.5), "#FFFFFF")],
    "algeria": [((0.1, 0.5), "#006233"), ((0.35, 0.5), "#D21034"), ((0.45, 0.5), "#006233")],
    "china": [((1 / 6, 0.25), "#FFFF00"), ((1 / 3, 0.1), "#FFFF00"), ((0.7, 0.7), "#EE1C25")],
    "canada": [((0.5, 0.5), "#D52B1E"), ((0.3, 0.1), "#FFFFFF"), ((0.1, 0.5), "#D52B1E")],
    "united-kingdom": [((0.5, 0.1), "#C8102E"), ((0.2, 0.05), "#012169"), ((0.4, 0.5), "#C8102E")],
    # In the upper hoist quarter the broad white lies above the red, in the lower one below it.
    "australia": [((0.25, 0.25), "#C8102E"), ((0.25, 0.75), "#FFFFFF"), ((0.6, 0.9), "#012169")],
    "south-korea": [((0.5, 0.35), "#CD2E3A"), ((0.5, 0.65), "#0047A0"), ((0.05, 0.5), "#FFFFFF")],
    "tanzania": [((0.1, 0.1), "#1EB53A"), ((0.5, 0.5), "#000000"), ((0.9, 0.9), "#00A3DD")],
    "trinidad-and-tobago": [((0.5, 0.5), "#000000"), ((0.9, 0.1), "#CE1126")],
    "united-states": [((0.7, 0.04), "#B31942"), ((0.7, 0.12), "#FFFFFF"), ((0.9, 0.97), "#B31942")],
    "nepal": [((0.9, 0.1), "#FFFFFF"), ((0.25, 0.73), "#FFFFFF"), ((0.02, 0.5), "#003893")],
}


@pytest.mark.parametrize("stem", PROBES)
def test_colours_stand_where_they_belong(folder: Path, stem: str) -> None:
    with Image.open(folder / f"{stem}.png") as picture:
        for (x, y), colour in PROBES[stem]:
            found = picture.getpixel((round(x * picture.width), round(y * picture.height)))
            assert isinstance(found, tuple)
            assert "#{:02X}{:02X}{:02X}".format(*found) == colour, (stem, x, y)


@pytest.mark.parametrize(("one", "other"), LOOK_ALIKES)
def test_look_alikes_are_there_and_differ(folder: Path, one: str, other: str) -> None:
    with Image.open(folder / f"{one}.png") as a, Image.open(folder / f"{other}.png") as b:
        differ = a.size != b.size or ImageChops.difference(a, b).getbbox() is not None
    assert differ


def test_no_two_pictures_are_the_same(folder: Path) -> None:
    digests = [digest for name, digest in hashes(folder).items() if name.endswith(".png")]
    assert len(set(digests)) == len(digests)


def test_edges_are_smoothed_and_flat_colour_is_exact() -> None:
    picture = FLAGS["japan"].render()
    colours = {colour: count for count, colour in picture.getcolors(10_000) or []}
    red, white = (188, 0, 45), (255, 255, 255)
    assert 10 < len(colours) < 200  # some shades along the edge
    assert colours[red] + colours[white] > 0.99 * 480 * 320
    # A disc of radius 0.6 on 3 by 2.
    assert colours[red] / (480 * 320) == pytest.approx(3.14159 * 0.36 / 6, rel=0.02)


def area(drawn: Flag) -> float:
    """The share of black on a white field of 10 by 10, in units."""
    picture = drawn.render(500).convert("L").histogram()
    return 100 * sum(count * (255 - value) for value, count in enumerate(picture)) / 255 / 500**2


@pytest.mark.parametrize("bite", [(7.0, 5.0, 2.0), (5.5, 5.0, 2.7), (4.0, 3.0, 3.0)])
def test_a_crescent_is_one_disc_without_the_other(bite: tuple[float, float, float]) -> None:
    # The area by counting points of a fine grid: no formula shared with the drawing.
    step, inside = 0.02, 0
    for row in range(500):
        for column in range(500):
            x, y = (column + 0.5) * step, (row + 0.5) * step
            if (x - 5) ** 2 + (y - 5) ** 2 < 9:
                inside += (x - bite[0]) ** 2 + (y - bite[1]) ** 2 >= bite[2] ** 2
    drawn = area(flag(10, 10, crescent(5, 5, 3, "#000000", bite=bite)))
    assert drawn == pytest.approx(inside * step**2, rel=0.02)


def test_a_star_has_the_area_of_the_regular_one() -> None:
    # A pentagram of circumradius r covers 1.12257 r^2.
    assert area(flag(10, 10, star(5, 5, 4, "#000000"))) == pytest.approx(1.12257 * 16, rel=0.02)


def test_stripes_take_their_weights() -> None:
    picture = flag(4, 4, stripes("#111111", "#222222", "#333333", weights=(1, 2, 1))).render(40)
    column = [picture.getpixel((20, y)) for y in range(40)]
    assert column == [(17,) * 3] * 10 + [(34,) * 3] * 20 + [(51,) * 3] * 10


# --- the texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("country", COUNTRIES, ids=lambda country: country.stem)
def test_every_text_holds_every_fact(folder: Path, country: Country) -> None:
    text = (folder / f"{country.stem}.txt").read_text(encoding="utf-8")
    assert text.split("\n")[:2] == [country.title, ""]
    for value in (
        country.region,
        country.capital,
        population(country.population),
        str(country.year),
        country.currency,
        f"{country.metres:,} metres",
        country.remark,
        country.meaning,
        *country.languages,
        *country.neighbours,
        *country.exports,
    ):
        assert value in text, value
    for value in (country.flag, country.peak):  # may begin a sentence
        assert value.lower() in text.lower(), value
    longest = 130 if len(country.name.split()) < 4 else 155  # the name itself is long
    assert 80 <= len(text.split()) <= longest
    assert "{" not in text
    assert "  " not in text
    assert not re.search(r"\.\.|,,|;;| [.,;]", text)


@pytest.mark.parametrize("country", COUNTRIES, ids=lambda country: country.stem)
def test_every_sentence_names_its_country(country: Country) -> None:
    description = describe(country)
    assert set(description.sentences) == set(description.answers) == set(FACTS)
    for fact in FACTS:
        start, end = description.sentences[fact]
        sentence = description.text[start:end]
        assert country.title in sentence, fact
        assert sentence[0] == sentence[0].upper()
        assert sentence.endswith(".")
        first, last = description.answers[fact]
        assert start <= first < last <= end
    assert description.answer("capital") == country.capital


def test_a_fact_is_worded_in_more_than_one_way() -> None:
    def wording(country: Country) -> str:
        description = describe(country)
        start, end = description.sentences["capital"]
        sentence = description.text[start:end]
        return sentence.replace(country.name, "N").replace(country.capital, "C")

    assert "The capital of N is C." in {wording(country) for country in COUNTRIES}
    assert len({wording(country) for country in COUNTRIES}) >= 3


def test_landlocked_islands_and_neighbours_are_told_apart() -> None:
    assert "landlocked" in describe(BY_STEM["nepal"]).text
    assert "landlocked" not in describe(BY_STEM["france"]).text
    assert "no land borders" in describe(BY_STEM["japan"]).text
    assert not any(country.landlocked and not country.neighbours for country in COUNTRIES)


def test_neighbours_agree_with_each_other() -> None:
    by_name = {country.name: country for country in COUNTRIES}
    for country in COUNTRIES:
        for neighbour in country.neighbours:
            if neighbour in by_name:
                assert country.name in by_name[neighbour].neighbours, (country.name, neighbour)


def test_numbers_and_lists_read_well() -> None:
    assert population(1_410_000_000) == "1.41 billion"
    assert population(123_000_000) == "123 million"
    assert population(9_170_000) == "9.17 million"
    assert population(11_800) == "11,800"
    assert listed(("a",)) == "a"
    assert listed(("a", "b", "c")) == "a, b and c"


def test_isos_capitals_and_names_are_unique() -> None:
    for values in (
        [country.iso for country in COUNTRIES],
        [country.capital for country in COUNTRIES],
        [country.name for country in COUNTRIES],
    ):
        assert len(set(values)) == len(values)


# --- the questions --------------------------------------------------------------------------------


def test_answers_stand_where_the_questions_say(folder: Path) -> None:
    questions = sample_questions()
    assert len({question["id"] for question in questions}) == len(questions)
    for question in questions:
        assert all((folder / image).is_file() for image in question["images"])
        assert bool(question["answers"]) == bool(question["items"])
        for item in question["items"]:
            document = folder / item["document"]
            assert document.is_file()
            text = document.with_suffix(".txt").read_text(encoding="utf-8")
            ground = text[item["start"] : item["end"]]
            assert any(answer in ground for answer in question["answers"]), question["id"]


def test_there_are_questions_of_every_kind() -> None:
    questions = {question["id"]: question for question in sample_questions()}
    assert questions["japan/capital"]["answers"] == ["Tokyo"]
    picture = questions["japan/picture/capital"]
    assert picture["images"] == ["japan.png"]
    assert picture["question"] == "What is the capital of this country?"
    assert "Japan" not in picture["question"]
    assert questions["japan/reversed/currency"]["answers"] == ["Japan"]
    assert "germany/reversed/currency" not in questions  # the euro belongs to many
    assert "nepal/reversed/peak" not in questions  # Mount Everest to two
    assert questions["netherlands/reversed/capital"]["answers"] == [
        "Netherlands",
        "the Netherlands",
    ]
    unanswerable = [key for key in questions if "/unanswerable/" in key]
    assert len(unanswerable) >= len(COUNTRIES)
    assert all(questions[key]["answers"] == [] for key in unanswerable)
    assert any(questions[key]["images"] for key in unanswerable)


def test_what_cannot_be_answered_is_not_in_the_texts() -> None:
    everything = "\n".join(describe(country).text for country in COUNTRIES).lower()
    for word in ("president", "dialling", "railway", "national dish", "anthem of"):
        assert word not in everything
    titles = {country.title for country in COUNTRIES}
    assert not titles & set(NOT_IN_SAMPLE)
    for name in NOT_IN_SAMPLE:
        assert f"capital of {name.lower()}" not in everything
