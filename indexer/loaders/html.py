"""HTML as a reader sees it: no scripts, styles, navigation or form controls."""

from __future__ import annotations

import codecs
import re
from typing import Any, Literal

from lxml import etree  # type: ignore[import-untyped]

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.plain import hash_and_encoding, text_blocks
from rag_owl.indexer.loaders.structure import Block, sections_of
from rag_owl.indexer.loaders.values import Loaded, stem_title
from rag_owl.media import SNIFF_BYTES, Limits

_DROPPED_NAMES = """
script style noscript template nav svg math canvas iframe object embed audio video button
select option datalist input textarea head map dialog
"""
_DROPPED = frozenset(_DROPPED_NAMES.split())
_BLOCK_NAMES = """
address article aside blockquote body center dd details div dl dt fieldset figcaption figure
footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu ol p pre section summary
table tbody td tfoot th thead tr ul caption
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_SPACES = re.compile(r"\s+")
MAX_CELL_CHARS = 1_000  # beyond it a table is a way to lay out a page


def load_html(name: str, file: WatchedFile, limits: Limits) -> Loaded:
    """The document's text is its readable text: paragraphs apart by an empty line, a list's entries
    and a table's rows (`a | b`) on a line each. Raises `UnreadableMedia` where there is none.
    """
    if file.size > limits.max_markup_bytes:
        raise UnreadableMedia(
            f"the page has {file.size:,} bytes, more than the limit of "
            f"{limits.max_markup_bytes:,}: split it"
        )
    sha256, encoding = hash_and_encoding(file)
    source = "".join(text_blocks(file, _declared(file.head(), encoding)))
    page = _Page()
    title = page.read(source)
    document = "".join(page.pieces)
    if not document.strip():
        raise UnreadableMedia("the page has no readable text: save it as the browser shows it")
    blocks = page.blocks
    first_heading = next((b.title for b in blocks if b.kind == "heading" and b.title), None)
    return Loaded(
        name=name,
        title=title or first_heading or stem_title(name),
        media_type="text/html",
        sha256=sha256,
        sections=lambda: sections_of(document, blocks),
        source=file.source,
    )


def _declared(head: bytes, detected: str) -> str:
    """What the page declares, unless the bytes themselves say UTF-8 or UTF-16."""
    if detected != "cp1252" or not (found := _CHARSET.search(head[:SNIFF_BYTES])):
        return detected
    try:
        encoding = codecs.lookup(found[1].decode("ascii")).name
        "x".encode(encoding)  # not every codec of Python's is one of text
    except (LookupError, UnicodeDecodeError):
        return detected
    # Pages that say Latin-1 mean Windows-1252; https://encoding.spec.whatwg.org/#names-and-labels
    return detected if encoding in ("ascii", "iso8859-1", "utf-8", "utf-16") else encoding


class _Page:
    """Gathers text while it walks the tree; a walk, not recursion, for pages nested very deep."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.blocks: list[Block] = []
        self._length = 0
        self._inline: list[str] = []  # what the current paragraph has so far
        self._bullet = ""
        self._lists: list[int] = []  # -1: bullets; else the number of the last entry
        self._after_entry = False

    def read(self, source: str) -> str:
        """Fills `pieces` and `blocks`; returns the title, or ""."""
        parser = etree.HTMLParser(
            encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True, no_network=True
        )
        root = etree.fromstring(source.encode(), parser)
        if any("xcessive depth" in entry.message for entry in parser.error_log):
            raise UnreadableMedia("its elements are nested too deep: simplify the page")
        if root is None:
            return ""
        walk = etree.iterwalk(root, events=("start", "end"))
        for event, element in walk:
            if event == "end":
                self._end(element)
            elif self._start(element):
                walk.skip_subtree()
        self._paragraph()
        return _collapsed("".join(root.xpath("string((//head//title|//title)[1])"))).strip()

    def _start(self, element: Any) -> bool:
        """Returns whether what is within the element is done with."""
        tag = element.tag
        if _is_dropped(element):
            if tag == "img":
                self._inline.append(" ")
            return True
        if tag in _BLOCKS:
            self._paragraph()
        if tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            self._inline.append(f" {_collapsed(element.get('alt') or '')} ")
        elif tag in ("ul", "ol", "menu"):
            self._lists.append(-1 if tag != "ol" else 0)
        elif tag == "li":
            self._bullet = "- "
            if self._lists and self._lists[-1] >= 0:
                self._lists[-1] += 1
                self._bullet = f"{self._lists[-1]}. "
        elif tag == "pre":
            self._put("".join(element.itertext()).strip("\n"), Block(0, "lines"))
            return True
        elif tag == "table" and (rows := _rows(element)):
            for caption in element.iterfind("caption"):
                self._put(_collapsed("".join(caption.itertext())).strip(), Block(0))
            header, lines = rows
            self._put("\n".join(lines), Block(0, "lines", columns=header))
            return True
        if element.text:
            self._inline.append(_collapsed(element.text))
        return False

    def _end(self, element: Any) -> None:
        tag = element.tag
        if not _is_dropped(element):
            if tag in _HEADINGS:
                self._paragraph("heading", _HEADINGS[tag])
            elif tag in _BLOCKS:
                self._paragraph()
            if tag in ("ul", "ol", "menu") and self._lists:
                self._lists.pop()
            if tag == "li":  # an empty one leaves no bullet to what follows
                self._bullet = ""
        if element.tail:
            self._inline.append(_collapsed(element.tail))

    def _paragraph(self, kind: Literal["text", "heading"] = "text", level: int = 0) -> None:
        text = re.sub(r" *\n *", "\n", re.sub(" +", " ", "".join(self._inline))).strip()
        self._inline.clear()
        if text:
            title = text.replace("\n", " ") if kind == "heading" else ""
            entry = bool(self._bullet)
            text, self._bullet = self._bullet + text, ""
            self._put(text, Block(0, kind, level, title), entry)

    def _put(self, text: str, block: Block, entry: bool = False) -> None:
        if not text.strip():
            return
        gap = "\n" if entry and self._after_entry else "\n\n"
        if self.pieces:
            self.pieces.append(gap)
            self._length += len(gap)
        self.blocks.append(Block(self._length, block.kind, block.level, block.title, block.columns))
        self.pieces.append(text)
        self._length += len(text)
        self._after_entry = entry


