"""What a statement loses without an item: real prompts, real features, a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rag_owl.model.owl3.ablation import log_probabilities
from rag_owl.model.owl3.engine import Engine
from rag_owl.model.owl3.memory import VisualMemory
from rag_owl.ports import Ablator
from rag_owl.types import Attribution, Draft
from tests.model.test_owl3_answerer import answerer, context, item, picture

TEXT = "It is red. [1] It is old. [2]"
DRAFT = Draft(TEXT, (Attribution(0, 10, 0), Attribution(15, 25, 1), Attribution(15, 25, 2)))


def asked(blobs):
    keys = [blobs.put(picture(i)) for i in range(2)]
    return context([item(0, "A red thing.", keys[0]), item(1, "Old."), item(2, key=keys[1])])


def test_it_is_the_difference_of_the_log_probabilities_of_both_prompts(tmp_path: Path) -> None:
    owl, blobs, _ = answerer(tmp_path)
    whole = asked(blobs)
    assert isinstance(owl, Ablator)
    drops = owl.ablate(whole, DRAFT)

    def likely(shown, start: int, end: int) -> float:
        """By one plain forward pass over prompt and answer."""
        _, prompt = owl._fitting(shown, owl_sights(owl, shown))
        memories, _ = owl._look(owl_sights(owl, shown), lambda: None)
        views = [view.key for view in owl._fitting(shown, owl_sights(owl, shown))[0].views]
        memory = VisualMemory.cat([memories[key] for key in views]) if views else None
        ids, spans = owl._tokenizer.encode_with_offsets(TEXT)
        given = torch.tensor([[*prompt.input_ids, *ids]])
        with torch.no_grad():
            logits = owl.model(given, memory, [prompt.image_starts])[0].log_softmax(-1)
        first = len(prompt.input_ids)
        return sum(
            float(logits[first + i - 1, ids[i]])
            for i, (a, b) in enumerate(spans)
            if a < end and b > start
        )

    places = [(0, 10), (15, 25), (15, 25)]
    for number, (drop, (start, end)) in enumerate(zip(drops, places, strict=True)):
        items = [source.item for source in whole.sources]
        empty = items[number]
        items[number] = type(empty)(**{**_fields(empty), "text": None, "picture": None})
        expected = likely(whole, start, end) - likely(context(items), start, end)
        assert drop == pytest.approx(expected, abs=2e-3)
    assert len({round(drop, 6) for drop in drops if drop is not None}) == 3


def owl_sights(owl, shown):
    from rag_owl.model.evidence_prompt import Sights

    return Sights.of(shown, 0.0, owl._most_frames, owl._finest)


def _fields(value):
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_pictures_are_not_encoded_again_and_an_engine_gives_the_same(tmp_path: Path) -> None:
    owl, blobs, _ = answerer(tmp_path)
    whole = asked(blobs)
    owl.answer(whole)
    before = owl.model.pictures_seen
    alone = owl.ablate(whole, DRAFT)
    assert owl.model.pictures_seen == before
    engine = Engine(owl.model)
    shared, _, _ = answerer(tmp_path, owl.model, engine=engine)
    assert shared.ablate(whole, DRAFT) == pytest.approx(alone, abs=1e-4)
    engine.close()


def test_rows_of_a_batch_do_not_disturb_each_other(tmp_path: Path) -> None:
    owl, _, _ = answerer(tmp_path)
    shown = [context([item(0, text)]) for text in ("Short.", "Much longer than that. " * 5)]
    prompts = [(owl._fitting(one, owl_sights(owl, one))[1], None) for one in shown]
    ids, _ = owl._tokenizer.encode_with_offsets("An answer of forty tokens or so, and more.")
    together = log_probabilities(owl.model, prompts, ids)
    single = torch.cat([log_probabilities(owl.model, [one], ids) for one in prompts])
    assert together.shape == (2, len(ids))
    assert torch.allclose(together, single, atol=1e-4)


def test_what_was_not_shown_has_no_drop(tmp_path: Path) -> None:
    owl, _, _ = answerer(tmp_path)
    shown = context([item(0, "Red.")])
    draft = Draft("It is red.", (Attribution(0, 10, 7),))
    assert owl.ablate(shown, draft) == [None]
