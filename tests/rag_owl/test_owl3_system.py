"""The whole system with mPLUG-Owl3: from files to an answer, each picture looked at once."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from rag_owl import RagOwl
from rag_owl.api.cli import app
from rag_owl.errors import InvalidSettings, ModelError
from rag_owl.model.owl3.sizes import random_model
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer
from rag_owl.types import VideoLocation
from tests.films import write_film

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
QUESTION = "Which of these is like mine?"


def picture(seed: int) -> bytes:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (8, 8, 3), generator=random, dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).resize((80, 60)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-owl"
    model = random_model("tiny", "static", seed=5)
    model.config = replace(model.config, max_position_embeddings=16_000)  # bytes are tokens here
    model.save_pretrained(folder)
    Owl3Tokenizer.of_bytes().save(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(30):
        (folder / f"{number}.png").write_bytes(picture(number))
    return folder


@pytest.fixture(scope="module")
def owl(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, pictures: Path
) -> Iterator[RagOwl]:
    with opened(tmp_path_factory.mktemp("system") / "data", model_folder) as owl:
        owl.ingest("shapes", [pictures])
        yield owl


def opened(data: Path, model_folder: Path, **settings: Any) -> RagOwl:
    settings = {"text_embedder": "hashing", "picture_embedder": "descriptor"} | settings
    return RagOwl.open(data, model=str(model_folder), answer_tokens=24, **settings)


def features(owl: RagOwl) -> list[Path]:
    return sorted((owl.folder / "features").rglob("*.safetensors"))


def test_pictures_are_looked_at_while_they_are_indexed(owl: RagOwl) -> None:
    seen = owl.models.answerer().model  # type: ignore[attr-defined]
    assert len(features(owl)) == 30
    before = seen.pictures_seen
    first = owl.ask("shapes", QUESTION, images=[picture(99)], k=30)
    assert seen.pictures_seen == before + 1  # the user's own
    assert len(first.sources) == 30
    assert first.left_out == ()
    for path in features(owl):
        path.unlink()
    seen.picture_cache.clear()
    again = owl.ask("shapes", QUESTION, images=[picture(99)], k=30)
    assert seen.pictures_seen == before + 1 + 31
    assert again.text == first.text
    assert len(features(owl)) == 30


def test_questions_of_several_threads_share_a_batch(owl: RagOwl) -> None:
    questions = [f"{QUESTION} {n}" for n in range(6)]

    def ask(question: str) -> str:
        return owl.ask("shapes", question, images=[picture(99)]).text

    alone = [ask(question) for question in questions]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(ask, questions))
    assert together == alone


def test_a_picture_that_is_damaged_later_fails_no_answer(owl: RagOwl, tmp_path: Path) -> None:
    (tmp_path / "late.png").write_bytes(picture(123))
    owl.ingest("late", [tmp_path / "late.png"])
    (item,) = (hit.item for hit in owl.search("late", "", images=[picture(123)]))
    assert item.picture is not None
    owl.blobs.path(item.picture).write_bytes(b"rotten")
    answer = owl.ask(
        "late", QUESTION, images=[picture(124)]
    )  # what the model remembers of it still stands
    assert answer.notes == ()
    for path in features(owl):
        if item.picture in path.name:
            path.unlink()
    answer = owl.ask("late", QUESTION, images=[picture(124)])
    assert answer.left_out == (item.id,)
    assert "could not be read and was left out" in answer.notes[0]
    assert owl.answer(answer.id).notes == answer.notes


def test_the_users_video_is_watched_and_cited_by_seconds(owl: RagOwl, tmp_path: Path) -> None:
    film = write_film(tmp_path / "mine.mp4", 6)
    seen = owl.models.answerer().model  # type: ignore[attr-defined]
    before = seen.pictures_seen
    answer = owl.ask("shapes", "When is it red?", video=film)
    assert seen.pictures_seen == before + 6  # a frame for each second
    assert answer.notes == ()
    stored = owl.answer(answer.id)
    assert stored.moments == answer.moments
    assert stored.video == answer.video
    for moment in answer.moments:
        assert 0 <= moment.start_seconds < moment.end_seconds < 6.5


def test_on_the_command_line(
    owl: RagOwl, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAG_OWL_ANSWER_TOKENS", "8")
    monkeypatch.setenv("RAG_OWL_VIDEO_FRAMES", "3")
    film = write_film(tmp_path / "mine.mp4", 6)
    arguments = ["ask", "shapes", "When?", "--video", str(film), "--model", str(model_folder)]
    done = CliRunner().invoke(app, [*arguments, "--data", str(owl.folder), "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["model"] == "tiny-owl"
    assert answer["video"]
    assert answer["notes"] == ["Your video of 6 s was shown as 3 frames."]


def test_how_it_runs_is_a_setting(tmp_path: Path, model_folder: Path, pictures: Path) -> None:
    chosen: dict[str, Any] = {
        "dtype": "bfloat16",
        "device": "cpu",
        "features_storage": "int8",
        "picture_cache_bytes": 1_000,
        "model_rows": 2,
    }
    with opened(tmp_path / "data", model_folder, **chosen) as owl:
        owl.ingest("one", [pictures / "0.png"])
        answerer: Any = owl.models.answerer()
        assert answerer.model.dtype == torch.bfloat16
        assert answerer.model.picture_cache.max_bytes == 1_000
        assert answerer.at_once == 2
        (stored,) = features(owl)
        assert stored.stat().st_size < 25 * 64 * 2
        owl.ask("one", QUESTION)
    with pytest.raises(ModelError, match="closed"):
        answerer.answer(_context())
    with (
        opened(tmp_path / "data", model_folder, quantize="4bit", device="nowhere") as owl,
        pytest.raises(InvalidSettings, match="nowhere"),
    ):
        owl.ask("one", QUESTION)


def _context() -> Any:
    from rag_owl.types import Context, Question

    return Context(Question("one", QUESTION), ())


def test_the_budget_of_what_is_remembered_holds(
    tmp_path: Path, model_folder: Path, pictures: Path
) -> None:
    with opened(tmp_path / "data", model_folder, features_bytes=30_000) as owl:
        owl.ingest("shapes", [pictures])
        kept = features(owl)
        assert 4 <= len(kept) < 10
        assert sum(path.stat().st_size for path in kept) <= 30_000
        assert owl.ask("shapes", QUESTION, k=30).notes == ()


def test_a_retrieved_stretch_is_shown_frame_by_frame(owl: RagOwl, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 12, cues=[(2.0, 4.0, "An owl flies.")])
    job = owl.ingest("films", [film])
    assert not job.skipped
    seen = owl.models.answerer().model  # type: ignore[attr-defined]
    remembered = seen.pictures_seen
    hits = owl.search("films", "owl flies")
    assert hits[0].item.kind == "video"
    assert hits[0].item.video is not None
    assert owl.blobs.get(hits[0].item.video) == film.read_bytes()
    answer = owl.ask("films", "When does the owl fly?", k=1)
    assert seen.pictures_seen > remembered  # its frames
    assert answer.notes == ()
    after = seen.pictures_seen
    assert owl.ask("films", "When does the owl fly?", k=1).text == answer.text
    assert seen.pictures_seen == after  # which are remembered
    place = hits[0].item.location
    assert isinstance(place, VideoLocation)
    for citation in answer.citations:
        assert isinstance(citation.location, VideoLocation)
        assert place.start_seconds <= citation.location.start_seconds
        assert citation.location.start_seconds < citation.location.end_seconds
        assert citation.location.end_seconds <= place.end_seconds
