"""Pictures and frames to features: looked at once, remembered, and never failing all for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rag_owl.blobs import FolderBlobs
from rag_owl.media import Limits
from rag_owl.model.evidence_prompt import Stretch, View
from rag_owl.model.looking import Looker
from rag_owl.model.owl3.engine import Engine
from rag_owl.model.owl3.features import FeatureStore
from rag_owl.model.owl3.processor import Owl3Processor
from rag_owl.model.owl3.sizes import random_model
from rag_owl.model.owl3.tokenizer import Owl3Tokenizer
from tests.films import write_film
from tests.model.test_owl3_answerer import picture

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
MODEL = random_model("tiny", seed=1)
PROCESSOR = Owl3Processor.of(Owl3Tokenizer.of_bytes(), MODEL.config)


def view(key: str) -> View:
    return View(key, key)


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def looker(tmp_path: Path, blobs: FolderBlobs) -> Looker:
    return Looker(MODEL, PROCESSOR, blobs, FeatureStore(tmp_path / "features", 10**8, "int8"))


def test_a_picture_is_looked_at_once(looker: Looker, blobs: FolderBlobs):
    key = blobs.put(picture(1))
    before = MODEL.pictures_seen
    first, _ = looker.look([view(key), view(key)], keep=True)
    again, _ = looker.look([view(key)], keep=True)
    assert MODEL.pictures_seen == before + 1
    assert torch.equal(first[key].features, again[key].features)
    assert looker.features is not None
    assert looker.features.delete(key) == 1
    fresh, _ = looker.look([view(key)], keep=True)
    assert MODEL.pictures_seen == before + 2
    assert torch.equal(first[key].features, fresh[key].features)  # those of the store either way
    looker.look([view(key)], keep=False)
    assert MODEL.pictures_seen == before + 3


def test_many_are_looked_at_a_few_at_a_time(tmp_path: Path, blobs: FolderBlobs):
    keys = [blobs.put(picture(i)) for i in range(35)]
    engine = Engine(MODEL)
    shared = Looker(MODEL, PROCESSOR, blobs, call=engine.call)
    breaths: list[int] = []
    seen, failed = shared.look(
        [view(key) for key in keys], keep=True, between=lambda: breaths.append(1)
    )
    engine.close()
    assert len(breaths) == 2
    assert not failed
    alone, _ = Looker(MODEL, PROCESSOR, blobs).look([view(keys[20])], keep=False)
    assert torch.allclose(seen[keys[20]].features, alone[keys[20]].features, atol=1e-5)


def test_what_cannot_be_read_is_said_and_the_rest_is_seen(looker: Looker, blobs: FolderBlobs):
    good, text = blobs.put(picture(1)), blobs.put(b"no picture")
    bitten = blobs.put(picture(2))
    path = blobs.path(bitten)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-9])
    views = [view(key) for key in ("0" * 64, text, bitten, good)]
    seen, failed = looker.look(views, keep=True)
    assert list(seen) == [good]
    assert failed["0" * 64] == "it is gone"
    assert "damaged" in failed[bitten]
    assert failed.keys() == {"0" * 64, text, bitten}


def test_pictures_beyond_the_limits_are_not_decoded(blobs: FolderBlobs):
    key = blobs.put(picture(1))
    small = Looker(MODEL, PROCESSOR, blobs, limits=Limits(max_pixels=100))
    seen, failed = small.look([view(key)], keep=False)
    assert not seen
    assert "100" in failed[key]


def test_frames_of_films_are_looked_at_once(looker: Looker, blobs: FolderBlobs, tmp_path: Path):
    films = []
    for number in range(2):
        path = write_film(tmp_path / f"{number}.mp4", 4 + number)
        films.append(blobs.put(path.read_bytes()))
    views = [v for film in films for v in Stretch.of(film, 0.0, 4.0, 9).frames]
    before = MODEL.pictures_seen
    seen, failed = looker.look(list(reversed(views)), keep=True)
    assert not failed
    assert seen.keys() == {f"{film}.{second * 1000}ms" for film in films for second in range(4)}
    looker.look(views, keep=True)
    assert MODEL.pictures_seen == before + 8
    # Another second is another picture; the same second the same.
    a, b = (seen[f"{films[0]}.{second * 1000}ms"].features for second in (0, 1))
    assert not torch.equal(a, b)
    assert looker.seconds(films[0]) == pytest.approx(4, abs=0.2)


def test_a_film_that_is_cut_or_gone(looker: Looker, blobs: FolderBlobs, tmp_path: Path):
    whole = write_film(tmp_path / "film.mkv", 6).read_bytes()
    cut = blobs.put(whole[: len(whole) // 2])
    views = Stretch.of(cut, 0.0, 6.0, 9).frames
    seen, failed = looker.look(views, keep=True)
    assert seen.keys() | failed.keys() == {v.key for v in views}  # read or said, each of them
    gone = Stretch.of("0" * 64, 0.0, 2.0, 9).frames
    seen, failed = looker.look(gone, keep=True)
    assert set(failed.values()) == {"it is gone"}
    assert not seen
