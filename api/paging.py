"""Cursors: where the last page ended, as text that only this service writes."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from rag_owl.api.errors import Problem

T = TypeVar("T")

MOST_PER_PAGE = 200
_LARGEST_KEY = 2**63 - 1

Limit = Annotated[int, Query(ge=1, le=MOST_PER_PAGE, description="How many on one page.")]
Cursor = Annotated[
    str | None,
    Query(max_length=400, description="`next_cursor` of the page before; none: the first page."),
]


def write(*values: str | int | float) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def read(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The values that `write` got, of these kinds. Raises `Problem` for any other text."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _invalid() from None
    if not isinstance(values, list) or len(values) != len(kinds):
        raise _invalid()
    for value, kind in zip(values, kinds, strict=True):
        if type(value) is not kind:
            raise _invalid()
        if isinstance(value, int) and not 0 <= value <= _LARGEST_KEY:
            raise _invalid()
        if isinstance(value, float) and not math.isfinite(value):
            raise _invalid()
        if isinstance(value, str) and ("\0" in value or not value.isascii()):
            raise _invalid()
    return tuple(values)


def page(
    rows: Sequence[T], limit: int, show: Callable[[T], Any], place: Callable[[T], str]
) -> dict[str, Any]:
    """Of up to limit + 1 rows the first `limit`, and the cursor to go on with if there are more."""
    shown = rows[:limit]
    more = len(rows) > limit
    return {
        "data": [show(row) for row in shown],
        "next_cursor": place(shown[-1]) if more and shown else None,
    }


def _invalid() -> Problem:
    return Problem(
        422, "cursor: this is none of ours; give `next_cursor` of the page before", "cursor"
    )
