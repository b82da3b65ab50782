"""Plain text of any size, as a stream of sections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.graphemes import cut
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.values import Loaded, Section, stem_title
from rag_owl.media import Limits, clean_text, detect_encoding, text_decoder

SECTION_CHARS = 65_536
TITLE_CHARS = 100
# Text whose lines stand for themselves: sentences are no use to cut it at.
_LINE_SUFFIXES = """
.c .cc .cfg .conf .cpp .cs .css .go .h .hpp .ini .java .js .json .jsx .kt .log .lua .php .pl
.properties .ps1 .py .r .rb .rs .scala .sh .sql .srt .swift .toml .ts .tsx .vtt .xml .yaml
.yml
"""
LINE_SUFFIXES = frozenset(_LINE_SUFFIXES.split())


def load_plain(name: str, file: WatchedFile, limits: Limits) -> Loaded:
    """Any text, read twice in blocks: once for its encoding and sha256, once for its sections."""
    sha256, encoding = hash_and_encoding(file)
    suffix = PurePosixPath(name).suffix.lower()
    unit: Literal["sentence", "line"] = "line" if suffix in LINE_SUFFIXES else "sentence"
    first = next((s.text for s in text_sections(file, encoding, unit) if s.text.strip()), None)
    if first is None:
        raise UnreadableMedia("it holds no text, only white space")
    return Loaded(
        name=name,
        title=(first_line_title(first) if unit == "sentence" else None) or stem_title(name),
        media_type="text/plain",
        sha256=sha256,
        sections=lambda: text_sections(file, encoding, unit),
        source=file.source,
    )


def hash_and_encoding(file: WatchedFile) -> tuple[str, str]:
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for block in file.blocks():
            digest.update(block)
            yield block

    blocks = hashed()
    encoding = detect_encoding(blocks)
    for _ in blocks:  # a byte-order mark is enough to tell the encoding; the hash needs the rest
        pass
    return digest.hexdigest(), encoding


def text_blocks(file: WatchedFile, encoding: str) -> Iterator[str]:
    """The decoded text, as `rag_owl.media.decode_text` gives it, in pieces."""
    decoder = text_decoder(encoding)
    for block in file.blocks():
        yield clean_text(decoder.decode(block))
    yield clean_text(decoder.decode(b"", final=True))


def text_lines(file: WatchedFile, encoding: str, max_chars: int) -> Iterator[str]:
    """Lines with their "\\n". Of one longer than `max_chars` only the first `max_chars + 1`."""
    rest, too_long = "", False  # too_long: the line's beginning was given, its end is still to come
    for block in text_blocks(file, encoding):
        *whole, rest = (rest + block).split("\n")
        for line in whole:
            if not too_long:
                yield f"{line}\n"[: max_chars + 1]
            too_long = False
        if len(rest) > max_chars:
            if not too_long:
                yield rest[: max_chars + 1]
            rest, too_long = "", True
    if rest and not too_long:
        yield rest


def text_sections(
    file: WatchedFile, encoding: str, unit: Literal["sentence", "line"] = "sentence"
) -> Iterator[Section]:
    """Sections of at most `SECTION_CHARS`, ending at a paragraph, a line, or a word."""
    start, waiting = 0, ""
    for block in text_blocks(file, encoding):
        waiting += block
        position = 0
        while len(waiting) - position > SECTION_CHARS + 1024:  # room to see whole graphemes
            end = cut(waiting, position, SECTION_CHARS)
            yield Section(waiting[position:end], start + position, unit=unit)
            position = end
        start, waiting = start + position, waiting[position:]
    if waiting:
        yield Section(waiting, start, unit=unit)


def first_line_title(text: str) -> str | None:
    """The first line, where it stands alone before an empty one as a title does."""
    lines = text.lstrip().split("\n", 2)
    title = lines[0].strip()
    alone = len(lines) > 2 and not lines[1].strip() and bool(lines[2].strip())
    return (
        title if alone and len(title) <= TITLE_CHARS and title[-1] not in ".,;:!?。！？" else None
    )
