"""Two minutes of the film that `benchmarks.reliability.film` draws, from ingest to answers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.reliability import film as benchmark
from rag_owl.video import open_video


def test_two_minutes_of_film_answer_with_the_right_seconds(tmp_path: Path) -> None:
    film = benchmark.plan(120, events=6, size=(320, 180), rate=10)
    path = tmp_path / film.name
    benchmark.write(film, path)
    video = open_video(path)
    assert video.seconds == pytest.approx(120, abs=0.1)
    assert len(video.subtitles()) == len(film.cues)
    report = benchmark.measure(film, path, tmp_path / "data")
    assert report.seen.share >= 0.9
    assert report.said.share >= 0.9
    assert sum(report.seen.asked) == 6
    assert sum(report.said.asked) == 3
    assert 6 <= report.stretches <= 40
    assert report.ingest.cpu_seconds > report.decoding[0].cpu_seconds > 0  # of all processes
    assert report.peak_bytes - report.idle_bytes < 1.5 * 2**30
    assert len(benchmark.show(report)) == 7


def test_the_film_is_the_same_every_time() -> None:
    assert benchmark.plan(600, 10) == benchmark.plan(600, 10)
    film = benchmark.plan()
    assert len({event.country for event in film.events}) == len(film.events) == 40
    for event, later in pairwise(film.events):
        assert event.start < event.end <= later.start
    assert film.events[-1].end < film.seconds
