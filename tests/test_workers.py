"""Jobs on PostgreSQL: several workers, workers that die or sleep, a queue that lost everything."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from benchmarks.reliability import workers as bench
from benchmarks.reliability.workers import Place
from rag_owl import RagOwl, db, holds
from rag_owl.errors import DataFolderBusy
from rag_owl.job_queue import prepare_queue
from rag_owl.store import collections, condemned, jobs
from rag_owl.work_lock import among_others, exclusively
from tests.consistency import problems
from tests.resting import rest_after

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}


@pytest.fixture
def place(tmp_path: Path, postgres_url: str) -> Place:
    return Place(tmp_path / "data", postgres_url, tmp_path / "journal")


@contextmanager
def working(place: Place, **more: Any) -> Iterator[RagOwl]:
    with RagOwl.open(
        place.data, database_url=place.url, stalled_seconds=2, **{**LIGHT, **more}
    ) as owl:
        yield owl


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 500
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def rows(owl: RagOwl, statement: str) -> list[tuple[Any, ...]]:
    with owl.engine.begin() as connection:
        result = connection.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


def test_a_worker_that_is_stopped_waits_for_nobody(place: Place) -> None:
    """A job that another keeps from being begun is nobody's, and is begun by the next worker."""
    (file,) = bench.write(place.data.with_suffix(".files"), 1, 3)
    with place.open() as waiting, among_others(waiting.engine, alone=True) as alone:
        assert alone
        asked = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try%shared%'"
        with working(place) as owl:
            (job,) = bench.begin(owl, [file])
            until(lambda: bool(rows(waiting, asked)))
        assert waiting.job(job).state == "queued"
    with working(place) as owl:
        assert owl.wait_for_job(job).added == 3


def test_jobs_of_every_lane_are_worked_and_leave_no_task(place: Place) -> None:
    files = bench.write(place.data.with_suffix(".files"), 3, 20)
    with working(place) as owl:
        running = bench.begin(owl, files)
        with db.writing(owl.engine) as session:
            running.append(jobs.create(session, None, "verify", {})[0])
            key = collections.get(session, "c").key
            running.append(jobs.create(session, key, "merge", {})[0])
        owl.work_soon()
        ended = bench.end(owl, running)
        assert [job.state for job in ended] == ["done"] * 5
        until(lambda: rows(owl, "SELECT id FROM procrastinate.procrastinate_jobs") == [])
    assert bench.check(place, ended, 60) == []


def test_what_was_committed_and_never_deferred_is_swept_up(place: Place) -> None:
    (file,) = bench.write(place.data.with_suffix(".files"), 1, 5)
    with place.open() as owl:
        with db.writing(owl.engine) as session:
            key = collections.get_or_create(session, "c").key
            job, _ = jobs.create(session, key, "ingest", {"paths": [str(file)]})
        prepare_queue(owl.engine)
        assert rows(owl, "SELECT id FROM procrastinate.procrastinate_jobs") == []
    with working(place) as owl:
        assert owl.wait_for_job(job).added == 5


def test_a_queue_that_lost_everything_is_filled_again(place: Place) -> None:
    files = bench.write(place.data.with_suffix(".files"), 2, 5)
    with place.open() as owl:
        waiting = bench.begin(owl, files)
        assert len(rows(owl, "SELECT id FROM procrastinate.procrastinate_jobs")) == 2
        rows(owl, "COMMENT ON SCHEMA procrastinate IS '0.1 of an older version'")
        prepare_queue(owl.engine)
        assert rows(owl, "SELECT id FROM procrastinate.procrastinate_jobs") == []
        rows(owl, "COMMENT ON SCHEMA procrastinate IS '999.0 of a newer version'")
        rows(owl, "CREATE TABLE procrastinate.kept ()")
        prepare_queue(owl.engine)  # which is left as it is
        assert rows(owl, "SELECT * FROM procrastinate.kept") == []
    with working(place) as owl:
        assert [job.added for job in bench.end(owl, waiting)] == [5, 5]


