"""Small runs of what `benchmarks/reliability/` does at full size."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.reliability import disk, kills, material, mutations, two


def test_damaged_files_are_ingested_or_skipped_with_a_reason() -> None:
    job, skipped, wrong = mutations.run(count=45, seed=7)
    assert (job.state, wrong) == ("done", [])
    assert job.found == job.handled
    assert len(skipped) == job.skipped_count > 0
    assert all(each.name and each.reason for each in skipped)


def test_mutations_differ_and_are_repeatable(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        mutations.write(tmp_path / name, 18, seed=3)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    contents = [(tmp_path / "a" / name).read_bytes() for name in files]
    assert len(set(contents)) == 18
    pictures = [name for name in files if not name.endswith((".mp4", ".pdf", ".zip"))]
    for name in pictures:  # encoders of the others write the time
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_two_films_are_alike() -> None:
    chance = random.Random(1)
    assert len({material.film(chance, 1) for _ in range(30)}) == 30  # of flags some come twice


@pytest.mark.slow
@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_killed_processes_lose_and_double_nothing(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if where == "postgresql" else ""
    kinds = ("ingest", "delete", "reindex")
    course = kills.run(tmp_path, kills=3, seed=5, files=30, folders=2, url=url, kinds=kinds)
    assert course.kills == 3
    assert (course.lost, course.wrong) == ([], [])
    assert course.documents > 30


@pytest.mark.slow
@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_two_processes_at_once(tmp_path: Path, where: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url") if where == "postgresql" else ""
    assert two.run(tmp_path, url, files=45, rounds=2) == []


def test_a_full_database_is_said_and_all_is_well_after_space_is_made(tmp_path: Path) -> None:
    files = tmp_path / "files"
    material.mixed(files, 15, random.Random(1), "d")
    said, wrong = disk.full_database(tmp_path, files, pages=62)
    assert wrong == []
    assert "database or disk is full; make space" in said


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    said, wrong = disk.changing(tmp_path, random.Random(1))
    assert wrong == []
    assert "ingest it again" in said
