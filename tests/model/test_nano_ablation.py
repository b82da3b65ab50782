"""What an answer of owl-nano loses without an item."""

from __future__ import annotations

import pytest

from rag_owl.blobs import FolderBlobs
from rag_owl.evidence import verify, weigh
from rag_owl.model.nano import NanoAnswerer
from rag_owl.model.nano.ablation import LEAST
from rag_owl.ports import Ablator, Grounded, Grounding
from rag_owl.types import Attribution, Draft, Support
from tests.model.test_nano_answerer import BRIDGE, FISH, RIVER, ask


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> NanoAnswerer:
    return NanoAnswerer.load(FolderBlobs(tmp_path_factory.mktemp("blobs")))


def test_the_item_with_the_answer_is_worth_most(model: NanoAnswerer) -> None:
    assert isinstance(model, Ablator)
    assert isinstance(model, Grounded)
    shown = ask("How long is the Amur?", BRIDGE, RIVER, FISH)
    draft = model.answer(shown)
    drops = model.ablate(shown, draft)
    assert len(drops) == len(draft.attributions) == 2  # the span, and the sentence it stands in
    assert drops[0] == drops[1]
    assert drops[0] is not None
    assert 3 < drops[0] <= -LEAST
    answer = verify(draft, shown, 1, drops=drops)
    assert [c.support.ablation_drop for c in answer.citations] == drops


def test_another_item_with_the_same_words_makes_it_cheaper(model: NanoAnswerer) -> None:
    question = "How long is the Amur?"
    alone, twice = ask(question, RIVER, FISH), ask(question, RIVER, FISH, RIVER)
    drops = [model.ablate(shown, model.answer(shown))[0] for shown in (alone, twice)]
    assert drops[0] is not None
    assert drops[1] is not None
    assert drops[1] < 2 < drops[0]


def test_shares_of_attention_are_of_one_whole(model: NanoAnswerer) -> None:
    shown = ask("How long is the Amur?", BRIDGE, RIVER, FISH)
    share = model.answer(shown).attributions[0].attention
    assert share is not None
    assert 0.5 < share <= 1


def test_what_points_nowhere_has_no_drop(model: NanoAnswerer) -> None:
    shown = ask("How long is the Amur?", RIVER)
    draft = Draft("Long.", (Attribution(0, 5, 0), Attribution(0, 5, 0, 4, 4)))
    assert model.ablate(shown, draft) == [None, None]


def test_signs_weigh_only_where_they_are_calibrated() -> None:
    looked = Attribution(0, 1, 0, attention=0.9)
    sure, unread = Support("supported"), Support("unchecked")
    set_ = Grounding(attention_from=0.5, drop_from=1.0)
    for support, drop, thresholds, verdict in (
        (sure, 0.2, set_, "partly"), (sure, 1.0, set_, "supported"),
        (sure, None, set_, "supported"),
        (unread, None, set_, "partly"), (unread, 0.2, set_, "unsupported"),
        (unread, 3.0, set_, "partly"), (unread, 3.0, Grounding(), "unchecked"),
        (sure, 0.0, Grounding(), "supported"), (unread, None, Grounding(), "unchecked"),
    ):  # fmt: skip
        found = weigh(support, looked, drop, thresholds)
        assert (found.verdict, found.attention, found.ablation_drop) == (verdict, 0.9, drop)
