"""What loaders take and give. A document's text is its sections in order; see `document_text`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from rag_owl.types import Skipped, TextBox, TextTime

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SIDE = 1024  # pixels of the longer side of `Picture.image`


@dataclass(frozen=True, slots=True)
class Input:
    """One file to be read. `companion`: the text beside a picture, the subtitles beside a film."""

    name: str  # posix path within the folder that was given; printable, one line
    path: Path
    companion: Path | None = None
    companion_name: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to be stored as it came, and to be looked at."""

    data: bytes = field(repr=False)  # encoded, as it is to be kept
    image: Image = field(repr=False)  # upright RGB, sides <= PICTURE_SIDE
    media_type: str


@dataclass(frozen=True, slots=True)
class Held:
    """What lies in no file of its own: a member of an archive. Opened as a `Path` is."""

    data: bytes = field(repr=False)

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        return io.BytesIO(self.data)


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a document's text under one heading, on one page, or with one picture.

    Within it `split` may cut anywhere the text allows; no item goes beyond it. Between a section
    and the next there is nothing but white space.
    """

    text: str
    start: int  # offset of text[0] in the document's text
    heading: str = ""  # "Title > Section"
    page: int | None = None  # from 1
    text_boxes: tuple[TextBox, ...] = ()  # offsets of the document's text
    picture: Picture | None = None
    unit: Literal["sentence", "line"] = "sentence"  # lines: tables, code, rows
    seconds: tuple[float, float] | None = None  # of a film: from, to
    text_times: tuple[TextTime, ...] = ()  # offsets of this section's text
    columns: str = ""  # the header of a table, which is in `text` only at its beginning


@dataclass(frozen=True, slots=True)
class Loaded:
    """One document, ready to be split."""

    name: str
    title: str
    media_type: str  # of what `source` holds; of the row's picture or text where there is none
    sha256: str  # the identity: of the file's bytes, or `content_sha256` for a pair and a row
    sections: Callable[[], Iterator[Section]] = field(repr=False)
    """Streams the document's text; may be called again. Raises `UnreadableMedia` when the file
    disappeared or changed since its sha256 was taken; what came before is then void."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: Path | Held | None = None
    """What to keep as the document's blob; rows: the database has it. With a `row`, a `Path` is
    there only until the next document is asked for."""
    source_sha256: str | None = None  # of its bytes, where that is not `sha256` itself
    row: int | None = None  # from 0, to go on after it: `read(source, start_row=row + 1)`


@dataclass(frozen=True, slots=True)
class SkippedRow(Skipped):
    """A row of which nothing is used; the last that comes of it, as `Loaded` is of the others."""

    row: int  # as `Loaded.row`


def content_sha256(text_sha256: str | None, picture_sha256: str | None) -> str:
    """The identity of what has text and picture: of `text:<sha256>\\npicture:<sha256>\\n`.

    `text_sha256` is of the decoded text as UTF-8 (so the same text in another encoding is the
    same document), `picture_sha256` of the picture's bytes; what is missing leaves its place empty.
    """
    canonical = f"text:{text_sha256 or ''}\npicture:{picture_sha256 or ''}\n"
    return hashlib.sha256(canonical.encode()).hexdigest()


def document_text(sections: Iterable[Section]) -> str:
    """The text that all offsets of a document count in: gaps between sections are line breaks."""
    pieces: list[str] = []
    length = 0
    for section in sections:
        pieces += ("\n" * (section.start - length), section.text)
        length = section.start + len(section.text)
    return "".join(pieces)


def stem_title(name: str) -> str:
    """A title for what has none: the file's name without folder and suffix."""
    path = PurePosixPath(name)
    return path.stem.replace("_", " ").strip() or path.name or name
