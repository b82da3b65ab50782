"""Blobs to be deleted, and how those survive that somebody stores at the same moment.

Whoever stores rows that refer to blobs put the bytes before, and calls `keep` in the transaction
of the rows. Whoever deletes says `condemn` in the transaction of the deletion; later a collector
calls `doom`, commits, and then `collect`, which deletes files within a transaction; both one
collector at a time, and never while a `keep` is not committed yet. So either the collector sees the
new rows and leaves the blob, or `keep` sees that it is doomed and raises `BlobsGone`; then
`forgive` it, put the bytes again, and do the same again. That it is doomed is committed before the
first file goes: a collector that is killed between its files, or whose store fails, deceives
nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, delete, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from rag_owl.errors import BlobsGone
from rag_owl.rows import AnswerRow, CitationRow, CondemnedRow, ItemRow, RevisionRow
from rag_owl.store import blob_uses

_ADVISORY = 7_236_454
_AT_ONCE = 500
_DOOMED = 0.0  # `gone_at` of what is about to go, and may be gone already
_REMEMBERED = 7 * 86_400.0  # seconds that a collected blob is remembered: longer than any batch
_SAVING = 3_600.0  # seconds between an answer's time and its commit, at most


@dataclass(frozen=True, slots=True)
class Look:
    """What answers refer to: too long a search to be made while others wait for the end of it."""

    at: float  # monotonic seconds
    condemned: dict[str, float]  # of those, when they had been condemned before it was made
    in_answers: frozenset[str]

    @classmethod
    def now(cls, session: Session) -> Look:
        before, in_answers = pending(session), frozenset(of_answers(session))
        shown = {key: since for key, since in before.items() if key in in_answers}
        return cls(time.monotonic(), shown, in_answers)

    def is_too_old_for(self, key: str, since: float) -> bool:
        """Whether it says that an answer needs a blob of which the answer may have been cleared."""
        return key in self.in_answers and self.condemned.get(key) != since


def condemn(session: Session, keys: Select[str | None] | Iterable[str]) -> None:
    """Blobs that rows which go now refer to. A query is run now, before the rows go."""
    if isinstance(keys, Select):
        keys = [key for key in session.scalars(keys.distinct()) if key is not None]
    now, wanted = time.time(), list(dict.fromkeys(keys))
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    for at in range(0, len(wanted), _AT_ONCE):
        statement = dialect.insert(CondemnedRow).values(
            [{"key": key, "since": now, "gone_at": None} for key in wanted[at : at + _AT_ONCE]]
        )
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["key"], set_={"since": now, "gone_at": None}
            )
        )


def keep(session: Session, keys: Collection[str]) -> None:
    """These blobs were put, and rows of this transaction refer to them.

    Raises `BlobsGone` where a collector was faster.
    """
    if not keys:
        return
    _while_nothing_is_collected(session)
    wanted, gone = list(keys), []
    for at in range(0, len(wanted), _AT_ONCE):
        part = wanted[at : at + _AT_ONCE]
        rows = session.execute(
            select(CondemnedRow.key, CondemnedRow.gone_at).where(CondemnedRow.key.in_(part))
        ).all()
        gone += [row.key for row in rows if row.gone_at is not None]
        if saved := [row.key for row in rows if row.gone_at is None]:
            session.execute(delete(CondemnedRow).where(CondemnedRow.key.in_(saved)))
    if gone:
        raise BlobsGone(gone)


def is_condemned(session: Session, key: str) -> bool:
    """Whether `keep` would have anything to do."""
    return session.get(CondemnedRow, key) is not None


def forgive(session: Session, keys: Collection[str]) -> None:
    """Collected blobs will be put again: only when this is committed."""
    _while_nothing_is_collected(session)
    session.execute(delete(CondemnedRow).where(CondemnedRow.key.in_(list(keys))))


def pending(session: Session, limit: int | None = None) -> dict[str, float]:
    """Blobs that are still to be collected -> when each was condemned."""
    columns = select(CondemnedRow.key, CondemnedRow.since).where(_not_gone())
    return {row.key: row.since for row in session.execute(columns.order_by("key").limit(limit))}


def doom(session: Session, keys: Collection[str], look: Look) -> None:
    """Of the condemned blobs, those that nothing refers to are to be collected; others stay.

    look: made within the last hour; what it misses, because a deletion took an answer's evidence
    since, stays condemned. Commit it before `collect`.
    """
    still = {
        row.key
        for row in session.execute(
            select(CondemnedRow.key, CondemnedRow.since).where(
                CondemnedRow.key.in_(_condemned_of(session, keys))
            )
        )
        if not look.is_too_old_for(row.key, row.since)
    }
    used = still & (look.in_answers | set(of_answers(session, time.time() - 2 * _SAVING)))
    for column in (ItemRow.picture, RevisionRow.blob):
        used.update(
            key
            for key in session.scalars(select(column).where(column.in_(still)).distinct())
            if key
        )
    if used:
        session.execute(delete(CondemnedRow).where(CondemnedRow.key.in_(used)))
    session.execute(
        update(CondemnedRow).where(CondemnedRow.key.in_(still - used)).values(gone_at=_DOOMED)
    )


def collect(session: Session, keys: Collection[str], remove: Callable[[str], None]) -> int:
    """Remove those of the doomed blobs that nobody put again since; how many."""
    doomed = CondemnedRow.gone_at == _DOOMED
    gone = sorted(_condemned_of(session, keys, doomed))
    for key in gone:
        remove(key)
    session.execute(
        update(CondemnedRow).where(CondemnedRow.key.in_(gone)).values(gone_at=time.time())
    )
    return len(gone)


def _condemned_of(session: Session, keys: Collection[str], *which: ColumnElement[bool]) -> set[str]:
    """Those of the keys that are not gone, one collector at a time."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY})"))
    mine = CondemnedRow.key.in_(list(keys))
    return set(session.scalars(select(CondemnedRow.key).where(mine, _not_gone(), *which)))


