"""Pictures, alone or with the text that stands beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.plain import hash_and_encoding, text_blocks
from rag_owl.indexer.loaders.values import (
    PICTURE_SIDE,
    Loaded,
    Picture,
    Section,
    content_sha256,
    stem_title,
)
from rag_owl.media import SNIFF_BYTES, Limits, decode_picture, sniff


def make_picture(data: bytes, limits: Limits) -> Picture:
    """Raises `UnreadableMedia`."""
    image = decode_picture(data, limits, max_side=PICTURE_SIDE)
    return Picture(data, image, sniff(data[:SNIFF_BYTES], ""))


def read_picture(file: WatchedFile, limits: Limits) -> Picture:
    return make_picture(file.read(limits.max_picture_bytes, "the picture"), limits)


def load_picture(name: str, file: WatchedFile, limits: Limits) -> Loaded:
    """Decoded at once, so that a damaged picture is known before its document is."""
    picture = read_picture(file, limits)
    return Loaded(
        name=name,
        title=stem_title(name),
        media_type=picture.media_type,
        sha256=hashlib.sha256(picture.data).hexdigest(),
        sections=lambda: iter([Section("", 0, picture=picture)]),
        source=file.source,
    )


def load_pair(name: str, picture: Picture, text: Loaded, text_file: WatchedFile) -> Loaded:
    """The text's document with the picture in every section, under the picture's name.

    Its `source` is the text: the picture's bytes are kept with its items anyway.
    """

    def sections() -> Iterator[Section]:
        return (replace(section, picture=picture) for section in text.sections())

    digest = hashlib.sha256()
    _, encoding = hash_and_encoding(text_file)
    for block in text_blocks(text_file, encoding):
        digest.update(block.encode())
    own_title = text.title != stem_title(text.name)
    return replace(
        text,
        name=name,
        title=text.title if own_title else stem_title(name),
        sha256=content_sha256(digest.hexdigest(), hashlib.sha256(picture.data).hexdigest()),
        sections=sections,
        source_sha256=text.sha256,
    )
