"""mPLUG-Owl's training masks, against those that its authors' dataset class made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_owl.model.owl1.processor import Owl1Processor
from rag_owl.model.prompting import Shown, Turn
from rag_owl.model.spliced.tokenizer import ModelTokenizer
from rag_owl.model.train.conversation import conversation

CASES = json.loads(
    (Path(__file__).parents[1] / "golden" / "owl1" / "training_masks.json").read_text()
)["cases"]
BOS, EOS, MEDIA = 1, 2, 65


class Characters(ModelTokenizer):
    """The cases' toy tokenizer: one id for a character."""

    def __init__(self) -> None:
        super().__init__(Path())

    def encode_with_offsets(self, text):
        ids = [3 + (ord(c) - 10) % 110 for c in text]
        return ids, [(i, i + 1) for i in range(len(text))]

    def find(self, token):
        return BOS if token == "<s>" else None


def turns_of(text: str) -> tuple[list[Turn], str]:
    """A case's conversation -> its turns, and the last answer."""
    system, *lines = text.split("\n")
    turns = [Turn("system", (system,))]
    for line in lines:
        speaker, _, said = line.partition(": ")
        role = "user" if speaker == "Human" else "assistant"
        turns.append(Turn(role, (Shown() if said == "<image>" else said,)))
    last = turns.pop()
    return turns, str(last.parts[0])


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_what_is_learnt_is_what_was_published(case):
    processor = Owl1Processor(Characters(), 28, MEDIA)
    turns, answer = turns_of(case["conversation"])
    ids, learnt, starts = conversation(processor, turns, answer, EOS)
    # The published rows are cut at `max_length` + 1 ids, or filled up with zeros.
    shown = case["input_ids"][: case["seq_length"]]
    assert ids[: len(shown)] == shown
    if len(shown) <= case["max_length"]:
        assert ids == shown
    masks = zip(case["prompt_mask"], case["non_media_mask"], case["non_padding_mask"], strict=True)
    # A place of the mask says whether the id behind it is learnt.
    wanted = [False, *(all(at) for at in masks)][: len(shown)]
    assert learnt[: len(wanted)] == wanted
    assert sum(wanted) > 2
    assert [ids[start : start + MEDIA] for start in starts] == [[-1] * MEDIA] * len(starts)
    assert ids.count(-1) == MEDIA * len(starts)
