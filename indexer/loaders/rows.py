"""JSON lines and CSV: every row is a document of its own, read as a stream."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.csv_records import csv_records
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.json_lines import TOO_DEEP, TOO_MUCH, json_lines
from rag_owl.indexer.loaders.names import NameSet
from rag_owl.indexer.loaders.picture import make_picture, read_picture
from rag_owl.indexer.loaders.values import (
    Loaded,
    Picture,
    Section,
    SkippedRow,
    content_sha256,
)
from rag_owl.media import Limits, clean_text
from rag_owl.types import Skipped

COLUMNS = ("text", "title", "id", "image")  # what they hold is not metadata
MAX_NAME_BYTES = 1_000  # of an id, a title: PostgreSQL indexes no more than some 2,700
MAX_NESTING = 100  # of lists and objects in a value; SQLite and PostgreSQL bear more
_NO_ROWS = "it holds no rows: add one, or remove the file"
_WEB = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)


Rows = Generator[Loaded | Skipped, None, int]
"""The documents of the rows; it returns how many rows there are, those passed over included."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as its file gives it. `number` from 0; `line` from 1, where it begins."""

    number: int
    line: int
    values: Mapping[str, Any] | None
    fault: str = ""  # why there are no values


def load_jsonl(name: str, file: WatchedFile, start_row: int, limits: Limits) -> Rows:
    """Rows are counted by lines, empty and broken ones too: `name#17` is line 17."""
    rows = (
        Row(line - 1, line, values, fault)
        for line, values, fault in json_lines(file, limits.max_row_bytes)
    )
    return _load(name, file.path, rows, start_row, limits)


def load_csv(name: str, file: WatchedFile, start_row: int, limits: Limits) -> Rows:
    """The first record names the columns; `name#1` is the record after it."""
    records = csv_records(file, name, limits.max_row_bytes)
    rows = (
        Row(number, line, values, fault) for number, (line, values, fault) in enumerate(records)
    )
    return _load(name, file.path, rows, start_row, limits)


def _load(name: str, path: Path, rows: Iterator[Row], start_row: int, limits: Limits) -> Rows:
    """One `Loaded` or one `SkippedRow` for each row, as the last that comes of it.

    The rows before `start_row` are read too: a row's name depends on the ids before it.
    """
    labels = NameSet()
    row = None
    for row in rows:
        label = _label(row, labels)
        if row.number < start_row:
            continue
        place = f"{name} line {row.line}"
        try:
            document, fault = _document(name, path, row, label, limits)
        except UnreadableMedia as error:
            yield SkippedRow(place, str(error), row.number)
            continue
        except MemoryError:
            yield SkippedRow(place, TOO_MUCH, row.number)
            continue
        if fault:
            yield Skipped(place, fault)
        yield document
    if row is None:
        yield Skipped(name, _NO_ROWS)
        return 0
    return row.number + 1


def _label(row: Row, labels: NameSet) -> str:
    """What follows `file#`: the row's id or else its number from 1, which also sets apart the
    later ones of an id that several rows have: `x`, `x~17`."""
    if row.values is None:
        return ""
    number = str(row.number + 1)
    try:
        named = {key: value for key, value in row.values.items() if _column(key) == "id"}
        label = _written(_by_column(named), "id") or number
    except UnreadableMedia:
        return ""  # the row will be skipped
    while not labels.add(label):
        label += f"~{number}"
    return label


def _document(name: str, path: Path, row: Row, label: str, limits: Limits) -> tuple[Loaded, str]:
    """With what is wrong with its picture, if it is used without. Raises `UnreadableMedia`."""
    if row.values is None:
        raise UnreadableMedia(row.fault)
    values = _by_column(row.values)
    text, title, key, image = (_written(values, column) for column in COLUMNS)
    metadata = {key: value for key, value in values.items() if key not in COLUMNS}
    picture: Picture | None = None
    fault = ""
    if image:
        try:
            picture = _picture(image, path, limits)
        except UnreadableMedia as error:
            fault = f"its image: {error}"
            if not text:
                raise UnreadableMedia(fault) from error
    by_lines = not text and picture is None
    if by_lines:
        text = "\n".join(f"{column}: {_shown(value)}" for column, value in metadata.items())
    if not text and picture is None:
        raise UnreadableMedia("the row holds neither text nor image nor any other value")
    section = Section(text, 0, picture=picture, unit="line" if by_lines else "sentence")
    document = f"{name}#{label}"
    loaded = Loaded(
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
    return loaded, fault


def _by_column(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_column(key): value for key, value in cleaned(dict(values)).items()}


def _column(name: str) -> str:
    name = clean_text(name).strip()
    known = name.lower()
    return known if known in COLUMNS else name


def _written(values: Mapping[str, Any], column: str) -> str:
    value = values.get(column)
    if value is None:
        return ""
    if isinstance(value, dict | list):
        raise UnreadableMedia(f'its "{column}" is no text: write it as one string')
    shown = _shown(value)
    if column == "text":
        return shown if shown.strip() else ""
    if column == "image":
        return shown.strip()
    shown = " ".join(shown.split())
    if (size := len(shown.encode())) > MAX_NAME_BYTES:
        raise UnreadableMedia(
            f'its "{column}" has {size:,} bytes, more than the limit of {MAX_NAME_BYTES:,}: '
            "shorten it"
        )
    return shown


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cleaned(value: Any, depth: int = 0) -> Any:
    """JSON that any database can store: clean text, finite numbers, no nulls in objects.

    Raises `UnreadableMedia` where lists and objects lie deeper than `MAX_NESTING` in each other.
    """
    if isinstance(value, str):
        return clean_text(value.replace("\r\n", "\n").replace("\r", "\n"))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if depth > MAX_NESTING:
        raise UnreadableMedia(TOO_DEEP)
    if isinstance(value, list):
        return [cleaned(member, depth + 1) for member in value]
    if isinstance(value, dict):
        members = ((clean_text(key), cleaned(each, depth + 1)) for key, each in value.items())
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
