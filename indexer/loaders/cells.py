"""Written values (a CSV cell, a line of front matter) as what they look like."""

from __future__ import annotations

import re

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # fits 64 bits; longer ones are identifiers
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")


def typed(written: str) -> str | int | float | bool | None:
    """`12` and `1.5` are numbers, `true` and `false` booleans, nothing is None.

    Leading zeros (`007`, postal codes) and very long digits stay text.
    """
    written = written.strip()
    if not written:
        return None
    if _INTEGER.fullmatch(written):
        return int(written)
    if _NUMBER.fullmatch(written):
        return float(written)
    return {"true": True, "false": False}.get(written.lower(), written)
