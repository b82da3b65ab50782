"""Films as documents: stretches with seconds, pictures and subtitles."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_owl.indexer.loaders import Input, Loaded, document_text, read, scan
from rag_owl.indexer.loaders.video import sentences_of
from rag_owl.indexer.split import ItemDraft, split
from rag_owl.media import Limits, decode_picture
from rag_owl.subtitles import Cue
from rag_owl.types import Skipped, VideoLocation
from tests.films import COLOURS, write_film


def scenes(changes: list[float]) -> object:
    """One colour from each of these seconds on."""

    def draw(second: float) -> NDArray[np.uint8]:
        scene = sum(second + 1e-6 >= change for change in changes)
        picture = np.empty((48, 64, 3), np.uint8)
        picture[:] = COLOURS[scene % len(COLOURS)]
        return picture

    return draw


def load(path: Path, **limits: float) -> Loaded:
    (loaded,) = read(Input(path.name, path), limits=Limits(**limits))  # type: ignore[arg-type]
    assert isinstance(loaded, Loaded)
    return loaded


def seconds(items: list[ItemDraft]) -> list[tuple[float, float]]:
    places = [item.location for item in items]
    assert all(isinstance(place, VideoLocation) for place in places)
    return [(p.start_seconds, p.end_seconds) for p in places if isinstance(p, VideoLocation)]


def test_a_film_is_cut_where_scenes_change_and_after_ten_seconds(tmp_path: Path) -> None:
    film = write_film(tmp_path / "my_film.mp4", 30, scenes([4, 19]))  # type: ignore[arg-type]
    loaded = load(film)
    assert (loaded.title, loaded.media_type) == ("my film", "video/mp4")
    assert loaded.sha256 == hashlib.sha256(film.read_bytes()).hexdigest()
    assert loaded.source == film
    assert loaded.metadata["seconds"] == pytest.approx(30, abs=0.2)
    items = list(split(loaded))
    assert seconds(items) == [
        (0, 4), (4, 14), (14, 19), (19, 29), (29, pytest.approx(30, abs=0.2))
    ]  # fmt: skip
    assert {item.kind for item in items} == {"video"}
    for item, scene in zip(items, (0, 1, 1, 2, 2), strict=True):
        assert item.picture is not None
        assert item.picture.media_type == "image/jpeg"
        shown = np.asarray(decode_picture(item.picture.data), np.int32)[20, 20]
        assert np.abs(shown - COLOURS[scene]).max() < 12
    assert seconds(list(split(loaded))) == seconds(items)  # the same again, as resuming needs


def test_how_often_it_is_looked_at_can_be_chosen(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mkv", 6, scenes([2.5]))  # type: ignore[arg-type]
    assert seconds(list(split(load(film))))[1][0] == pytest.approx(3.0, abs=0.01)
    fine = seconds(list(split(load(film, video_every=0.25))))
    assert fine[1][0] == pytest.approx(2.5, abs=0.01)


def test_movement_is_no_change_of_scenes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 512, 3), np.uint8)
    noise = np.repeat(np.repeat(noise[::8, ::8], 8, 0), 8, 1)

    def pan(second: float) -> NDArray[np.uint8]:
        at = int(second * 40)
        return noise[:, at : at + 64]

    film = write_film(tmp_path / "a.mp4", 9, pan)
    assert len(seconds(list(split(load(film))))) <= 2


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_subtitles_in_the_film_are_text_of_their_stretch(tmp_path: Path, name: str) -> None:
    cues = [
        (1.0, 2.0, "The capital of Peru"),
        (2.2, 3.9, "is Lima."),
        (12.0, 13.0, "- Who says so?\n- I do."),
    ]
    film = write_film(tmp_path / name, 20, scenes([3]), cues=cues)  # type: ignore[arg-type]
    loaded = load(film)
    items = list(split(loaded))
    assert [item.text for item in items] == [
        "The capital of Peru is Lima.",
        "- Who says so?\n- I do.",
        None,
    ]
    assert seconds(items)[:2] == [(0, 3), (3, 13)]
    (first, second) = items[0].text_times
    assert items[0].text is not None
    assert items[0].text[second.start : second.end] == "is Lima."
    said = (first.start_seconds, second.start_seconds, second.end_seconds)
    assert said == pytest.approx((1.0, 2.2, 3.9))
    whole = document_text(loaded.sections()).rstrip()
    assert whole == "The capital of Peru is Lima.\n- Who says so?\n- I do."


SRT = "1\n00:00:01,000 --> 00:00:02,000\nBeside it.\n"


def test_subtitles_beside_the_film_belong_to_it(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 3, cues=[(1.0, 2.0, "In it.")])
    for name in ("a.srt", "b.srt", "a.de.srt"):
        (tmp_path / name).write_bytes(SRT.encode("utf-16"))
    inputs = list(scan([tmp_path]))
    assert inputs == [
        Input("a.de.srt", tmp_path / "a.de.srt"),
        Input("a.mp4", film, tmp_path / "a.srt", "a.srt"),
        Input("b.srt", tmp_path / "b.srt"),
    ]
    (loaded,) = read(inputs[1])  # type: ignore[arg-type]
    assert isinstance(loaded, Loaded)
    assert [item.text for item in split(loaded) if item.text] == ["Beside it."]
    assert loaded.source == film
    assert loaded.source_sha256 == hashlib.sha256(film.read_bytes()).hexdigest() != loaded.sha256
    (alone,) = read(inputs[2])  # type: ignore[arg-type]
    assert isinstance(alone, Loaded)
    assert alone.media_type == "text/plain"


def test_a_language_in_the_name_of_subtitles(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", 1)
    (tmp_path / "a.en.vtt").write_text("WEBVTT\n")
    (found,) = scan([tmp_path])
    assert isinstance(found, Input)
    assert found.companion == tmp_path / "a.en.vtt"


def test_broken_subtitles_leave_the_film_and_a_broken_film_its_subtitles(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 2)
    titles = tmp_path / "a.srt"
    titles.write_text("nothing like it")
    broken, loaded = read(Input("a.mp4", film, titles, "a.srt"))
    assert isinstance(broken, Skipped)
    assert isinstance(loaded, Loaded)
    assert broken.name == "a.srt"
    assert loaded.name == "a.mp4"
    titles.write_text(SRT)
    film.write_bytes(film.read_bytes()[:600])
    broken, loaded = read(Input("a.mp4", film, titles, "a.srt"))
    assert isinstance(broken, Skipped)
    assert isinstance(loaded, Loaded)
    assert "damaged" in broken.reason
    assert loaded.name == "a.srt"


def test_that_sound_is_not_read_is_said(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 2, sound=True)
    said, loaded = read(Input("a.mp4", film))
    assert isinstance(said, Skipped)
    assert isinstance(loaded, Loaded)
    assert (said.name, loaded.metadata["sound"]) == ("a.mp4 sound", "not read")


def test_what_cannot_be_decoded_is_skipped(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mkv", 3)
    for limits, says in (
        (Limits(max_video_seconds=2), "seconds long"),
        (Limits(max_frame_pixels=100), "pixels"),
    ):
        (skipped,) = read(Input("a.mkv", film), limits=limits)
        assert isinstance(skipped, Skipped)
        assert says in skipped.reason
    data = bytearray(film.read_bytes())
    data[600:] = np.random.default_rng(1).bytes(len(data) - 600)
    film.write_bytes(data)
    (skipped,) = read(Input("a.mkv", film))
    assert isinstance(skipped, Skipped)
    assert "damaged" in skipped.reason


def test_cues_are_gathered_to_sentences() -> None:
    cues = [
        Cue(0, 1, "The capital of"),
        Cue(1, 2, "Japan is Tokyo."),
        Cue(2.1, 3, "No stop here"),
        Cue(10, 11, "later"),
    ]
    assert [[cue.text for cue in s.cues] for s in sentences_of(cues)] == [
        ["The capital of", "Japan is Tokyo."],
        ["No stop here"],
        ["later"],
    ]
