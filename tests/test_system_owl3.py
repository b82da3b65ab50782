"""The whole system with a model that looks: pictures are encoded when they are indexed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from rag_owl import RagOwl
from rag_owl.errors import ModelNotFound
from rag_owl.model.owl3.answerer import Owl3Answerer
from rag_owl.model.owl3.sizes import random_model
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A checkpoint folder of a random model that reads bytes."""
    folder = tmp_path / "tiny-owl"
    random_model("tiny", seed=5).save_pretrained(folder)
    Owl3Tokenizer.of_bytes().save(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for at in range(30):
        colour = (8 * at, 255 - 8 * at, (50 * at) % 256)
        Image.new("RGB", (60, 40), colour).save(folder / f"{at:02}.png")
    return folder


@pytest.mark.usefixtures("on_each_database")
def test_at_question_time_only_the_users_picture_is_encoded(
    tmp_path: Path, tiny: Path, pictures: Path
) -> None:
    data = tmp_path / "data"
    settings = {"text_embedder": "hashing", "model": str(tiny), "answer_tokens": 12}
    mine = tmp_path / "mine.png"
    Image.new("RGB", (50, 50), (120, 10, 200)).save(mine)
    with RagOwl.open(data, **settings) as owl:
        assert owl.ingest("pictures", [pictures]).added == 30
        model = owl.models.answerer()
        assert isinstance(model, Owl3Answerer)
        assert model.model.pictures_seen == 30
        first = owl.ask("pictures", "Which of them is it?", images=[mine], k=30)
        assert model.model.pictures_seen == 31
    shutil.rmtree(data / "features")
    with RagOwl.open(data, **settings) as owl:
        again = owl.ask("pictures", "Which of them is it?", images=[mine], k=30)
        model = owl.models.answerer()
        assert isinstance(model, Owl3Answerer)
        assert model.model.pictures_seen == 31  # all of them, and the user's
        assert again.text == first.text
        assert (again.model, again.abstained) == (first.model, first.abstained)


def test_a_name_that_is_no_model_says_what_there_is(tmp_path: Path) -> None:
    wanted = pytest.raises(ModelNotFound, match="no answering model 'owl4': use sentences")
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as owl, wanted:
        owl.models.answerer("owl4")
