"""CSV as a stream of records; a broken record does not end it, nor swallow those after it."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.cells import typed
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.plain import hash_and_encoding, text_lines

CsvRecord = tuple[int, dict[str, Any] | None, str]
_DELIMITERS = ",;\t|"
_SAMPLE_RECORDS = 20
TEXT_COLUMNS = frozenset(("text", "image", "title", "id"))  # what is written there stays text


def csv_records(file: WatchedFile, name: str, max_bytes: int) -> Iterator[CsvRecord]:
    """(line from 1 where it begins, its cells by column or None, what is wrong with it).

    Delimiter: of `, ; tab |` the one that cuts the first records most evenly. Cells outside of
    `TEXT_COLUMNS` are numbers and booleans where they look so; empty cells and lines are absent.
    """
    csv.field_size_limit(2**31 - 1)  # of the process; `_Lines` has the limit that counts here
    _, encoding = hash_and_encoding(file)
    lines = _Lines(text_lines(file, encoding, max_bytes), max_bytes)
    delimiter = _delimiter(lines.peek(200, 2**20), name)
    columns: list[str] | None = None
    for line, cells, fault in _records(lines, delimiter):
        if cells is None:
            yield line, None, fault
        elif not any(cell.strip() for cell in cells):
            continue
        elif columns is None:
            columns = _columns(cells)
        elif len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
            fault = f"it has {len(cells)} cells where the header has {len(columns)}: put quotes"
            yield line, None, f"{fault} around cells that hold {_NAMES[delimiter]}"
        else:
            yield line, _values(columns, cells), ""


_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


def _columns(cells: list[str]) -> list[str]:
    columns: dict[str, None] = {}  # a set in order: there may be a million of them
    for i, cell in enumerate(cells, 1):
        name = cell.strip() or f"column {i}"
        while name in columns:
            name += f" {i}"
        columns[name] = None
    return list(columns)


def _values(columns: list[str], cells: list[str]) -> dict[str, Any]:
    return {
        column: cell if column.lower() in TEXT_COLUMNS else typed(cell)
        for column, cell in zip(columns, cells, strict=False)
        if cell.strip()
    }


class _TooLong(Exception):
    pass


class _NeverClosed(Exception):
    pass


_PATIENCE = 1_024  # characters that a record of several lines may have in any case
_OPEN_QUOTE = "a quotation mark in this record is never closed: close or remove it"


class _Lines:
    """Feeds a `csv.reader`, and can take back the lines of a record that was none."""

    def __init__(self, source: Iterator[str], max_bytes: int) -> None:
        self.source = source
        self.max_chars = max_bytes
        # How far the end of a quotation may still be looked for: what is read in vain is taken off,
        # what was of use is added. So a file full of quotes that never end costs linear time.
        self.credit = 2 * max_bytes
        self.waiting: deque[str] = deque()
        self.record: list[str] = []  # lines handed out since the last record was complete
        self.size = 0  # of them, characters
        self.ended_inside = False
        self.number = 0  # of the last line that belongs to a complete record

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.check()
        line = self.waiting.popleft() if self.waiting else next(self.source, None)
        if line is None:
            self.ended_inside = bool(self.record)
            raise StopIteration
        self.record.append(line)
        self.size += len(line)
        return line

    def check(self) -> None:
        if self.size > self.max_chars:
            raise _TooLong
        if self.record and self.size > max(self.credit, _PATIENCE):
            raise _NeverClosed

    def complete(self, lines: int) -> None:
        """The first `lines` of what was handed out are done with; the others come again."""
        self.number += lines
        again = self.record[lines:]
        self.waiting.extendleft(reversed(again))
        self.credit += self.size - 2 * sum(map(len, again))
        self.record, self.size = [], 0

    def peek(self, count: int, chars: int) -> list[str]:
        """The first lines, as many as both limits allow, but one in any case."""
        while len(self.waiting) < count and chars > 0:
            line = next(self.source, None)
            if line is None:
                break
            self.waiting.append(line)
            chars -= len(line)
        return list(self.waiting)


def _records(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str] | None, str]]:
    while True:
        reader = csv.reader(lines, delimiter=delimiter)
        fault = ""
        cells: list[str] | None = None
        try:
            cells = next(reader, None)
            if cells is None and not lines.record:
                return
            if lines.size > lines.max_chars:
                raise _TooLong
            if lines.ended_inside:
                fault = _OPEN_QUOTE
        except _NeverClosed:
            fault = _OPEN_QUOTE
        except _TooLong:
            fault = f"the record is longer than {lines.max_chars:,} characters: close its quotes"
        except csv.Error as error:
            fault = f"it is not valid CSV ({error}): correct it"
        begins = lines.number + 1
        lines.ended_inside = False
        lines.complete(1 if fault else len(lines.record))
        yield begins, None if fault else cells, fault


def _delimiter(sample: list[str], name: str) -> str:
    if not sample:
        raise UnreadableMedia("it holds no rows")
    best, best_score = ("\t" if PurePosixPath(name).suffix.lower() == ".tsv" else ","), 0.0
    for delimiter in _DELIMITERS:
        records = []
        for cells in csv.reader(sample, delimiter=delimiter):
            if cells:
                records.append(len(cells))
            if len(records) == _SAMPLE_RECORDS:
                break
        if not records or records[0] < 2:
            continue
        # The share of records as wide as the header; of two that are even, the wider.
        score = sum(width == records[0] for width in records) / len(records) + records[0] * 1e-3
        if score > best_score:
            best, best_score = delimiter, score
    return best
