"""JSON lines and CSV: every row is a document of its own, read as a stream."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.csv_records import csv_records
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.json_lines import json_lines
from rag_owl.indexer.loaders.picture import make_picture, read_picture
from rag_owl.indexer.loaders.values import Loaded, Picture, Section, content_sha256
from rag_owl.media import Limits, clean_text
from rag_owl.types import Skipped

COLUMNS = ("text", "title", "id", "image")  # what they hold is not metadata
_NO_ROWS = "it holds no rows: add one, or remove the file"
_WEB = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)


@dataclass(frozen=True, slots=True)
class Row:
    """A row as its file gives it. `number` from 0; `line` from 1, where it begins."""

    number: int
    line: int
    values: Mapping[str, Any] | None
    fault: str = ""  # why there are no values


def load_jsonl(
    name: str, file: WatchedFile, start_row: int, limits: Limits
) -> Iterator[Loaded | Skipped]:
    """Rows are counted by lines, empty and broken ones too: `name#17` is line 17."""
    seen = start_row > 0
    for line, values, fault in json_lines(file, limits.max_row_bytes, start_row + 1):
        seen = True
        yield from _documents(name, file.path, Row(line - 1, line, values, fault), limits)
    if not seen:
        yield Skipped(name, _NO_ROWS)


def load_csv(
    name: str, file: WatchedFile, start_row: int, limits: Limits
) -> Iterator[Loaded | Skipped]:
    """The first record names the columns; `name#1` is the record after it."""
    number = -1
    for number, (line, values, fault) in enumerate(csv_records(file, name, limits.max_row_bytes)):
        if number >= start_row:
            yield from _documents(name, file.path, Row(number, line, values, fault), limits)
    if number < 0:
        yield Skipped(name, _NO_ROWS)


def _documents(name: str, path: Path, row: Row, limits: Limits) -> Iterator[Loaded | Skipped]:
    place = f"{name} line {row.line}"
    if row.values is None:
        yield Skipped(place, row.fault)
        return
    try:
        values = {_column(key): value for key, value in cleaned(dict(row.values)).items()}
        text, title, key, image = (_written(values, column) for column in COLUMNS)
    except UnreadableMedia as error:
        yield Skipped(place, str(error))
        return
    except RecursionError:
        yield Skipped(place, "its values are nested too deeply: flatten them")
        return
    metadata = {key: value for key, value in values.items() if key not in COLUMNS}
    picture: Picture | None = None
    if image:
        try:
            picture = _picture(image, path, limits)
        except UnreadableMedia as error:
            yield Skipped(place, f"its image: {error}")
            if not text:
                return
    by_lines = not text and picture is None
    if by_lines:
        text = "\n".join(f"{column}: {_shown(value)}" for column, value in metadata.items())
    if not text and picture is None:
        yield Skipped(place, "the row holds neither text nor image nor any other value")
        return
    section = Section(text, 0, picture=picture, unit="line" if by_lines else "sentence")
    document = f"{name}#{key or row.number + 1}"
    yield Loaded(
        name=document,
        title=title or key or document.rpartition("/")[2],
        media_type="text/plain" if picture is None or text else picture.media_type,
        sha256=content_sha256(
            hashlib.sha256(text.encode()).hexdigest() if text else None,
            hashlib.sha256(picture.data).hexdigest() if picture else None,
        ),
        sections=lambda: iter([section]),
        metadata=metadata,
        row=row.number,
    )


def _column(name: str) -> str:
    known = name.strip().lower()
    return known if known in COLUMNS else name.strip()


def _written(values: Mapping[str, Any], column: str) -> str:
    value = values.get(column)
    if value is None:
        return ""
    if isinstance(value, dict | list):
        raise UnreadableMedia(f'its "{column}" is no text: write it as one string')
    shown = _shown(value)
    if column == "text":
        return shown if shown.strip() else ""
    return " ".join(shown.split()) if column in ("title", "id") else shown.strip()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cleaned(value: Any) -> Any:
    """JSON that any database can store: clean text, finite numbers, no nulls in objects."""
    if isinstance(value, str):
        return clean_text(value.replace("\r\n", "\n").replace("\r", "\n"))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [cleaned(member) for member in value]
    if isinstance(value, dict):
        members = ((clean_text(key), cleaned(member)) for key, member in value.items())
        return {key: member for key, member in members if member is not None}
    return value


def _picture(image: str, path: Path, limits: Limits) -> Picture:
    """From a data URL, or from a file within the folder of the file at `path`."""
    if image[:5].lower() == "data:":
        return make_picture(_data_url(image), limits)
    if _WEB.match(image):
        raise UnreadableMedia("it is on the web: download it and give its path")
    folder = path.parent.resolve()
    try:
        target = (folder / image).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise UnreadableMedia("its path cannot be followed: correct it") from error
    if not target.is_relative_to(folder):
        raise UnreadableMedia("it lies outside the folder of the file: move it into it")
    try:
        return read_picture(WatchedFile.of(target, limits), limits)
    except UnreadableMedia as error:
        raise UnreadableMedia(f"{image[:200]!r}: {error}") from error


def _data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise UnreadableMedia('the data URL has no "," before its data: write it again')
    data = unquote_to_bytes(body)
    if not head.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableMedia("the data URL is not valid base64: write it again") from error
