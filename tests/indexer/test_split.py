"""Passages: exact offsets, whole sentences, bounded sizes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_owl import sentences as sentence_rules
from rag_owl.indexer.loaders import Loaded, Section, document_text
from rag_owl.indexer.split import MAX_CHARS, TARGET_CHARS, merge_lines, passages, split
from rag_owl.sentences import line_spans, sentence_spans
from rag_owl.types import PageLocation, TextBox, TextLocation


def loaded(sections: Sequence[Section]) -> Loaded:
    return Loaded("a", "a", "text/plain", "0" * 64, lambda: iter(sections))


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


def pieces(text: str, by_lines: bool = False) -> list[str]:
    return [text[start:end] for start, end in passages(text, by_lines)]


@pytest.mark.parametrize(
    "parts",
    [
        ["One sentence.", "Another one!", "A third?", "Yes…", "Done"],
        ["Dr. Smith met Mr. J. R. Brown at 3.5 km, e.g. near St. Mary.", "They left."],
        ["It was No. 5 of Fig. 3.", "He said no.", "She left."],
        ["The U.S. economy grew.", "So did others."],
        ["“Is it?”", "(It is.)", "'Yes!'", "Good."],
        ["approx. five owls live here.", "More etc.", "And more."],
        ["Version 1.2.3 costs $4.50 at example.com/a.b today.", "Buy it."],
        ["Really?!", "Yes!!!", "Well..."],
        ["यह पहला वाक्य है।", "यह दूसरा है।"],
    ],
)
def test_sentences_end_where_readers_see_them_end(parts: list[str]) -> None:
    assert sentences(" ".join(parts)) == parts


@given(st.text(alphabet="ab. \n!?。…-1)#>|”'", max_size=60))
def test_ends_of_sentences_are_looked_for_only_where_they_may_be(text: str) -> None:
    found = [match.span() for match in sentence_rules._ends(text)]
    assert found == [match.span() for match in sentence_rules._END.finditer(text)]


def test_chinese_and_japanese_sentences_need_no_space() -> None:
    assert sentences("中国的首都是北京。你知道吗？“知道！”他说。圆周率是3.14。") == [
        "中国的首都是北京。",
        "你知道吗？",
        "“知道！”",
        "他说。",
        "圆周率是3.14。",
    ]


def test_paragraphs_lists_and_headings_end_sentences_too() -> None:
    text = "A heading\n\nA hard-wrapped\nsentence\n- one\n- two\n1. three\n# Four\nwith text"
    assert sentences(text) == [
        "A heading",
        "A hard-wrapped\nsentence",
        "- one",
        "- two",
        "1. three",
        "# Four\nwith text",
    ]


def test_passages_are_about_800_characters_of_whole_sentences() -> None:
    text = " ".join(f"This is sentence {i}, one of many that say little." for i in range(200))
    found = pieces(text)
    assert " ".join(found) == text
    assert all(piece.endswith(".") and piece.startswith("This") for piece in found)
    assert all(TARGET_CHARS - 60 < len(piece) <= TARGET_CHARS for piece in found[:-1])


def test_a_small_last_piece_joins_the_one_before() -> None:
    text = "x" * 780 + ". The last words."
    assert pieces(text) == [text]
    assert len(pieces("x" * 780 + ". " + "The last words are more than a few. " * 8)) == 2


def test_an_overlong_sentence_is_cut_at_spaces_and_an_overlong_word_anywhere() -> None:
    words = "word " * 1_000
    found = pieces(words)
    assert " ".join(found) == words.strip()
    assert all(len(piece) <= MAX_CHARS and not piece.startswith("ord") for piece in found)
    assert "".join(pieces("x" * 5_000)) == "x" * 5_000
    assert max(map(len, pieces("x" * 5_000))) <= MAX_CHARS


@pytest.mark.parametrize("cluster", ["👩‍👩‍👧‍👦", "🇯🇵", "e\u0301\u0323", "각", "👍🏽"])
def test_no_grapheme_is_cut(cluster: str) -> None:
    text = "x" + cluster * 1_500
    found = pieces(text)
    assert len(found) > 1
    assert "".join(found) == text
    clusters = regex.findall(r"\X", text)
    assert [c for piece in found for c in regex.findall(r"\X", piece)] == clusters


def test_lines_are_kept_whole() -> None:
    text = "".join(f"{i} | a. b | c\n" for i in range(300))
    found = pieces(text, by_lines=True)
    assert len(found) > 3
    assert all(piece.endswith("c") and piece[0].isdigit() for piece in found)
    lines = "\n a\n\n b "
    assert [lines[a:b] for a, b in line_spans(lines)] == ["a", "b"]


ALPHABET = st.one_of(
    st.sampled_from(
        [" ", " ", "\n", "\n\n", ". ", "。", "? ", "e.g. ", "\u3000", "\t", "- ", "# "]
    ),
    st.sampled_from(
        ["word", "语言", "𝒳𝒴", "😀", "👩‍👧", "e\u0301", "\u200b", "🇩🇪", "अनुच्छेद", "x" * 50]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
)
TEXTS = st.lists(ALPHABET, max_size=60).flatmap(
    lambda parts: st.integers(1, 60).map(lambda times: "".join(parts) * times)
)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.booleans())
def test_items_hold_all_of_the_text_but_white_space(one: str, two: str, by_lines: bool) -> None:
    unit = "line" if by_lines else "sentence"
    sections = [Section(one, 3, unit=unit), Section(two, 3 + len(one) + 2, unit=unit)]
    text = document_text(sections)
    end = 0
    for item in split(loaded(sections)):
        assert isinstance(item.location, TextLocation)
        assert item.text == text[item.location.start : item.location.end]
        assert item.text
        assert len(item.text) <= MAX_CHARS
        assert not item.text[0].isspace()
        assert not item.text[-1].isspace()
        assert not text[end : item.location.start].strip()
        end = item.location.end
    assert not text[end:].strip()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "e\u0301", "👩‍👩‍👧", "🇯🇵", "각", "क्षि", "字"]), min_size=1))
def test_no_grapheme_is_cut_in_any_mixture(parts: list[str]) -> None:
    text = "".join(parts) * (3_000 // len("".join(parts)) + 1)
    whole = {match.start() for match in regex.finditer(r"\X", text)}
    assert all(start in whole for start, _ in passages(text))


def test_splitting_is_lazy_and_the_same_every_time() -> None:
    taken = []

    def stream() -> object:
        for i in range(3):
            taken.append(i)
            yield Section(f"Section {i}. With text.", i * 30)

    document = Loaded("a", "a", "text/plain", "0" * 64, stream)  # type: ignore[arg-type]
    items = split(document)
    first = next(items)
    assert taken == [0]
    assert [first, *items] == list(split(document))


def test_headings_and_columns_go_with_their_text() -> None:
    rows = "City | Country\n" + "".join(f"City {i} | Country {i}\n" for i in range(100))
    table = Section(rows, 0, "Cities > Large", unit="line", columns="City | Country")
    first, *later = split(loaded([table]))
    assert first.heading == "Cities > Large"
    assert len(later) > 1
    assert {item.heading for item in later} == {"Cities > Large\nCity | Country"}
    assert all((item.text or "").startswith("City ") for item in later)


def test_text_boxes_follow_the_items_of_a_page() -> None:
    line_texts = [
        f"Sentence {i} on a line of its own, to make the page long enough." for i in range(30)
    ]
    text, runs, at = "\n".join(line_texts), [], 10
    for i, line in enumerate(line_texts):
        runs.append(TextBox(at, at + len(line), (0.1, i / 40, 0.9, i / 40 + 0.02)))
        at += len(line) + 1
    items = list(split(loaded([Section(text, 10, page=4, text_boxes=tuple(runs))])))
    assert len(items) > 1
    assert [run for item in items for run in item.text_boxes] == runs
    for item in items:
        assert item.kind == "page"
        assert isinstance(item.location, PageLocation)
        assert item.location.page == 4
        assert item.location.boxes[0] == (
            0.1,
            item.text_boxes[0].box[1],
            0.9,
            item.text_boxes[-1].box[3],
        )


def test_lines_under_each_other_are_one_box_and_columns_are_not() -> None:
    def run(left: float, top: float) -> TextBox:
        return TextBox(0, 1, (left, top, left + 0.3, top + 0.02))

    merged = merge_lines([run(0.1, 0.10), run(0.1, 0.125), run(0.6, 0.10), run(0.1, 0.3)])
    expected = [(0.1, 0.10, 0.4, 0.145), (0.6, 0.10, 0.9, 0.12), (0.1, 0.3, 0.4, 0.32)]
    assert np.allclose(merged, expected)
    assert merge_lines([]) == ()


def test_combining_marks_after_a_space_do_not_start_a_piece() -> None:
    text = ("word \u0301 " * 400).strip()
    assert all(not unicodedata.category(piece[0]).startswith("M") for piece in pieces(text))
