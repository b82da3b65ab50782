"""Files to documents: `scan` finds them, `read` decodes one of them into its documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.scan import scan
from rag_owl.indexer.loaders.values import (
    Input,
    Loaded,
    Picture,
    Section,
    SkippedRow,
    content_sha256,
    document_text,
)
from rag_owl.media import (
    DEFAULT_LIMITS,
    PICTURE_FORMATS,
    VIDEO_FORMATS,
    Limits,
    describe,
    sniff,
)
from rag_owl.types import Skipped

__all__ = [
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

_ROWS = ("application/jsonl", "text/csv")


def read(
    source: Input, *, start_row: int = 0, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Loaded | Skipped]:
    """The documents in one file: one, or one for each row of JSON lines and CSV.

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
    if media_type == "application/jsonl":
        from rag_owl.indexer.loaders.rows import load_jsonl

        yield from load_jsonl(source.name, file, start_row, limits)
    elif media_type == "text/csv":
        from rag_owl.indexer.loaders.rows import load_csv

        yield from load_csv(source.name, file, start_row, limits)
    elif media_type in VIDEO_FORMATS:
        from rag_owl.indexer.loaders.video import load_video

        yield from load_video(source.name, file, limits)
    elif media_type == "application/pdf":
        from rag_owl.indexer.loaders.pdf import load_pdf

        document, damaged_pages = load_pdf(source.name, file, limits)
        yield from damaged_pages
        yield document
    else:
        yield _one_document(source.name, file, media_type, limits)


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
        raise UnreadableMedia(
            f"it is {describe(media_type)}, which cannot be read: give text, Markdown, HTML, "
            "JSON lines, CSV, PDF, a picture (JPEG, PNG, WebP, GIF, BMP, TIFF) or a video"
        )
    return load(name, file, limits)


def _read_film(
    film: Input, titles: Input, titles_file: WatchedFile, limits: Limits
) -> Iterator[Loaded | Skipped]:
    """The film with the subtitles beside it; where it cannot be read, those alone."""
    from rag_owl.indexer.loaders.video import load_video

    try:
        file = WatchedFile.of(film.path, limits)
        yield from load_video(film.name, file, limits, titles_file, titles.name)
    except UnreadableMedia as error:
        yield Skipped(film.name, f"{error} (its subtitles are used alone)")
        yield from read(titles, limits=limits)


def _read_pair(source: Input, limits: Limits) -> Iterator[Loaded | Skipped]:
    """One document of both, or of the one that can be read; two, if they are not what they say."""
    from rag_owl.indexer.loaders.picture import load_pair, read_picture

    assert source.companion is not None
    text_input = Input(source.companion_name or source.companion.name, source.companion)
    picture_input = Input(source.name, source.path)
    try:
        text_file = WatchedFile.of(source.companion, limits)
        text_type = sniff(text_file.head(), text_input.name)
        picture_type = sniff(WatchedFile.of(source.path, limits).head(), source.name)
        if picture_type in VIDEO_FORMATS and text_type == "text/plain":
            yield from _read_film(source, text_input, text_file, limits)
            return
        is_pair = picture_type in PICTURE_FORMATS and text_type.startswith("text/")
        if not is_pair or text_type in _ROWS:
            raise UnreadableMedia("not a picture and its text")
        text = _one_document(text_input.name, text_file, text_type, limits)
    except UnreadableMedia:  # each is read alone, and says itself what is wrong with it
        yield from read(picture_input, limits=limits)
        yield from read(text_input, limits=limits)
        return
    try:
        picture = read_picture(WatchedFile.of(source.path, limits), limits)
    except UnreadableMedia as error:
        yield Skipped(source.name, f"{error} (its text is used alone)")
        yield text
        return
    yield load_pair(source.name, picture, text, text_file)
