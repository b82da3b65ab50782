"""PDF, page by page: text with the boxes it stands in, and the page's picture.

PDFium is not safe to use from two threads, not even on two documents: every call is made under
`_PDFIUM`, which is never held while a section is with the caller.
"""

from __future__ import annotations

import ctypes
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.pdf_text import Affine, page_text
from rag_owl.indexer.loaders.values import PICTURE_SIDE, Loaded, Picture, Section, stem_title
from rag_owl.media import Limits, clean_text
from rag_owl.types import Skipped

_PDFIUM = threading.RLock()
PAGE_SIDE = 1_000  # pixels of the longer side of a page's picture
_WEBP = {"quality": 80, "method": 0}  # slower methods take longer than all the rest of a page
_GAP = 2  # characters between the texts of two pages
_SCALE = 1_000_000  # PDFium gives device coordinates as integers: a device this fine, then divide


def load_pdf(name: str, file: WatchedFile, limits: Limits) -> tuple[Loaded, list[Skipped]]:
    """The document, and the pages of it that cannot be opened.

    Raises `UnreadableMedia` when it is protected, damaged or has too many pages.
    """
    sha256 = file.sha256()
    with file.open() as stream, _opened(stream) as document, _PDFIUM:
        pages = len(document)
        if pages > limits.max_pages:
            raise UnreadableMedia(
                f"the PDF has {pages:,} pages, more than the limit of {limits.max_pages:,}: "
                "split it"
            )
        damaged = [i for i in range(pages) if not _has_page(document, i)]
        fields = {key: _field(document, key) for key in ("Title", "Author")}
    if len(damaged) == pages:
        raise UnreadableMedia(_DAMAGED)
    metadata: dict[str, Any] = {"pages": pages}
    if fields["Author"]:
        metadata["author"] = fields["Author"]
    loaded = Loaded(
        name=name,
        title=fields["Title"] or stem_title(name),
        media_type="application/pdf",
        sha256=sha256,
        sections=lambda: _sections(file, frozenset(damaged), pages),
        metadata=metadata,
        source=file.source,
    )
    why = "the page is damaged; the other pages are used: save the PDF again"
    return loaded, [Skipped(f"{name} page {i + 1}", why) for i in damaged]


_DAMAGED = "the PDF is damaged and cannot be opened: save it again"


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[Any]:
    with _PDFIUM:
        try:
            document = pdfium.PdfDocument(stream)
        except pdfium.PdfiumError as error:
            if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
                raise UnreadableMedia(
                    "the PDF is protected by a password: save a copy without one"
                ) from error
            raise UnreadableMedia(_DAMAGED) from error
    try:
        with _PDFIUM:
            if document.get_formtype():
                document.init_forms()  # or filled-in fields stay invisible
        yield document
    finally:
        with _PDFIUM:
            document.close()


def _field(document: Any, key: str) -> str:
    try:
        return " ".join(clean_text(document.get_metadata_value(key)).split())
    except ValueError:  # half a character: the pages are worth having without
        return ""


def _has_page(document: Any, index: int) -> bool:
    try:
        width, height = document.get_page_size(index)
    except pdfium.PdfiumError:
        return False
    return bool(width > 0 and height > 0)


def _sections(file: WatchedFile, damaged: frozenset[int], pages: int) -> Iterator[Section]:
    start = 0
    with file.open() as stream, _opened(stream) as document:
        for index in range(pages):
            if index in damaged:
                continue
            try:
                with _PDFIUM:
                    section = _page_section(document, index, start)
            except pdfium.PdfiumError as error:
                raise UnreadableMedia(
                    f"page {index + 1} of the PDF cannot be read: save the PDF again"
                ) from error
            yield section
            if section.text:
                start += len(section.text) + _GAP


def _page_section(document: Any, index: int, start: int) -> Section:
    page = document[index]
    try:
        text, boxes = page_text(page, _to_fractions(page), start)
        return Section(text, start, page=index + 1, text_boxes=tuple(boxes), picture=_picture(page))
    finally:
        page.close()


def _picture(page: Any) -> Picture:
    width, height = page.get_size()
    scale = PAGE_SIDE / max(width, height)
    bitmap = page.render(scale=scale, rev_byteorder=True)
    image = bitmap.to_pil().convert("RGB")  # a copy: the bitmap's memory is PDFium's
    bitmap.close()
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", **_WEBP)
    return Picture(encoded.getvalue(), image, "image/webp")


def _to_fractions(page: Any) -> Affine:
    """Page space (any crop box, any rotation) to fractions of the upright page, top left (0, 0)."""

    def device(x: float, y: float) -> tuple[float, float]:
        across, down = ctypes.c_int(), ctypes.c_int()
        raw.FPDF_PageToDevice(page, 0, 0, _SCALE, _SCALE, 0, x, y, across, down)
        return across.value / _SCALE, down.value / _SCALE

    reach = 1_000.0  # far apart, so that rounding to whole device units does not matter
    origin, right, up = device(0, 0), device(reach, 0), device(0, reach)
    return Affine(
        origin,
        ((right[0] - origin[0]) / reach, (right[1] - origin[1]) / reach),
        ((up[0] - origin[0]) / reach, (up[1] - origin[1]) / reach),
    )
