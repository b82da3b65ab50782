"""The service with a model that answers several questions in one batch."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from rag_owl.model.owl3.sizes import random_model
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer
from tests.films import write_film
from tests.model.test_owl3_answerer import picture
from tests.service import PATIENCE, finished, opened, running

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
QUESTION = "Which of these is like mine?"


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("batched")
    random_model("tiny", seed=5).save_pretrained(folder / "owl")
    Owl3Tokenizer.of_bytes().save(folder / "owl")
    settings: dict[str, Any] = {
        "model": str(folder / "owl"),
        "text_embedder": "hashing",
        "picture_embedder": "descriptor",
        "answer_tokens": 60,
        "model_rows": 4,
    }
    with running(folder / "data", **settings) as client:
        files = [("files", (f"{n}.png", picture(n), "image/png")) for n in range(4)]
        client.post("/v1/collections", json={"name": "shapes"}).raise_for_status()
        sent = client.post("/v1/collections/shapes/documents", files=files)
        assert finished(client, sent.json()["job"]["id"])["added"] == 4
        yield client


def ask(client: TestClient, question: str, **more: Any) -> dict[str, Any]:
    body = {"collection": "shapes", "question": question, **more}
    done = client.post("/v1/answers", json=body)
    assert done.status_code == 200, done.text
    answer: dict[str, Any] = done.json()
    return answer


def test_questions_at_once_share_the_batch_and_get_what_they_get_alone(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(client).models.answerer()._engine  # type: ignore[attr-defined]
    together: list[int] = []
    waits: list[bool] = []  # whether a question waits for the next one
    step = engine._batch.step

    def watched() -> Any:
        until = time.monotonic() + PATIENCE
        while waits and max(together, default=1) < 2 and time.monotonic() < until:
            if engine.running > 1 or not engine._work.empty():
                break
            time.sleep(0.001)
        together.append(engine.running)
        return step()

    monkeypatch.setattr(engine._batch, "step", watched)
    questions = [f"{QUESTION} {n}" for n in range(6)]
    alone = [ask(client, question)["text"] for question in questions]
    assert max(together) == 1
    together.clear()
    waits.append(True)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda q: ask(client, q)["text"], questions))
    assert found == alone
    assert 1 < max(together) <= 4


def test_a_video_with_a_question_is_watched(client: TestClient, tmp_path: Path) -> None:
    film = write_film(tmp_path / "mine.mp4", 5).read_bytes()
    seen = opened(client).models.answerer().model  # type: ignore[attr-defined]
    before = seen.pictures_seen
    url = "data:video/mp4;base64," + base64.b64encode(film).decode()
    answer = ask(client, "When is it red?", video=url)
    assert seen.pictures_seen == before + 5
    assert answer["video"]
    assert isinstance(answer["moments"], list)
