"""What searches found, brought into one order."""

from __future__ import annotations

import pytest

from rag_owl.indexer.fusion import Ranking, fuse, with_leaders
from rag_owl.types import Question

TEXT = Ranking("text", dict.fromkeys(range(10, 60), 0.5))
WORDS = Ranking("words", dict.fromkeys([7, *range(59, 10, -1)], 3.0))


@pytest.mark.parametrize(("k", "holds_it"), [(3, False), (4, True), (5, True), (8, True)])
def test_what_one_search_alone_finds_first_is_among_the_best(k: int, holds_it: bool) -> None:
    fused = list(fuse([TEXT, WORDS], False))
    assert 7 not in fused[:k]
    best = with_leaders(fused, [TEXT, WORDS], Question("c", "Where is part X7?", k=k))
    assert (7 in best[:k]) is holds_it
    assert sorted(best) == sorted(fused)
    assert best[:k] == sorted(best[:k], key=fused.index)


def test_a_leader_that_is_among_them_keeps_its_place_and_pushes_none_out() -> None:
    alike = Ranking("words", dict.fromkeys(range(10, 60), 3.0))
    fused = list(fuse([TEXT, alike], False))
    assert with_leaders(fused, [TEXT, alike], Question("c", "Where?", k=8)) == fused


def test_a_question_with_a_picture_is_led_by_pictures_alone() -> None:
    fused = list(fuse([TEXT, WORDS], True))
    asked = Question("c", "Where is this?", ("0" * 64,), k=5)
    assert with_leaders(fused, [TEXT, WORDS], asked) == fused


def test_what_each_of_two_pictures_is_most_like_comes_first() -> None:
    """One in the middle for both is neither."""
    first = Ranking("picture", dict.fromkeys([1, *range(10, 59)], 0.9))
    second = Ranking("picture", dict.fromkeys([2, *range(58, 9, -1)], 0.9))
    words = Ranking("words", dict.fromkeys([30, 2], 3.0))
    assert set(list(fuse([first, second], True))[:2]) == {1, 2}
    assert next(iter(fuse([first, second, words], True))) == 2