def test_the_queue_waits_neither_for_a_backup_nor_for_files_that_go(place: Place) -> None:
    (file,) = bench.write(place.data.with_suffix(".files"), 1, 2)
    with place.open() as owl:
        ended = threading.Event()

        def begin() -> None:
            prepare_queue(owl.engine)
            bench.begin(owl, [file])
            ended.set()

        with holds.keeping_files(owl.engine), db.writing(owl.engine) as session:
            condemned.collect(session, [], lambda key: None)
            thread = threading.Thread(target=begin)
            thread.start()
            begun = ended.wait(300)
        thread.join()
        assert begun


def test_a_job_is_let_go_of_when_its_worker_is_stopped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = rest_after(monkeypatch, items=1, batch=8)
    (file,) = bench.write(place.data.with_suffix(".files"), 1, 200)
    with working(place) as owl:
        (job,) = bench.begin(owl, [file])
        until(lambda: owl.job(job).items > 0)
    with place.open() as owl:
        assert owl.job(job).state == "queued"
        assert owl.job(job).items < 200
    go_on.set()
    with working(place) as owl:
        assert owl.wait_for_job(job).added == 200
    assert problems(place.data, place.url) == []


def test_a_running_job_is_cancelled_and_goes_on_when_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = rest_after(monkeypatch, items=1, batch=8)
    (file,) = bench.write(place.data.with_suffix(".files"), 1, 200)
    with working(place) as owl:
        (job,) = bench.begin(owl, [file])
        until(lambda: owl.job(job).items > 0)
        owl.cancel_job(job)
        cancelled = owl.wait_for_job(job)
        assert (cancelled.state, cancelled.added < 200) == ("cancelled", True)
        with db.writing(owl.engine) as session:
            jobs.retry(session, job)
        go_on.set()
        owl.work_soon()
        assert owl.wait_for_job(job).added == 200


def test_nobody_repairs_while_a_job_runs_on_any_machine(place: Place) -> None:
    with place.open() as owl:
        with (
            among_others(owl.engine),
            pytest.raises(DataFolderBusy, match="being worked"),
            exclusively(owl.folder, 0, owl.engine),
        ):
            pass
        assert owl.remove_orphans() == 0


@pytest.mark.slow
def test_the_job_of_a_dead_worker_goes_to_another(place: Place) -> None:
    (file,) = bench.write(place.data.with_suffix(".files"), 1, 150)
    with place.open() as owl, bench.workers(place, 2, 0.02, stalled=2) as both:
        (job,) = bench.begin(owl, [file])
        until(lambda: owl.job(job).items > 0)
        name = rows(owl, "SELECT worker FROM jobs")[0][0]
        victim = next(each for each in both if name.endswith(f":{each.pid}"))
        victim.send_signal(signal.SIGKILL)
        ended = bench.end(owl, [job])
        assert rows(owl, "SELECT worker FROM jobs")[0][0] != name
    assert bench.check(place, ended, 150) == []


@pytest.mark.slow
def test_a_worker_that_slept_through_its_time_activates_nothing(place: Place) -> None:
    said, wrong = bench.suspended(place, 150, 0.02)
    assert wrong == []
    assert "was taken over by another worker" in said


@pytest.mark.slow
def test_a_database_that_goes_away_costs_no_process(tmp_path: Path) -> None:
    server = bench.Server(tmp_path / "postgres")
    place = server.place(tmp_path, f"away{random.randrange(10**6)}")
    try:
        seen = bench.outage(server, place, jobs=2, texts=150, delay=0.02, away=4)
    finally:
        server.close()
    assert (seen.wrong, seen.ended) == ([], 0)
    assert seen.statuses[0] == seen.statuses[-1] == 200
    assert seen.statuses[1] == 503
