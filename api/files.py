"""Stored bytes over HTTP: ranges, ETags, and nothing of a stranger's that a browser would run."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import Request
from starlette.responses import FileResponse, Response

from rag_owl.api.errors import Problem
from rag_owl.media import PICTURE_FORMATS, SNIFF_BYTES, VIDEO_FORMATS, sniff

# What a browser shows without running anything of it; all else is downloaded.
_SHOWN = {*PICTURE_FORMATS, *VIDEO_FORMATS, "application/pdf", "text/plain"}
_CAGE = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
# A browser's own PDF viewer does not start in a sandbox; scripts of the file have no origin there.
_PDF_CAGE = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_DAY = "private, max-age=86400"


def media_type_of(path: Path, name: str = "") -> str:
    """By content, never by what somebody said it is."""
    with path.open("rb") as file:
        return sniff(file.read(SNIFF_BYTES), name)


def send(
    request: Request, path: Path, etag: str, media_type: str, name: str | None = None
) -> Response:
    """The file, or the range of it that is asked for, or that the client has it already.

    etag: what names these very bytes. name: for saving it.
    Raises `Problem` 416 for a range that the file does not have.
    """
    tag = f'"{etag}"'
    shown = media_type in _SHOWN
    headers = {
        "ETag": tag,
        "Cache-Control": _DAY,
        "Content-Security-Policy": _PDF_CAGE if media_type == "application/pdf" else _CAGE,
    }
    if _matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    _keep_one_range(request, path.stat().st_size)
    if media_type.startswith("text/"):
        media_type += "; charset=utf-8" if media_type == "text/plain" else ""
    return FileResponse(
        path,
        headers=headers,
        media_type=media_type if shown else "application/octet-stream",
        filename=name or etag,
        content_disposition_type="inline" if shown else "attachment",
    )


def _matches(given: str | None, tag: str) -> bool:
    if given is None:
        return False
    listed = [each.strip().removeprefix("W/") for each in given.split(",")]
    return tag in listed or "*" in listed


def _keep_one_range(request: Request, size: int) -> None:
    """A range that is none, and several at once, are as no range (RFC 9110 §14.2)."""
    given = request.headers.get("range")
    if given is None:
        return
    found = _RANGE.fullmatch(given.strip().lower())
    first, last = found.groups() if found else ("", "")
    usable = bool(first or last) and not (first and last and int(last) < int(first))
    if not usable:
        request.scope["headers"] = [
            pair for pair in request.scope["headers"] if pair[0] != b"range"
        ]
    elif (first and int(first) >= size) or (not first and int(last) == 0):
        raise Problem(
            416,
            f"the file has {size:,} bytes",
            "Range",
            {"Content-Range": f"bytes */{size}"},
        )
