"""Markdown: the source itself is the document's text, so that offsets are the author's own."""

from __future__ import annotations

import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.cells import typed
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.plain import hash_and_encoding, load_plain, text_blocks
from rag_owl.indexer.loaders.structure import Block, sections_of
from rag_owl.indexer.loaders.values import Loaded, stem_title
from rag_owl.media import Limits

_FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(.*?)(?:^|\n)(?:---|\.\.\.)[ \t]*(?:\n|$)", re.S)
_FIELD = re.compile(r"([A-Za-z_][\w .-]*?)[ \t]*:(?:[ \t]+(.*))?$")


def load_markdown(name: str, file: WatchedFile, limits: Limits) -> Loaded:
    """Headings, tables and code become structure; front matter of `key: value` is metadata.

    The document's text begins after the front matter. A file over `limits.max_markup_bytes` is
    read as plain text, which needs no parsing as a whole.
    """
    if file.size > limits.max_markup_bytes:
        return load_plain(name, file, limits)
    sha256, encoding = hash_and_encoding(file)
    metadata, document = split_front_matter("".join(text_blocks(file, encoding)))
    if not document.strip():
        raise UnreadableMedia("it holds no text, only white space or front matter")
    blocks = parse(document)
    first_heading = next((b.title for b in blocks if b.kind == "heading" and b.title), None)
    return Loaded(
        name=name,
        title=str(metadata.pop("title", None) or first_heading or stem_title(name)),
        media_type="text/markdown",
        sha256=sha256,
        sections=lambda: sections_of(document, blocks),
        metadata=metadata,
        source=file.source,
    )


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The `key: value` lines between two `---` at the beginning, and the text after them."""
    match = _FRONT_MATTER.match(text)
    fields = match[1].split("\n") if match else []
    # A rule, some text and another rule are no front matter: it begins with a key.
    if match is None or not _FIELD.match(next((line for line in fields if line.strip()), "")):
        return {}, text
    metadata = {}
    for line in fields:
        if (found := _FIELD.match(line)) and found[2] and (value := _value(found[2].strip())):
            metadata[found[1]] = value[0]
    return metadata, text[match.end() :]


def _value(written: str, in_list: bool = False) -> tuple[Any] | None:
    if written[0] in "\"'" and written[-1] == written[0] and len(written) > 1:
        return (written[1:-1],)
    if written[0] == "[" and written[-1] == "]" and not in_list:  # lists in lists stay text
        members = [member.strip() for member in written[1:-1].split(",")]
        values = [_value(member, in_list=True) for member in members if member]
        return ([value[0] for value in values if value],)
    if written[0] in "|>{&*!" or (value := typed(written)) is None:
        return None  # more of YAML than `key: value`
    return (value,)


def parse(document: str) -> list[Block]:
    tokens = MarkdownIt("commonmark").enable("table").parse(document)
    line_starts = [0]
    while (newline := document.find("\n", line_starts[-1])) >= 0:
        line_starts.append(newline + 1)
    lines = document.split("\n")
    blocks: list[Block] = []
    for i, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        start = line_starts[token.map[0]]
        if token.type == "heading_open":
            blocks.append(Block(start, "heading", int(token.tag[1:]), _plain(tokens[i + 1])))
        elif token.type == "table_open":
            blocks.append(Block(start, "lines", columns=lines[token.map[0]].strip()))
        elif token.type in ("fence", "code_block"):
            blocks.append(Block(start, "lines"))
        else:
            blocks.append(Block(start))
    return blocks or [Block(0)]


def _plain(inline: Token) -> str:
    """The words of a heading without its markup."""
    return "".join(
        child.content if child.type in ("text", "code_inline") else " " * ("break" in child.type)
        for child in inline.children or ()
    ).strip()
