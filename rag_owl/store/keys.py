"""Keys of the HTTP service: 256 random bits, shown once, stored as their sha256 alone."""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import Session

from rag_owl.errors import Forbidden, InvalidInput, NotFound
from rag_owl.rows import KeyRow
from rag_owl.store import collections, names
from rag_owl.visibility import visible

PREFIX = "owl_"
SCOPES = ("ask", "ingest", "admin")
LONGEST_NAME = 200  # characters
_USED_EVERY = 60.0  # seconds between two notes that a key was used


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it may be shown: what opens the door is not in it."""

    id: str
    name: str
    scopes: tuple[str, ...]
    collections: tuple[str, ...] | None  # None: all, also those to come
    created_at: float  # all in seconds since the epoch
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None  # to the minute

    @property
    def works(self) -> bool:
        expired = self.expires_at is not None and self.expires_at <= time.time()
        return self.revoked_at is None and not expired


def create(
    session: Session,
    name: str,
    scopes: Iterable[str],
    only: Iterable[str] | None = None,
    expires_at: float | None = None,
) -> tuple[Key, str]:
    """(the key as it may be shown, the secret that is never shown again).

    only: the collections that it may see, which need not exist yet; None: all.
    Raises `InvalidInput`, and `Forbidden` where the session itself sees less than the key would.
    """
    wanted = tuple(dict.fromkeys(scopes))
    if not wanted or (unknown := [scope for scope in wanted if scope not in SCOPES]):
        wrong = f"{unknown[0]!r} is no scope" if wanted else "a key needs at least one scope"
        raise InvalidInput(f"{wrong}; give some of {', '.join(SCOPES)}", field="scopes")
    if not name.strip() or len(name) > LONGEST_NAME or not names.is_storable(name):
        raise InvalidInput(
            f"a key's name says whose it is: 1 to {LONGEST_NAME} characters", field="name"
        )
    mine = tuple(dict.fromkeys(only)) if only is not None else None
    for collection in mine or ():
        collections.check_name(collection, field="collections")
    if expires_at is not None and not time.time() < expires_at < 1e11:
        raise InvalidInput("expires_at lies in the past or too far away", field="expires_at")
    allowed = visible(session)
    if allowed is not None and (mine is None or not set(mine) <= set(allowed)):
        raise Forbidden("a key can give no access that it does not have itself")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = KeyRow(
        id=uuid.uuid4().hex,
        name=name,
        hash=_hash(secret),
        scopes=list(wanted),
        collections=None if mine is None else list(mine),
        created_at=time.time(),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return _key(row), secret


def find(session: Session, secret: str) -> Key | None:
    """The key that this secret is, if it works now."""
    # The lookup is by hash: how long it takes says nothing about the secret.
    row = session.scalar(select(KeyRow).where(KeyRow.hash == _hash(secret)))
    key = _key(row) if row is not None else None
    return key if key is not None and key.works else None


def is_worth_noting(key: Key) -> bool:
    """Whether `note_used` would say anything new."""
    return key.last_used_at is None or key.last_used_at < time.time() - _USED_EVERY


def note_used(session: Session, key_id: str) -> None:
    session.execute(update(KeyRow).where(KeyRow.id == key_id).values(last_used_at=time.time()))


def exist(session: Session) -> bool:
    """Whether any was ever made and not revoked: from then on a wrong one is refused."""
    return session.scalar(select(KeyRow.id).where(KeyRow.revoked_at.is_(None)).limit(1)) is not None


def opens(session: Session) -> bool:
    """Whether there is one that works now."""
    return any(key.works for key in list_all(session))


def list_all(session: Session) -> list[Key]:
    return list_page(session)


def list_page(
    session: Session, after: tuple[float, str] | None = None, limit: int | None = None
) -> list[Key]:
    """The oldest first; in a limited session those that see no more than it does.

    after: (created_at, id) that the page before ended with.
    """
    chosen = select(KeyRow).order_by(KeyRow.created_at, KeyRow.id)
    if after is not None:
        chosen = chosen.where(tuple_(KeyRow.created_at, KeyRow.id) > after)
    mine = (key for key in map(_key, session.scalars(chosen)) if _is_mine(session, key))
    return list(islice(mine, limit))


def revoke(session: Session, key_id: str) -> Key:
    """It opens nothing any more, from the next request on. Raises `NotFound`."""
    names.check("key", key_id)
    row = session.scalar(select(KeyRow).where(KeyRow.id == key_id))
    if row is None or not _is_mine(session, _key(row)):
        raise NotFound(f"no key {key_id!r}")
    if row.revoked_at is None:
        row.revoked_at = time.time()
        session.flush()
    return _key(row)


def _is_mine(session: Session, key: Key) -> bool:
    allowed = visible(session)
    if allowed is None:
        return True
    return key.collections is not None and set(key.collections) <= set(allowed)


def _hash(secret: str) -> str:
    # No salt and no slow function: the secret has 256 random bits, nobody guesses it.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: KeyRow) -> Key:
    return Key(
        row.id,
        row.name,
        tuple(row.scopes),
        None if row.collections is None else tuple(row.collections),
        row.created_at,
        row.expires_at,
        row.revoked_at,
        row.last_used_at,
    )
