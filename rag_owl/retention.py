"""What a deletion leaves to be done: files, caches, and bytes that the database has let go of.

The rows are gone, and nothing is found any more, in the transaction of the deletion; the job that
it begins removes the rest. Each step begins by looking what is left of it, so a job that was killed
is simply worked again. Backups that were made before are nobody's to change from here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Text, cast, delete, func, or_, select, update
from sqlalchemy.orm import Session

from rag_owl import db, holds
from rag_owl.errors import DataFolderBusy, DataFolderError
from rag_owl.ports import BlobStore
from rag_owl.rows import AnswerRow, CollectionRow, GenerationRow, JobRow, SegmentRow
from rag_owl.store import blob_uses, claims, collections, condemned, documents, generations, jobs
from rag_owl.store.claims import Claim

KIND, EXPIRE = "delete", "expire"
EXPIRED = "The pictures and videos of this question are not kept any more."
_ROWS_AT_ONCE = 100  # documents or answers of one transaction
_BLOBS_AT_ONCE = 50  # removed while nobody may commit
_PATIENCE = 600.0  # seconds for others to let go of old bytes
_LOCKED = 5.0  # seconds of waiting between two looks whether to stop
_PAUSE = 0.2
_BYTES_A_SECOND = 50_000_000  # that `VACUUM` writes, about
_LONGEST_REST = 300.0  # seconds
_LOOK_AGAIN = 1_800.0  # seconds that a look through all answers holds


# --- beginning ------------------------------------------------------------------------------------


def begin(session: Session, collection_key: int, key_id: str | None = None) -> str:
    """The job that will remove what this transaction leaves behind; its id.

    One that has not begun yet is joined: deleting a thousand documents is one job or two.
    """
    waiting = session.scalar(
        select(JobRow.id)
        .where(
            JobRow.collection_key == collection_key, JobRow.kind == KIND, JobRow.state == "queued"
        )
        .limit(1)
        .with_for_update()  # nobody begins it before this is committed
    )
    if waiting is not None:
        return waiting
    return jobs.create(session, collection_key, KIND, {"of": uuid.uuid4().hex}, key_id)[0]


def delete_collection(session: Session, name: str, key_id: str | None = None) -> str:
    """From now on there is none of that name; the id of the job that removes what it held.

    Raises `NotFound`.
    """
    key = collections.get(session, name).key
    # Jobs before their collection, as whoever commits a batch holds them: no deadlock.
    for job in session.scalars(
        select(JobRow.id).where(
            JobRow.collection_key == key, JobRow.state.in_(jobs.UNFINISHED), JobRow.kind != KIND
        )
    ).all():
        jobs.request_cancel(session, job)
    collections.bury(session, key)
    return jobs.create(session, key, KIND, {"collection": name}, key_id)[0]


# --- the job --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cleaner:
    """What the job works with."""

    engine: Engine
    folder: Path
    blobs: BlobStore
    forget: Callable[[str], None]  # what caches hold of a blob
    drop_vectors: Callable[[int], None]  # the dead ones of a collection, from every segment
    remove_segments: Callable[[], None]  # files of those that are not searched any more
    remove_upload: Callable[[Mapping[str, Any]], None]  # of a job's parameters
    keep_answers_days: float | None = None
    keep_pictures_days: float | None = None


def work(cleaner: Cleaner, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """A `delete` or `expire` job: until nothing is left (True), or asked to stop (False)."""
    if claim.kind == EXPIRE:
        if not _expire(cleaner, claim, stopping):
            return False
    elif "collection" in claim.parameters:
        if not _empty_collection(cleaner, claim, stopping):
            return False
    elif claim.collection_key:
        cleaner.drop_vectors(claim.collection_key)
    if stopping():
        return False
    if not _remove_files(cleaner, claim, stopping):
        return False
    with db.writing(cleaner.engine) as session:
        claims.go_on(session, claim)
        condemned.forget_old(session)
    return _rest(cleaner.engine, claim, stopping) and scrub(cleaner.engine, stopping)


def _rest(engine: Engine, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Let time pass since the last deletion's end, the more the larger the database is.

    What is deleted meanwhile is one job, and the database is written anew once for all of it:
    deleting one document after the other keeps the disk busy for a fifth of the time at most.
    """
    if engine.dialect.name != "sqlite":
        return True
    with db.reading(engine) as session:
        last = session.scalar(
            select(func.max(JobRow.finished_at)).where(
                JobRow.kind.in_((KIND, EXPIRE)), JobRow.state == "done", JobRow.id != claim.job_id
            )
        )
    size = os.path.getsize(str(engine.url.database))
    pause = min(4 * size / _BYTES_A_SECOND, _LONGEST_REST)
    now = time.time()
    until = time.monotonic() + max(0.0, min(pause, (last or 0.0) + pause - now))
    while time.monotonic() < until:
        if stopping():
            return False
        time.sleep(_PAUSE)
    return True


