"""One file, on the disk or out of an archive, to the loader of its kind."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.values import Loaded
from rag_owl.media import PICTURE_FORMATS, VIDEO_FORMATS, Limits, describe, sniff
from rag_owl.types import Skipped

ROWS = ("application/jsonl", "text/csv")
ARCHIVES = (
    "application/zip",
    "application/x-tar",
    "application/gzip",
    "application/x-bzip2",
    "application/x-xz",
)
HAVE_ROWS = frozenset((*ROWS, *ARCHIVES))
"""Media types whose documents have a `row` to go on from."""


def read_file(
    name: str, file: WatchedFile, start_row: int, limits: Limits
) -> Generator[Loaded | Skipped, None, int]:
    """Everything that is in the file; it returns how many rows a file of rows has, else 0.

    Raises `UnreadableMedia`.
    """
    media_type = sniff(file.head(), name)
    if media_type == "application/jsonl":
        from rag_owl.indexer.loaders.rows import load_jsonl

        return (yield from load_jsonl(name, file, start_row, limits))
    if media_type == "text/csv":
        from rag_owl.indexer.loaders.rows import load_csv

        return (yield from load_csv(name, file, start_row, limits))
    if media_type in VIDEO_FORMATS:
        from rag_owl.indexer.loaders.video import load_video

        yield from load_video(name, file, limits)
    elif media_type == "application/pdf":
        from rag_owl.indexer.loaders.pdf import load_pdf

        document, damaged_pages = load_pdf(name, file, limits)
        yield from damaged_pages
        yield document
    else:
        yield _one_document(name, file, media_type, limits)
    return 0


def _one_document(name: str, file: WatchedFile, media_type: str, limits: Limits) -> Loaded:
    load: Callable[[str, WatchedFile, Limits], Loaded]
    if media_type in PICTURE_FORMATS:
        from rag_owl.indexer.loaders.picture import load_picture as load
    elif media_type == "text/markdown":
        from rag_owl.indexer.loaders.markdown import load_markdown as load
    elif media_type == "text/html":
        from rag_owl.indexer.loaders.html import load_html as load
    elif media_type == "text/plain":
        from rag_owl.indexer.loaders.plain import load_plain as load
    else:
        raise unreadable(media_type)
    return load(name, file, limits)


def unreadable(media_type: str) -> UnreadableMedia:
    return UnreadableMedia(
        f"it is {describe(media_type)}, which cannot be read: give text, Markdown, HTML, "
        "JSON lines, CSV, PDF, a picture (JPEG, PNG, WebP, GIF, BMP, TIFF), a video, or a zip or "
        "tar archive of them"
    )


def read_pair(
    name: str, file: WatchedFile, text_name: str, text_file: WatchedFile, limits: Limits
) -> Iterator[Loaded | Skipped]:
    """One document of a picture and its text or a film and its subtitles, or of the one that can
    be read. Raises `UnreadableMedia` before anything else, when each is to be read alone."""
    text_type = sniff(text_file.head(), text_name)
    media_type = sniff(file.head(), name)
    if media_type in VIDEO_FORMATS and text_type == "text/plain":
        yield from _read_film(name, file, text_name, text_file, limits)
        return
    is_pair = media_type in PICTURE_FORMATS and text_type.startswith("text/")
    if not is_pair or text_type in ROWS:
        raise UnreadableMedia("not a picture and its text")
    from rag_owl.indexer.loaders.picture import load_pair, read_picture

    text = _one_document(text_name, text_file, text_type, limits)
    try:
        picture = read_picture(file, limits)
    except UnreadableMedia as error:
        yield Skipped(name, f"{error} (its text is used alone)")
        yield text
        return
    yield load_pair(name, picture, text, text_file)


def _read_film(
    name: str, file: WatchedFile, text_name: str, text_file: WatchedFile, limits: Limits
) -> Iterator[Loaded | Skipped]:
    from rag_owl.indexer.loaders.video import load_video

    try:
        yield from load_video(name, file, limits, text_file, text_name)
        return
    except UnreadableMedia as error:
        yield Skipped(name, f"{error} (its subtitles are used alone)")
    try:
        yield from read_file(text_name, text_file, 0, limits)
    except UnreadableMedia as error:
        yield Skipped(text_name, str(error))