def _is_dropped(element: Any) -> bool:
    tag = element.tag
    if not isinstance(tag, str) or tag in _DROPPED:
        return True
    if tag == "footer":  # of the page; an article's own belongs to it
        return not any(above.tag in ("article", "main") for above in element.iterancestors())
    return (
        element.get("hidden") is not None
        or element.get("aria-hidden") == "true"
        or element.get("role") in ("navigation", "search", "menu", "menubar")
        or _HIDDEN_STYLE.search(element.get("style") or "") is not None
    )


def _rows(table: Any) -> tuple[str, list[str]] | None:
    """The header line ("" if there is none) and all lines; None for a table that is mere layout."""
    if next(table.iterdescendants("table", "h1", "h2", "h3", "pre", "form"), None) is not None:
        return None
    header = ""
    lines: list[str] = []
    for row in table.iterdescendants("tr"):
        cells = [cell for cell in row if cell.tag in ("td", "th")]
        texts = [_cell(cell) for cell in cells]
        if any(len(text) > MAX_CELL_CHARS for text in texts):
            return None
        if not any(texts):
            continue
        line = " | ".join(texts)
        is_header = row.getparent().tag == "thead" or all(cell.tag == "th" for cell in cells)
        if is_header and not lines and len(cells) > 1:
            header = line
        lines.append(line)
    return header, lines


def _cell(cell: Any) -> str:
    words = []
    walk = etree.iterwalk(cell, events=("start", "end"))
    for event, element in walk:
        if event == "start" and element is not cell and _is_dropped(element):
            walk.skip_subtree()
        elif event == "start":
            words.append(element.text or "")
            if element.tag == "img":
                words.append(f" {element.get('alt') or ''} ")
        elif element is not cell:
            words.append(" " if element.tag in _BLOCKS or element.tag == "br" else "")
            words.append(element.tail or "")
    return _collapsed("".join(words)).strip()


def _collapsed(text: str) -> str:
    return _SPACES.sub(" ", text)
