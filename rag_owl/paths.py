"""Paths as text that every database stores: file names on Linux may be any bytes."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

_QUOTED = "percent-encoded:"


def dump(path: Path) -> str:
    """The path itself wherever it is proper Unicode, else percent-encoded bytes."""
    try:
        path.as_posix().encode("utf-8")
    except UnicodeEncodeError:
        return _QUOTED + quote_from_bytes(os.fsencode(path))
    return str(path)


def load(stored: str) -> Path:
    if stored.startswith(_QUOTED):
        return Path(os.fsdecode(unquote_to_bytes(stored.removeprefix(_QUOTED))))
    return Path(stored)
