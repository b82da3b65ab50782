"""Keys in the store, and sessions that see only some collections, on both databases."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import Engine, select, text

from rag_owl import db
from rag_owl.errors import Forbidden, InvalidInput, NotFound
from rag_owl.rows import JobRow
from rag_owl.store import claims, collections, jobs, keys
from rag_owl.visibility import limited


def test_a_key_is_shown_once_and_stored_as_its_hash(engine: Engine) -> None:
    with db.writing(engine) as session:
        key, secret = keys.create(session, "the website", ["ask"])
    assert secret.startswith("owl_")
    assert len(secret) >= 43 + 4  # 256 bits in base64
    with db.reading(engine) as session:
        assert keys.find(session, secret) == key
        assert keys.find(session, secret + "x") is None
        stored = session.execute(text("SELECT * FROM keys")).one()
    assert secret not in str(stored)
    assert secret not in repr(key)


def test_two_keys_are_never_the_same(engine: Engine) -> None:
    with db.writing(engine) as session:
        assert len({keys.create(session, "same", ["ask"])[1] for _ in range(20)}) == 20


def test_revoked_and_expired_keys_open_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.writing(engine) as session:
        key, secret = keys.create(session, "a", ["ask"])
        later, expiring = keys.create(session, "b", ["ask"], expires_at=time.time() + 60)
        assert keys.find(session, expiring) == later
        assert keys.opens(session)
        keys.revoke(session, key.id)
        assert keys.find(session, secret) is None
    with monkeypatch.context() as patch, db.reading(engine) as session:
        patch.setattr(time, "time", lambda: later.created_at + 61)
        assert keys.find(session, expiring) is None
        assert keys.exist(session)  # so that it is still refused
        assert not keys.opens(session)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["ask", "root"]}, "scopes"),
        ({"name": " "}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "nul\0"}, "name"),
        ({"only": ["Not A Name"]}, "collections"),
        ({"expires_at": 5.0}, "expires_at"),
        ({"expires_at": float("nan")}, "expires_at"),
    ],
)
def test_what_can_be_no_key(engine: Engine, changed: dict[str, object], field: str) -> None:
    given = {"name": "x", "scopes": ["ask"], "only": None, "expires_at": None, **changed}
    with pytest.raises(InvalidInput) as caught, db.writing(engine) as session:
        keys.create(session, **given)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_unknown_keys_are_not_found(engine: Engine) -> None:
    for name in ("nope", "x\0", "\ud800"):
        with pytest.raises(NotFound), db.writing(engine) as session:
            keys.revoke(session, name)


def test_use_is_noted_to_the_minute(engine: Engine) -> None:
    with db.writing(engine) as session:
        key, secret = keys.create(session, "x", ["ask"])
        assert keys.is_worth_noting(key)
        keys.note_used(session, key.id)
        found = keys.find(session, secret)
    assert found is not None
    assert found.last_used_at is not None
    assert not keys.is_worth_noting(found)


def test_a_limited_session_gives_and_sees_no_more_than_it_has(engine: Engine) -> None:
    with db.writing(engine) as session:
        whole, _ = keys.create(session, "whole", ["ask"])
        other, _ = keys.create(session, "other", ["ask"], ["b"])
    mine = limited(engine, ["a", "c"])
    with db.writing(mine) as session:
        own, _ = keys.create(session, "own", ["ask"], ["a"])
        assert [key.id for key in keys.list_all(session)] == [own.id]
        for only in (None, ["b"], ["a", "b"]):
            with pytest.raises(Forbidden):
                keys.create(session, "more", ["ask"], only)
        for key in (whole, other):
            with pytest.raises(NotFound):
                keys.revoke(session, key.id)
        keys.revoke(session, own.id)


# --- what a limited session sees ------------------------------------------------------------------


def test_names_come_page_by_page(engine: Engine) -> None:
    with db.writing(engine) as session:
        for name in ("c", "a", "b"):
            collections.get_or_create(session, name)
        assert collections.names_page(session, "", 2) == ["a", "b"]
        assert collections.names_page(session, "b", 2) == ["c"]


@pytest.fixture
def two(engine: Engine) -> tuple[str, str]:
    """Ids of a job in each of the collections a and b."""
    with db.writing(engine) as session:
        made = []
        for name in ("a", "b"):
            key = collections.get_or_create(session, name).key
            made.append(jobs.create(session, key, "ingest", {"paths": [name]})[0])
    return made[0], made[1]


def test_other_collections_do_not_exist(engine: Engine, two: tuple[str, str]) -> None:
    mine, theirs = two
    with db.reading(limited(engine, ["a"])) as session:
        assert [info.name for info in collections.list_all(session)] == ["a"]
        assert collections.names_page(session, "", 10) == ["a"]
        for name in ("b", "nowhere"):
            with pytest.raises(NotFound, match=f"no collection '{name}'; there are: a$"):
                collections.get(session, name)
        assert not collections.exists(session, "b")
        assert [job.id for job in jobs.list_page(session)] == [mine]
        assert [job.id for job in jobs.recent(session)] == [mine]
        assert jobs.several(session, [mine, theirs]).keys() == {mine}
        assert jobs.count_by_state(session)["queued"] == 1
        with pytest.raises(NotFound):
            jobs.get(session, theirs)
        with pytest.raises(NotFound):
            jobs.skipped_page(session, theirs)


def test_other_collections_cannot_be_changed(engine: Engine, two: tuple[str, str]) -> None:
    _, theirs = two
    with db.writing(limited(engine, ["a"])) as session:
        for act in (jobs.request_cancel, jobs.retry):
            with pytest.raises(NotFound):
                act(session, theirs)
        session.execute(JobRow.__table__.select())  # a plain table is not what the store uses
        from sqlalchemy import update

        session.execute(update(JobRow).values(cancel_requested=True))
    with db.reading(engine) as session:
        assert session.scalar(
            select(JobRow.cancel_requested).where(JobRow.id == theirs)
        ) is False  # fmt: skip


def test_nothing_is_made_beside_what_is_mine(engine: Engine) -> None:
    with db.writing(limited(engine, ["a"])) as session:
        collections.get_or_create(session, "a")
        with pytest.raises(NotFound, match="no collection 'b'"):
            collections.get_or_create(session, "b")
    with db.reading(engine) as session:
        assert [info.name for info in collections.list_all(session)] == ["a"]


def test_no_collection_at_all_and_no_limit(engine: Engine, two: tuple[str, str]) -> None:
    with db.reading(limited(engine, [])) as session:
        assert collections.list_all(session) == []
        assert jobs.list_page(session) == []
    assert limited(engine, None) is engine


def test_jobs_page_by_page(engine: Engine) -> None:
    with db.writing(engine) as session:
        key = collections.get_or_create(session, "a").key
        made = [jobs.create(session, key, "ingest", {"paths": [str(n)]})[0] for n in range(7)]
        session.execute(text("UPDATE jobs SET created_at = 5.0"))  # equal times are told apart
    seen, before = [], None
    with db.reading(engine) as session:
        while page := jobs.list_page(session, before=before, limit=3):
            seen += [job.id for job in page]
            before = (page[-1].created_at, page[-1].id)
    assert sorted(seen) == sorted(made)
    assert len(seen) == 7


def test_a_stopped_job_goes_on_and_a_running_one_does_not(engine: Engine) -> None:
    with db.writing(engine) as session:
        key = collections.get_or_create(session, "a").key
        job_id, _ = jobs.create(session, key, "ingest", {"paths": ["x"]})
        from rag_owl.errors import Conflict

        with pytest.raises(Conflict, match="not finished"):
            jobs.retry(session, job_id)
        claim = claims.claim(session, job_id, "w")
        assert claim is not None
        claims.finish(session, claim, "failed", "the disk was full")
        assert jobs.retry(session, job_id) == job_id
        assert jobs.get(session, job_id).state == "queued"
        assert jobs.get(session, job_id).error is None
        claim = claims.claim(session, job_id, "w")
        assert claim is not None
        claims.finish(session, claim, "done")
        again = jobs.retry(session, job_id)
        assert again != job_id  # over the same paths
        upload, _ = jobs.create(session, key, "ingest", {"paths": ["y"], "upload": "u"})
        session.execute(text("UPDATE jobs SET state = 'done'"))
        session.expire_all()
        with pytest.raises(Conflict, match="upload again"):
            jobs.retry(session, upload)