def _empty_collection(cleaner: Cleaner, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Part by part, so that others may write between; the collection's own row last."""
    key = claim.collection_key
    while key:
        if stopping():
            return False
        with db.writing(cleaner.engine) as session:
            claims.advance(session, claim)
            more = documents.delete_some(session, key, _ROWS_AT_ONCE) or delete_answers(
                session, AnswerRow.collection_key == key
            )
        if more:
            continue
        with db.writing(cleaner.engine) as session:
            claims.advance(session, claim)
            others = _others(session, claim)
            for job in others:
                jobs.request_cancel(session, job)
            if not others:
                generations.lock(session, key)
                others = _others(session, claim)
            if not others:
                mine = select(GenerationRow.key).where(GenerationRow.collection_key == key)
                of_mine = SegmentRow.generation_key.in_(mine)
                if session.scalar(select(func.count()).where(of_mine)):  # files go before rows
                    generations.retire(session, list(session.scalars(mine)))
                else:
                    parameters = select(JobRow.parameters).where(JobRow.collection_key == key)
                    for each in session.scalars(parameters).all():
                        cleaner.remove_upload(each)
                    # This job outlives its collection.
                    session.execute(
                        update(JobRow).where(JobRow.id == claim.job_id).values(collection_key=None)
                    )
                    session.execute(delete(CollectionRow).where(CollectionRow.key == key))
                    return True
        with holds.removing_files(cleaner.engine) as may:
            if may:
                cleaner.remove_segments()
        time.sleep(_PAUSE)  # an ingest may be at its last batch
    return True


def _others(session: Session, claim: Claim) -> list[str]:
    """The jobs that also work in the collection."""
    return list(
        session.scalars(
            select(JobRow.id).where(
                JobRow.collection_key == claim.collection_key,
                JobRow.state.in_(jobs.UNFINISHED),
                JobRow.id != claim.job_id,
            )
        )
    )


def _expire(cleaner: Cleaner, claim: Claim, stopping: Callable[[], bool]) -> bool:
    for days, remove in (
        (cleaner.keep_answers_days, delete_answers),
        (cleaner.keep_pictures_days, _forget_asked),
    ):
        if days is None:
            continue
        before = AnswerRow.created_at < time.time() - days * 86_400
        more = 1
        while more:
            if stopping():
                return False
            with db.writing(cleaner.engine) as session:
                claims.advance(session, claim)
                more = remove(session, before, _ROWS_AT_ONCE)
                claims.advance(session, claim, found=more, done=more)
    return True


def _forget_asked(session: Session, which: Any, limit: int) -> int:
    """Pictures and videos that questions came with; how many questions that were."""
    asked = cast(AnswerRow.request, Text)
    # As both databases write JSON: a list or a text that is not empty.
    with_some = or_(asked.like('%"pictures": ["%'), asked.like('%"video": "%'))
    rows = session.scalars(
        select(AnswerRow).where(which, with_some).order_by(AnswerRow.created_at).limit(limit)
    ).all()
    for row in rows:
        condemned.condemn(session, blob_uses.of_row("answers", {"request": row.request}))
        notes = [*row.request.get("notes", ()), EXPIRED]
        row.request = {**row.request, "pictures": [], "video": None, "notes": notes}
    session.flush()
    return len(rows)


def delete_answers(session: Session, which: Any, limit: int = _ROWS_AT_ONCE) -> int:
    """The oldest answers for which the condition holds, with their evidence; how many."""
    rows = session.scalars(
        select(AnswerRow).where(which).order_by(AnswerRow.created_at).limit(limit)
    ).all()
    for row in rows:
        condemned.condemn(session, condemned.of_answer(session, row))
    session.execute(delete(AnswerRow).where(AnswerRow.id.in_([row.id for row in rows])))
    return len(rows)


def _remove_files(cleaner: Cleaner, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Segments, uploads and blobs that nothing needs any more; False: asked to stop."""
    look: condemned.Look | None = None
    with db.reading(cleaner.engine) as session:
        withdrawn = jobs.withdrawn(session)
    for parameters in withdrawn:
        cleaner.remove_upload(parameters)
    while True:
        with holds.removing_files(cleaner.engine) as may:
            if may:
                cleaner.remove_segments()
                with db.reading(cleaner.engine) as session:
                    keys = condemned.pending(session, _BLOBS_AT_ONCE)
                    if not keys:
                        return True
                    if look is None or _is_old(look, keys):
                        look = condemned.Look.now(session)
                with db.writing(cleaner.engine) as session:
                    claims.advance(session, claim)
                    condemned.doom(session, keys, look)
                with db.writing(cleaner.engine) as session:
                    claims.advance(session, claim)
                    now = condemned.collect(session, keys, lambda key: _remove(cleaner, key))
                    claims.advance(session, claim, found=now, done=now)  # files
        if stopping():
            return False
        # A backup copies files, or may wait for its turn: it looks as often as `holds` says.
        time.sleep(2 * holds.LOOKS_EVERY if may else _PAUSE)


def _is_old(look: condemned.Look, keys: Mapping[str, float]) -> bool:
    return time.monotonic() - look.at > _LOOK_AGAIN or any(
        look.is_too_old_for(key, since) for key, since in keys.items()
    )


def _remove(cleaner: Cleaner, key: str) -> None:
    cleaner.forget(key)
    cleaner.blobs.delete(key)


def forget_caches(folder: Path, key: str) -> None:
    """What a data folder's own caches hold of a blob."""
    for pattern in (f"thumbnails/*/{key[:2]}/{key[2:]}.jpg", f"features/*/{key[:2]}/{key}*"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink() if path.is_file() else shutil.rmtree(path)


_FORGET = (
    "PRAGMA secure_delete=ON",
    "INSERT INTO item_words (item_words) VALUES ('optimize')",
    "VACUUM",
)


def _alone(engine: Engine, *statements: str) -> tuple[int, ...] | None:
    """The last one's first row, () without one; None: somebody else holds the file.

    Raises `DataFolderError` for a full disk.
    """
    try:
        with closing(
            sqlite3.connect(str(engine.url.database), timeout=_LOCKED, isolation_level=None)
        ) as connection:
            found: tuple[int, ...] | None = None
            for statement in statements:
                found = connection.execute(statement).fetchone()
            return found or ()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DataFolderError(
                f"deleted rows cannot be cleaned out of {engine.url.database}: {error}; make "
                "space for a second copy of the database, then retry the job"
            ) from error
        return None


def scrub(engine: Engine, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Leave no byte of deleted rows in an SQLite file; False: asked to stop.

    Overwritten on deletion (`secure_delete`) are rows; the words index keeps deleted words until
    its parts are merged, pages keep copies of rows that moved, and the write-ahead log is a copy of
    all. On PostgreSQL deleted rows go when autovacuum comes by. Others who hold the file are waited
    for. Raises `DataFolderBusy`, and `DataFolderError` for a full disk.
    """
    if engine.dialect.name != "sqlite":
        return True
    until = time.monotonic() + _PATIENCE
    vacuumed = False
    while not stopping():
        with holds.removing_files(engine) as may:
            if not may:  # a backup reads the state of its beginning, for as long as it takes
                until = time.monotonic() + _PATIENCE
            else:
                vacuumed = vacuumed or _alone(engine, *_FORGET) is not None
                # The log is empty then, but for somebody who reads an old state.
                log = _alone(engine, "PRAGMA wal_checkpoint(TRUNCATE)") if vacuumed else None
                if log is not None and not log[0]:
                    return True
        if time.monotonic() > until:
            raise DataFolderBusy(
                f"what was deleted is still in {engine.url.database} or in its log, because "
                "another process writes to it or reads an old state; end it, then retry the job"
            )
        time.sleep(_PAUSE)
    return False
