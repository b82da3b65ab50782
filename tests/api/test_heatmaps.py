"""Heatmaps: what stood out is painted, an even look is not; by the very model that answered."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from rag_owl import RagOwl
from rag_owl.api.heatmaps import paint
from rag_owl.model.nano import weights
from rag_owl.sample import write_sample
from tests.service import opened, problem, running


def alpha_of(attention: np.ndarray) -> np.ndarray:
    picture = Image.open(io.BytesIO(paint(attention.astype(np.float32), (64, 32))))
    assert (picture.mode, picture.size) == ("RGBA", (64, 32))
    return np.asarray(picture.getchannel("A"))


def test_what_drew_attention_is_painted_where_it_is() -> None:
    attention = np.ones((8, 8))
    attention[1, 6] = 9
    alpha = alpha_of(attention)
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    assert (row // 4, column // 8) == (1, 6)
    assert 150 < alpha.max() <= 190  # the picture below stays visible
    assert alpha[20:, :32].max() == 0


def test_paint_shows_on_any_picture() -> None:
    attention = np.ones((8, 8))
    attention[2:4, 2:4] = 9
    laid = Image.open(io.BytesIO(paint(attention.astype(np.float32), (64, 64))))
    for colour in ("red", "yellow", "magenta", "black", "white", "blue"):
        picture = Image.new("RGBA", laid.size, colour)
        before = np.asarray(picture, np.int16)
        picture.alpha_composite(laid)
        assert np.abs(np.asarray(picture) - before).max() > 40


def test_an_even_or_empty_look_paints_nothing() -> None:
    assert alpha_of(np.full((8, 8), 0.3)).max() == 0
    assert alpha_of(np.zeros((8, 8))).max() == 0


def test_a_model_trained_further_gives_heatmaps_under_its_own_name(tmp_path: Path) -> None:
    further = tmp_path / "further"
    shutil.copytree(weights.FOLDER, further)
    (further / "card.json").write_text(json.dumps({"name": "owl-nano-of-flags"}))
    write_sample(tmp_path / "all")
    (tmp_path / "flags").mkdir()
    for name in ("japan.png", "japan.txt", "kenya.png", "kenya.txt"):
        (tmp_path / "all" / name).rename(tmp_path / "flags" / name)
    flag = (tmp_path / "flags" / "japan.png").read_bytes()
    picture = f"data:image/png;base64,{base64.b64encode(flag).decode()}"
    asked = {
        "collection": "flags",
        "question": "What is the capital of this country?",
        "images": [picture],
    }
    data = tmp_path / "data"
    with RagOwl.open(data) as owl:
        owl.ingest("flags", [tmp_path / "flags"])
    with running(data, model=str(further)) as client:
        answer = client.post("/v1/answers", json=asked).json()
        assert (answer["model"], answer["abstained"]) == ("owl-nano-of-flags", False)
        address = answer["citations"][0]["location"]["heatmap_url"]
        found = client.get(address)
        assert found.status_code == 200, found.text
        with Image.open(io.BytesIO(found.content)) as drawn:
            assert drawn.mode == "RGBA"
            assert drawn.getchannel("A").getextrema()[1] > 0
        # The model that drew it is the one that answered; the bundled one was never loaded.
        assert "answerer owl-nano" not in opened(client).models._loaded
        plain = client.post("/v1/answers", json={**asked, "model": "sentences"}).json()
        assert all(each["location"].get("heatmap_url") is None for each in plain["citations"])
    with running(data, model="sentences") as client:
        listed = client.get("/v1/answers").json()["data"]
        assert listed[1]["citations"][0]["location"]["heatmap_url"] == address
        assert not any("owl-nano" in name for name in loaded_answerers(client))
        assert "owl-nano-of-flags" in problem(client.get(address), 404, "n")["detail"]
        assert not any("owl-nano" in name for name in loaded_answerers(client))


def loaded_answerers(client: TestClient) -> list[str]:
    names = opened(client).models._loaded
    return [name for name in names if name.startswith("answerer")]
