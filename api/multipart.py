"""Multipart uploads straight to the disk: of a film of 4 GB no more than a block is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from rag_owl.api.errors import Problem
from rag_owl.indexer.loaders.rows import MAX_NESTING
from rag_owl.uploads import Upload

_BLOCK = 1 << 20
_MOST_METADATA = 100_000  # bytes


class Form:
    """Takes a request's parts one after the other: `files` to the disk, `metadata` as JSON."""

    def __init__(self, upload: Upload, most_files: int) -> None:
        self._upload = upload
        self._most_files = most_files
        self._headers: dict[str, str] = {}
        self._header_name = b""
        self._header_value = b""
        self._field = ""
        self._is_file = False
        self._pieces: list[bytes] = []
        self._held = 0
        self._metadata: bytes | None = None
        self.complete = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    @property
    def metadata(self) -> dict[str, Any]:
        """Raises `Problem` for what is no JSON object."""
        if not self._metadata:
            return {}
        try:
            found = json.loads(self._metadata)
        except (ValueError, RecursionError) as error:
            raise Problem(422, f"metadata: not JSON: {error}", "metadata") from None
        check_metadata(found)
        return dict(found)

    def _begin(self) -> None:
        self._headers, self._header_name, self._header_value = {}, b"", b""

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name = self._header_name.decode("latin-1").lower()
        self._headers[name] = self._header_value.decode("latin-1")
        self._header_name, self._header_value = b"", b""

    def _on_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition", ""))
        self._field = _decoded(options.get(b"name", b""))
        name = options.get(b"filename")
        self._is_file = name is not None
        if kind != b"form-data" or self._field not in ("files", "metadata"):
            raise Problem(
                422,
                f"{self._field[:100] or 'body'}: unknown part; send `files` and `metadata`",
                self._field[:100] or "body",
            )
        if self._field == "files" and not self._is_file:
            raise Problem(422, "files: a part without a file name; send files", "files")
        if self._field == "metadata":
            if self._metadata is not None:
                raise Problem(422, "metadata: given twice", "metadata")
            self._metadata, self._is_file = b"", False
            return
        if len(self._upload.received) >= self._most_files:
            raise Problem(
                413, f"files: more than {self._most_files:,} at once; send several uploads", "files"
            )
        self._upload.begin(_decoded(name or b""))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._metadata = (self._metadata or b"") + data[start:end]
            if len(self._metadata) > _MOST_METADATA:
                raise Problem(422, f"metadata: more than {_MOST_METADATA:,} bytes", "metadata")
            return
        self._pieces.append(data[start:end])
        self._held += end - start
        if self._held >= _BLOCK:
            self._write()

    def _write(self) -> None:
        if self._pieces:
            self._upload.write(b"".join(self._pieces))
            self._pieces, self._held = [], 0

    def _end(self) -> None:
        if self._is_file:
            self._write()
            self._upload.end()

    def _finish(self) -> None:
        self.complete = True


async def receive(request: Request, upload: Upload, most_files: int) -> dict[str, Any]:
    """The request's files into the upload; returns the metadata given with them.

    Raises `Problem` for a wrong content type, a body that is no multipart form or ends half-way,
    and for no file at all.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem(
            415, "send multipart/form-data with one or many parts `files`", "Content-Type"
        )
    form = Form(upload, most_files)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        async for block in request.stream():
            if block:  # writing, hashing and fsync are the disk's time, not the event loop's
                await run_in_threadpool(parser.write, block)
        await run_in_threadpool(parser.finalize)
    except FormParserError as error:
        raise Problem(400, f"the body is no multipart form: {error}", "body") from error
    except ClientDisconnect:
        raise Problem(400, "the upload ended half-way; send it again", "body") from None
    if not form.complete:
        raise Problem(400, "the upload ended half-way; send it again", "body")
    if not upload.received:
        raise Problem(422, "files: give at least one file", "files")
    return form.metadata


def check_metadata(given: object) -> None:
    """Raises `Problem` 422 for what cannot be a document's metadata."""
    if not isinstance(given, dict):
        raise Problem(422, "metadata: give an object", "metadata")
    try:
        written = json.dumps(given, allow_nan=False)
    except (ValueError, RecursionError):
        raise Problem(422, "metadata: this cannot be kept as JSON", "metadata") from None
    if _depth(given) > MAX_NESTING:
        raise Problem(
            422, f"metadata: lists and objects lie deeper than {MAX_NESTING} in it", "metadata"
        )
    if "\\u0000" in written or any("\ud800" <= char <= "\udfff" for char in _texts(given)):
        raise Problem(422, "metadata: it holds a NUL or a lone surrogate; leave it out", "metadata")


def _depth(value: Any) -> int:
    """How deep lists and objects lie in each other; what `json.dumps` took, this can walk."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [m for each in level for m in (each.values() if isinstance(each, dict) else each)]
    return depth


def _texts(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(key + _texts(each) for key, each in value.items())
    if isinstance(value, list):
        return "".join(map(_texts, value))
    return value if isinstance(value, str) else ""


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "replace")
