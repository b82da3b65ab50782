"""Pictures and films that come as data URLs (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from rag_owl.api.errors import Problem

_HEAD = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,", re.I)


def read(url: str, field: str) -> bytes:
    """The bytes. What they are is told from themselves later. Raises `Problem` 422."""
    head = _HEAD.match(url)
    if head is None:
        raise Problem(422, f"{field}: give a data URL such as data:image/png;base64,…", field)
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (ValueError, binascii.Error):
        raise Problem(422, f"{field}: this is not base64", field) from None


def read_pictures(urls: Sequence[str], most: int, field: str = "images") -> list[bytes]:
    """Raises `Problem` 422 that names which of them, also for more than `most`."""
    if len(urls) > most:
        raise Problem(422, f"{field}: {len(urls):,} pictures, at most {most} at once", field)
    return [read(url, f"{field}.{at}") for at, url in enumerate(urls)]
