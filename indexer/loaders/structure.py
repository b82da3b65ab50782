"""Marked-up text (Markdown, HTML) as blocks, and blocks gathered into sections under headings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rag_owl.indexer.loaders.values import Section

INLINE_CHARS = 400  # a smaller table or piece of code stays with the text around it


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document's text from `start` to where the next block starts."""

    start: int
    kind: Literal["text", "heading", "lines"] = "text"
    level: int = 0  # of a heading, from 1
    title: str = ""  # of a heading, without its markup
    columns: str = ""  # the header of a table


def sections_of(document: str, blocks: Sequence[Block]) -> Iterator[Section]:
    """One section per heading with what follows it; large tables and code are their own.

    Every character of `document` from the first block on is in exactly one section. A heading
    stands in the text and, with those above it, in its section's `heading`; a heading without
    text of its own is joined to the next.
    """
    path: list[tuple[int, str]] = []
    begin, has_body = blocks[0].start if blocks else 0, False

    def section(
        end: int, unit: Literal["sentence", "line"] = "sentence", columns: str = ""
    ) -> Section:
        heading = " > ".join(title for _, title in path if title)
        return Section(document[begin:end], begin, heading, unit=unit, columns=columns)

    for i, block in enumerate(blocks):
        end = blocks[i + 1].start if i + 1 < len(blocks) else len(document)
        large = block.kind == "lines" and end - block.start > INLINE_CHARS
        # a few words before a table ("Lengths in metres:") stay with it
        introduced = large and block.start - begin < INLINE_CHARS // 2
        if has_body and (block.kind == "heading" or large) and not introduced:
            yield section(block.start)
            begin, has_body = block.start, False
        if block.kind == "heading":
            path = [(level, title) for level, title in path if level < block.level]
            path.append((block.level, block.title))
        elif large:
            yield section(end, "line", block.columns)
            begin, has_body = end, False
        else:
            has_body = True
    if document[begin:].strip():
        yield section(len(document))
