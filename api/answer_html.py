"""An answer with its evidence as one HTML file: no script, nothing from outside, all escaped."""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Sequence
from html import escape

from rag_owl.api import show
from rag_owl.errors import CorruptData, NotFound, UnreadableMedia
from rag_owl.media import decode_picture
from rag_owl.ports import BlobStore
from rag_owl.types import (
    Answer,
    Box,
    Citation,
    ImageLocation,
    Item,
    PageLocation,
    Retrieved,
    TextLocation,
)

# What a browser may do with the file, said in it and, over HTTP, in its header.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
_IN_FILE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # `sandbox`: header only
_SIDE = 640  # pixels of a picture's longer side
_VERDICTS = {
    "supported": "✓ supported",
    "partly": "~ partly supported",
    "unsupported": "✗ not supported",
    "unchecked": "? not checked",
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; }
h1, p, blockquote { white-space: pre-wrap; overflow-wrap: anywhere; }
.abstained { font-style: italic; }
section { border-top: 1px solid #8886; margin-top: 1.5rem; }
blockquote { margin: .5rem 0; padding-left: 1rem; border-left: 3px solid #8886; }
mark { background: #ffe08a; color: #000; }
figure { margin: 1rem 0; position: relative; display: inline-block; max-width: 100%; }
img { max-width: 100%; display: block; }
.box { position: absolute; border: 3px solid #d62728; box-sizing: border-box; }
.small { font-size: .85rem; opacity: .8; }
"""


def write(answer: Answer, sources: Sequence[Retrieved | None], blobs: BlobStore) -> str:
    """sources: what the model was shown, in the order of the markers; None: deleted since then.

    Pictures that are gone or damaged are said to be, and the rest stays whole.
    """
    pictures = _Pictures(blobs)
    parts = [f"<h1>{_text(answer.question)}</h1>"]
    if answer.reading:
        parts.append(f'<p class="small">Understood as: {_text(answer.reading)}</p>')
    parts += [pictures.figure(key, "The question's picture") for key in answer.pictures]
    style = ' class="abstained"' if answer.abstained else ""
    parts.append(f"<p{style}>{_text(answer.text)}</p>")
    parts += [f'<p class="small">{_text(note)}</p>' for note in answer.notes]
    if answer.dangling_markers:
        listed = ", ".join(f"[{marker}]" for marker in answer.dangling_markers)
        parts.append(f'<p class="small">Markers that point to nothing: {listed}</p>')
    cited = {(citation.start, citation.end) for citation in answer.citations}
    for statement in answer.statements:
        said = _text(answer.text[statement.start : statement.end])
        if statement.verdict == "unsupported" and (statement.start, statement.end) not in cited:
            parts.append(f'<p class="small">✗ No source bears this out: “{said}”</p>')
        if statement.contradicted_by:
            listed = ", ".join(f"[{marker}]" for marker in statement.contradicted_by)
            parts.append(f'<p class="small">✗ {listed} says otherwise than “{said}”</p>')
    if answer.citations:
        parts.append("<h2>Evidence</h2>")
    for citation in answer.citations:
        shown = sources[citation.marker - 1] if citation.marker <= len(sources) else None
        parts.append(_citation(answer, citation, shown.item if shown else None, pictures))
    given = datetime.datetime.fromtimestamp(answer.created_at, datetime.UTC)
    parts.append(
        f'<p class="small">Answered from {_text(answer.collection)} by {_text(answer.model)}, '
        f"{given:%Y-%m-%d %H:%M} UTC. Answer {_text(answer.id)}.</p>"
    )
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_IN_FILE)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(answer.question[:120])}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


class _Pictures:
    """Each picture as a data URL, made once."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._urls: dict[str, str | None] = {}

    def figure(self, key: str, caption: str, boxes: Sequence[Box] = ()) -> str:
        if key not in self._urls:
            self._urls[key] = self._url(key)
        url = self._urls[key]
        if url is None:
            return f'<p class="small">{_text(caption)}: the picture is gone.</p>'
        marks = "".join(_box(box) for box in boxes)
        return f'<figure><img src="{url}" alt="{_text(caption)}">{marks}</figure>'

    def _url(self, key: str) -> str | None:
        try:
            picture = decode_picture(self._blobs.get(key), max_side=_SIDE)
        except (NotFound, CorruptData, UnreadableMedia):
            return None
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _citation(answer: Answer, citation: Citation, item: Item | None, pictures: _Pictures) -> str:
    statement = answer.text[citation.start : citation.end]
    measured = show.measures(citation.support)
    checked = _VERDICTS[citation.support.verdict] + (f" ({measured})" if measured else "")
    parts = [
        f"<h3>[{citation.marker}] {_text(citation.title)}</h3>",
        f"<p>“{_text(statement)}”<br>"
        f'<span class="small">{checked}; '
        f"{_text(citation.document_name)}, {_text(show.where(citation.location))}</span></p>",
    ]
    if item is not None and item.text:
        parts.append(f"<blockquote>{_marked(item, citation)}</blockquote>")
    elif citation.quote:
        parts.append(f"<blockquote><mark>{_text(citation.quote)}</mark></blockquote>")
    if citation.picture:
        place = citation.location
        boxes: Sequence[Box] = ()
        if isinstance(place, PageLocation):
            boxes = place.boxes
        elif isinstance(place, ImageLocation) and place.box is not None:
            boxes = (place.box,)
        parts.append(pictures.figure(citation.picture, citation.title, boxes))
    return f"<section>{''.join(parts)}</section>"


def _marked(item: Item, citation: Citation) -> str:
    """The item's text with the cited span marked, where the citation points to one."""
    text, place, here = item.text or "", citation.location, item.location
    start: int | None = None
    end: int | None = None
    if (
        citation.quote
        and isinstance(place, TextLocation | PageLocation)
        and isinstance(here, TextLocation | PageLocation)
        and place.start is not None
        and place.end is not None
        and here.start is not None
    ):
        start, end = place.start - here.start, place.end - here.start
    if start is None or end is None or text[start:end] != citation.quote:
        start = text.find(citation.quote) if citation.quote else -1
        end = start + len(citation.quote or "")
    if start < 0:
        return _text(text)
    return f"{_text(text[:start])}<mark>{_text(text[start:end])}</mark>{_text(text[end:])}"


def _box(box: Box) -> str:
    left, top, right, bottom = (min(max(float(edge), 0.0), 1.0) * 100 for edge in box)
    return (
        f'<span class="box" style="left:{left:.2f}%;top:{top:.2f}%;'
        f'width:{max(0.0, right - left):.2f}%;height:{max(0.0, bottom - top):.2f}%"></span>'
    )


def _text(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode(), quote=True)