def _not_gone() -> ColumnElement[bool]:
    return or_(CondemnedRow.gone_at.is_(None), CondemnedRow.gone_at == _DOOMED)


def _while_nothing_is_collected(session: Session) -> None:
    """Until the transaction ends. On SQLite whoever writes is alone anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock_shared({_ADVISORY})"))


def of_answers(session: Session, since: float = 0.0) -> Iterator[str]:
    """The blobs that answers refer to, and their evidence."""
    requests = select(AnswerRow.request).where(AnswerRow.created_at >= since)
    for request in session.scalars(requests.execution_options(yield_per=1_000)):
        yield from blob_uses.of_row("answers", {"request": request})
    evidence = (
        select(CitationRow.citation)
        .join(AnswerRow, AnswerRow.id == CitationRow.answer_id)
        .where(AnswerRow.created_at >= since)
    )
    for citation in session.scalars(evidence.execution_options(yield_per=1_000)):
        yield from blob_uses.of_row("citations", {"citation": citation})


def of_answer(session: Session, row: AnswerRow) -> list[str]:
    evidence = select(CitationRow.citation).where(CitationRow.answer_id == row.id)
    found = list(blob_uses.of_row("answers", {"request": row.request}))
    for citation in session.scalars(evidence):
        found += blob_uses.of_row("citations", {"citation": citation})
    return found


def collected(session: Session, since: float) -> list[str]:
    """Blobs that were collected lately: no cache needs what was made of them."""
    return list(session.scalars(select(CondemnedRow.key).where(CondemnedRow.gone_at >= since)))


def forget_old(session: Session) -> None:
    old = CondemnedRow.gone_at < time.time() - _REMEMBERED
    session.execute(delete(CondemnedRow).where(old, CondemnedRow.gone_at != _DOOMED))
