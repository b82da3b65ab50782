"""Jobs' rows: who may commit, what is counted, cancelling, trying again, beginning by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from rag_owl import db
from rag_owl.errors import Conflict, InvalidSettings, JobLost
from rag_owl.jobs import MOST_INTERRUPTIONS, work_through
from rag_owl.schedules import Schedules, last_time
from rag_owl.settings import Schedule, read_settings
from rag_owl.store import claims, collections, jobs
from rag_owl.store.claims import Claim
from rag_owl.types import Job

DAY = 86_400.0


def make(engine: Engine, kind: str = "ingest", of: str | None = "c", **parameters: Any) -> str:
    with db.writing(engine) as session:
        key = collections.get_or_create(session, of).key if of else None
        return jobs.create(session, key, kind, parameters)[0]


def take(engine: Engine, job_id: str, worker: str = "w") -> Claim:
    with db.writing(engine) as session:
        claim = claims.claim(session, job_id, worker)
    assert claim is not None
    return claim


def look(engine: Engine, job_id: str) -> Job:
    with db.reading(engine) as session:
        return jobs.get(session, job_id)


def end(engine: Engine, claim: Claim, work: Callable[[Claim, Callable[[], bool]], bool]) -> str:
    return work_through(engine, claim, work, lambda: False)


def test_whoever_lost_a_job_can_commit_nothing(engine: Engine) -> None:
    job = make(engine)
    first = take(engine, job)
    second = take(engine, job, "another")
    assert (second.fence, second.interrupted) == (first.fence + 1, True)
    for change in (
        lambda session: claims.advance(session, first, added=5),
        lambda session: claims.finish(session, first, "done"),
        lambda session: claims.release(session, first),
        lambda session: claims.finish_cancelled(session, first),
        lambda session: claims.restart_scan(session, first),
        lambda session: claims.renew(session, first),
    ):
        with pytest.raises(JobLost, match="taken over"), db.writing(engine) as session:
            change(session)
    with db.writing(engine) as session:
        assert claims.advance(session, second, added=2) is False
        assert claims.standing(session, first) == "lost"
        assert claims.standing(session, second) == "ours"
    assert look(engine, job).added == 2


def test_a_lost_job_is_left_alone_by_who_lost_it(engine: Engine) -> None:
    job = make(engine)
    mine = take(engine, job)

    def work(claim: Claim, _: Callable[[], bool]) -> bool:
        take(engine, job, "another")
        with db.writing(engine) as session:
            claims.advance(session, claim, added=1)
        return True

    assert end(engine, mine, work) == "lost"
    assert (look(engine, job).state, look(engine, job).added) == ("running", 0)


def test_what_is_done_failed_and_left_and_how_fast(engine: Engine) -> None:
    job = make(engine)
    claim = take(engine, job)
    with db.writing(engine) as session:
        claims.advance(session, claim, found=10)
    assert (look(engine, job).left, look(engine, job).rate) == (10, None)
    with db.writing(engine) as session:
        claims.advance(session, claim, added=1, updated=1, unchanged=1, skipped=1, failed=1)
        session.execute(text("UPDATE jobs SET claimed_at = heartbeat_at - 10"))
    seen = look(engine, job)
    assert (seen.done, seen.failed, seen.skipped_count, seen.left, seen.handled) == (3, 1, 1, 5, 5)
    assert seen.rate == pytest.approx(0.5)
    assert seen.expected_end is None  # it still looks for files
    with db.writing(engine) as session:
        claims.mark_scanned(session, claim)
        heartbeat = session.execute(text("SELECT heartbeat_at FROM jobs")).scalar_one()
    assert look(engine, job).expected_end == pytest.approx(heartbeat + 10)
    again = take(engine, job)  # the rate is that of who works it now
    assert look(engine, job).rate is None
    with db.writing(engine) as session:
        claims.finish(session, again, "done")
    assert look(engine, job).expected_end is None


def test_a_clock_that_is_set_back_gives_no_rate(engine: Engine) -> None:
    claim = take(engine, make(engine))
    with db.writing(engine) as session:
        claims.advance(session, claim, found=2, added=1)
        session.execute(text("UPDATE jobs SET claimed_at = heartbeat_at + 3600"))
    assert look(engine, claim.job_id).rate is None


def test_a_queued_job_is_cancelled_at_once_and_tried_again(engine: Engine) -> None:
    job = make(engine)
    with db.writing(engine) as session:
        jobs.request_cancel(session, job)
    assert (look(engine, job).state, look(engine, job).finished_at is None) == ("cancelled", False)
    with db.writing(engine) as session:
        assert claims.claim(session, job, "w") is None
        assert jobs.retry(session, job) == job
    assert look(engine, job).state == "queued"
    assert look(engine, job).finished_at is None


def test_a_running_job_is_cancelled_by_its_worker(engine: Engine) -> None:
    job = make(engine)
    claim = take(engine, job)
    asked: list[bool] = []

    def work(_: Claim, stopping: Callable[[], bool]) -> bool:
        with db.writing(engine) as session:
            jobs.request_cancel(session, job)
        asked.append(look(engine, job).cancelling)
        while not stopping():  # it is noticed without the job's own doing
            time.sleep(0.01)
        return False

    assert end(engine, claim, work) == "ended"
    assert asked == [True]
    assert look(engine, job).state == "cancelled"


def test_tried_again_before_it_has_stopped_it_goes_on(engine: Engine) -> None:
    job = make(engine)
    claim = take(engine, job)
    with pytest.raises(Conflict, match="not finished"), db.writing(engine) as session:
        jobs.retry(session, job)
    with db.writing(engine) as session:
        jobs.request_cancel(session, job)
        assert jobs.retry(session, job) == job
    assert not look(engine, job).cancelling
    with db.writing(engine) as session:
        claims.finish_cancelled(session, claim)  # its worker had stopped already
    assert look(engine, job).state == "queued"


def test_a_failure_is_said(engine: Engine) -> None:
    job = make(engine)

    def work(*_: object) -> bool:
        raise InvalidSettings("no such thing; take another")

    assert end(engine, take(engine, job), work) == "ended"
    assert (look(engine, job).state, look(engine, job).error) == (
        "failed",
        "no such thing; take another",
    )


def test_a_job_that_ends_its_process_each_time_fails_in_the_end(engine: Engine) -> None:
    job = make(engine)
    claim = take(engine, job)
    for _ in range(MOST_INTERRUPTIONS - 1):
        claim = take(engine, job)
    with db.writing(engine) as session:
        claims.advance(session, claim, found=1, items=1)
    assert take(engine, job).interruptions == 1  # something was done
    for _ in range(MOST_INTERRUPTIONS - 1):
        claim = take(engine, job)
    assert end(engine, claim, lambda *_: True) == "ended"
    assert look(engine, job).state == "failed"
    assert "ended 10 times in a row" in (look(engine, job).error or "")
    with db.writing(engine) as session:
        jobs.retry(session, job)
    assert take(engine, job).interruptions == 0


def test_a_job_of_the_whole_installation(engine: Engine) -> None:
    from rag_owl.visibility import limited

    job = make(engine, "verify", None)
    assert make(engine, "verify", None) == job  # joined
    assert look(engine, job).collection is None
    assert take(engine, job).collection == ""
    with db.reading(limited(engine, ["c"])) as session:
        assert jobs.list_page(session) == []


# --- by the clock ---------------------------------------------------------------------------------


def test_the_last_time_of_a_cron_expression() -> None:
    noon = 20_000 * DAY + DAY / 2
    assert last_time("0 12 * * *", noon) == noon
    assert last_time("0 12 * * *", noon - 1) == noon - DAY
    assert last_time("*/5 * * * *", noon + 301) == noon + 300


def test_each_time_begins_one_job_whoever_looks(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    given = [
        Schedule(cron="0 * * * *", kind="merge"),
        Schedule(cron="0 * * * *", kind="ingest", collection="c", path=tmp_path / "files"),
    ]
    one = Schedules(engine, given, [tmp_path])
    other = Schedules(engine, given, [tmp_path])
    hour = time.time() // 3_600 * 3_600 + 3_600  # jobs are created now, before that
    assert one.begin_due(hour + 700) == 0  # too late: nobody was there
    assert one.begin_due(hour - 1_000) == 0
    assert one.begin_due(hour + 5) == 2
    assert one.begin_due(hour + 6) == other.begin_due(hour + 6) == 0
    with db.writing(engine) as session:
        listed = jobs.list_page(session)
        assert sorted((job.kind, job.collection or "") for job in listed) == [
            ("ingest", "c"),
            ("merge", ""),
        ]
        session.execute(text("UPDATE jobs SET state = 'done', created_at = :at"), {"at": hour + 5})
    assert Schedules(engine, given, [tmp_path]).begin_due(hour + 7) == 0  # begun and done already
    assert other.begin_due(hour + 3_605) == 2


def test_only_what_the_operator_listed_is_looked_through(engine: Engine, tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "in").mkdir(parents=True)
    elsewhere.mkdir()
    schedule = {"cron": "* * * * *", "kind": "ingest", "collection": "c"}
    read_settings(schedules=[{**schedule, "path": root / "in"}], scan_roots=[root])
    for path in (elsewhere, root / ".." / "elsewhere", tmp_path):
        with pytest.raises(InvalidSettings, match="SCAN_ROOTS"):
            read_settings(schedules=[{**schedule, "path": path}], scan_roots=[root])
    # A link that leads out of it later begins nothing either.
    clock = Schedules(engine, [Schedule(**schedule, path=root / "in")], [root])
    (root / "in").rmdir()
    (root / "in").symlink_to(elsewhere)
    assert clock.begin_due(time.time()) == 0
    with db.reading(engine) as session:
        assert jobs.list_page(session) == []


@pytest.mark.parametrize(
    ("schedule", "what"),
    [
        ({"cron": "often", "kind": "merge"}, "no cron expression"),
        ({"cron": "* * * * * *", "kind": "merge"}, "five fields"),
        ({"cron": "0 3 * * *", "kind": "ingest"}, "needs a collection and a path"),
        ({"cron": "0 3 * * *", "kind": "merge", "path": "/"}, "has no path"),
        ({"cron": "0 3 * * *", "kind": "delete"}, "'ingest', 'merge'"),
    ],
)
def test_what_is_no_schedule(schedule: dict[str, str], what: str) -> None:
    with pytest.raises(InvalidSettings, match=what):
        read_settings(schedules=[schedule], scan_roots=["/"])
