"""Names and ids that strangers give."""

from __future__ import annotations

from rag_owl.errors import NotFound


def is_storable(value: str) -> bool:
    """Whether every database can take the text: no lone surrogate, no NUL (PostgreSQL has none)."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def check(kind: str, name: object) -> None:
    """Raises `NotFound` for what no database can even be asked for."""
    if not isinstance(name, str) or not is_storable(name):
        raise NotFound(f"no {kind} {name!r}")
