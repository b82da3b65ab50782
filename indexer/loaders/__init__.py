"""Files to documents: `scan` finds them, `read` decodes one of them into its documents."""

from __future__ import annotations

from collections.abc import Iterator

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.dispatch import ARCHIVES, read_file, read_pair
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.scan import scan
from rag_owl.indexer.loaders.values import (
    Held,
    Input,
    Loaded,
    Picture,
    Section,
    SkippedRow,
    content_sha256,
    document_text,
)
from rag_owl.media import DEFAULT_LIMITS, Limits, sniff
from rag_owl.types import Skipped

__all__ = [
    "Held",
    "Input",
    "Loaded",
    "Picture",
    "Section",
    "SkippedRow",
    "content_sha256",
    "document_text",
    "read",
    "scan",
]


def read(
    source: Input, *, start_row: int = 0, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Loaded | Skipped]:
    """The documents in one file: one, or one for each row of JSON lines and CSV, one for each file
    in an archive.

    What cannot be used comes as `Skipped`, never as an exception; what can be used beside it comes
    all the same (the text of a damaged picture, the other rows, the other pages). A row ends with
    its `Loaded` or its `SkippedRow`, whose `row` + 1 is the `start_row` to go on from; that changes
    no name. A document's `sections` may still raise `UnreadableMedia`.
    """
    try:
        if source.companion is None:
            yield from _read(source, start_row, limits)
        else:
            yield from _read_pair(source, limits)
    except UnreadableMedia as error:
        yield Skipped(source.name, str(error))
    except RecursionError:
        yield Skipped(source.name, "it is nested too deeply to be read: simplify it")
    except MemoryError:
        yield Skipped(source.name, "it needs more memory than there is: split it")


def _read(source: Input, start_row: int, limits: Limits) -> Iterator[Loaded | Skipped]:
    file = WatchedFile.of(source.path, limits)
    media_type = sniff(file.head(), source.name)
    if media_type in ARCHIVES:
        from rag_owl.indexer.loaders.archive import load_archive

        yield from load_archive(source.name, file, media_type, start_row, limits)
    else:
        yield from read_file(source.name, file, start_row, limits)


def _read_pair(source: Input, limits: Limits) -> Iterator[Loaded | Skipped]:
    """One document of both, or of the one that can be read; two, if they are not what they say."""
    assert source.companion is not None
    text_name = source.companion_name or source.companion.name
    try:
        file = WatchedFile.of(source.path, limits)
        text_file = WatchedFile.of(source.companion, limits)
        yield from read_pair(source.name, file, text_name, text_file, limits)
    except UnreadableMedia:  # each is read alone, and says itself what is wrong with it
        yield from read(Input(source.name, source.path), limits=limits)
        yield from read(Input(text_name, source.companion), limits=limits)
