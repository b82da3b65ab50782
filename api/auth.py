"""Who asks: a key, or nobody in particular on this machine alone."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from sqlalchemy import Engine

from rag_owl import db
from rag_owl.api.errors import Problem
from rag_owl.errors import DataFolderError
from rag_owl.settings import Settings
from rag_owl.store import keys

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rag-owl"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """What somebody may do. `collections`: the only ones that exist for them; None: all."""

    scopes: frozenset[str]
    collections: frozenset[str] | None = None
    key_id: str | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


LOCAL = Caller(frozenset(keys.SCOPES))


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def needs_key(settings: Settings) -> bool:
    """Whether strangers can reach the service, as far as the settings say."""
    return settings.require_key or bool(settings.allowed_hosts) or not is_loopback(settings.host)


def identify(engine: Engine, settings: Settings, authorization: str | None) -> Caller:
    """Whose request this is. Raises `Problem` 401 for a wrong key, and for none where one is due.

    While no key exists, loopback clients may send any: it opens nothing that is not open.
    """
    with db.reading(engine) as session:
        is_open = not needs_key(settings)
        if is_open and (not authorization or not keys.exist(session)):
            return LOCAL
        secret = _bearer(authorization)
        key = keys.find(session, secret) if secret else None
    if key is None:
        raise Problem(
            401,
            "this key is unknown, expired or revoked"
            if secret
            else "a key is needed: send `Authorization: Bearer owl_…`",
            "Authorization",
            _CHALLENGE,
        )
    if keys.is_worth_noting(key):
        with db.writing(engine) as session:
            keys.note_used(session, key.id)
    only = None if key.collections is None else frozenset(key.collections)
    return Caller(frozenset(key.scopes), only, key.id)


def _bearer(authorization: str | None) -> str | None:
    """The key in the header. Raises `Problem` 401 for any other scheme."""
    if not authorization:
        return None
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise Problem(
            401, "send the key as `Authorization: Bearer owl_…`", "Authorization", _CHALLENGE
        )
    return value.strip()


def check_start(engine: Engine, settings: Settings) -> None:
    """Raises `DataFolderError` where strangers could come in without a key."""
    if not needs_key(settings):
        return
    with db.reading(engine) as session:
        if not keys.opens(session):
            raise DataFolderError(
                f"no key exists, and {settings.host} with these settings can be reached by others; "
                "make one first: `rag-owl keys create NAME --scope admin`"
            )
