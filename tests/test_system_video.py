"""Films from ingest to answer: what is said and what is seen is cited by its seconds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rag_owl import RagOwl
from rag_owl.sample.flags import FLAGS
from rag_owl.types import VideoLocation
from tests.films import write_film

pytestmark = pytest.mark.usefixtures("on_each_database")

SAID = {
    4.0: "The snowy owl breeds on the tundra.",
    13.0: "A sourdough needs twelve hours to rise.",
    22.0: "The lighthouse was built in the year 1871.",
}


def _flag(country: str) -> NDArray[np.uint8]:
    return np.asarray(FLAGS[country].draw((160, 120)))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Half a minute of grey, with the flag of Japan from second 8 to 11, of Kenya from 18 to 21."""
    flags = {8: _flag("japan"), 18: _flag("kenya")}

    def draw(second: float) -> NDArray[np.uint8]:
        for start, flag in flags.items():
            if start <= second + 1e-6 < start + 3:
                return flag
        return np.full((120, 160, 3), 120, np.uint8)

    cues = [(start, start + 2.5, text) for start, text in SAID.items()]
    return write_film(tmp_path / "film.mp4", 30, draw, rate=5, cues=cues)


def test_a_question_about_a_film_is_answered_with_its_seconds(tmp_path: Path, film: Path) -> None:
    with RagOwl.open(tmp_path / "data") as owl:
        job = owl.ingest("films", [film])
        assert (job.state, job.added, job.skipped) == ("done", 1, [])
        (document,) = owl.documents("films")
        assert document.media_type == "video/mp4"
        for model in ("sentences", "owl-nano"):
            for question, start in (
                ("Where does the snowy owl breed?", 4.0),
                ("How long does a sourdough need to rise?", 13.0),
                ("When was the lighthouse built?", 22.0),
            ):
                answer = owl.ask("films", question, model=model)
                assert not answer.abstained, (model, question)
                place = answer.citations[0].location
                assert isinstance(place, VideoLocation)
                assert (place.start_seconds, place.end_seconds) == pytest.approx(
                    (start, start + 2.5), abs=0.01
                )
                assert answer.citations[0].picture is not None
        for name, start in (("japan", 8), ("kenya", 18)):
            shown = io.BytesIO()
            Image.fromarray(_flag(name)).save(shown, "PNG")
            best, *_ = owl.search("films", "", images=[shown.getvalue()])
            assert isinstance(best.item.location, VideoLocation)
            assert best.item.location.start_seconds == pytest.approx(start, abs=1.01)
            assert best.item.location.end_seconds == pytest.approx(start + 3, abs=1.01)
            assert best.item.kind == "video"
            assert owl.blobs.path(best.item.video or "").read_bytes() == film.read_bytes()
        again = owl.ingest("films", [film])
        assert (again.added, again.unchanged) == (0, 1)


def test_other_subtitles_beside_a_film_are_a_new_revision(tmp_path: Path, film: Path) -> None:
    titles = film.with_suffix(".srt")
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as owl:
        for text, updated in (("A first version.", 0), ("A second version.", 1)):
            titles.write_text(f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n")
            job = owl.ingest("films", [film.parent / "film.mp4", titles])
            assert (job.added, job.updated, job.skipped) == (1 - updated, updated, [])
            (best, *_) = owl.search("films", text)
            assert best.item.text == text
