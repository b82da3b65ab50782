"""JSON lines as a stream of objects; a broken line does not end it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.plain import text_lines
from rag_owl.media import decode_text, detect_encoding

MAX_DIGITS = 100  # of an integer; a longer one is kept as text
TOO_DEEP = "its values are nested too deeply: flatten them"
TOO_MUCH = "it needs more memory than there is: split it"
JsonLine = tuple[int, dict[str, Any] | None, str]


def json_lines(file: WatchedFile, max_bytes: int) -> Iterator[JsonLine]:
    """(line from 1, its object or None, what is wrong with it); empty lines are passed over.

    Numbers that no database holds (1e999, hundreds of digits) come as text, as they are written.
    """
    encoding = detect_encoding([file.head()])
    wide = encoding.startswith(("utf-16", "utf-32"))
    # Elsewhere each line is decoded for itself: a damaged one says nothing of the others.
    lines: Iterator[bytes | str] = (
        iter(text_lines(file, encoding, max_bytes)) if wide else _lines(file, max_bytes)
    )
    for number, line in enumerate(lines, 1):
        try:
            if len(line) > max_bytes:
                raise UnreadableMedia(f"the line is longer than {max_bytes:,} bytes: split it")
            text = _decoded(line)
            if text.strip():
                yield number, _parsed(text), ""
        except UnreadableMedia as error:
            yield number, None, str(error)


def _lines(file: WatchedFile, max_bytes: int) -> Iterator[bytes | str]:
    """Of one that is too long only the beginning, still longer than `max_bytes`."""
    with file.open() as raw:
        while line := raw.readline(max_bytes + 1):
            yield line
            while len(line) > max_bytes and not line.endswith(b"\n"):
                line = raw.readline(max_bytes + 1) or b"\n"


def _decoded(line: bytes | str) -> str:
    if isinstance(line, str):
        return line
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return decode_text(line)
    return text.replace("\0", " ")


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(
            text.strip().removeprefix("\ufeff"), parse_int=_integer, parse_float=_real
        )
    except RecursionError as error:
        raise UnreadableMedia(TOO_DEEP) from error
    except MemoryError as error:
        raise UnreadableMedia(TOO_MUCH) from error
    except json.JSONDecodeError as error:
        raise UnreadableMedia(
            f"it is not valid JSON ({error.msg}, column {error.colno}): correct the line"
        ) from error
    if not isinstance(value, dict):
        raise UnreadableMedia('it is not a JSON object: write {"text": …} on each line')
    return value


def _integer(written: str) -> int | str:
    return int(written) if len(written) <= MAX_DIGITS else written


def _real(written: str) -> float | str:
    value = float(written)
    return value if math.isfinite(value) else written
