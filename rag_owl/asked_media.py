"""What a question brings with it: its pictures and its video, checked and stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import Engine

from rag_owl import db, media, own_video
from rag_owl.errors import BlobsGone, InvalidQuestion, UnreadableMedia
from rag_owl.indexer.loaders.apart_pool import Pool
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.ports import BlobStore
from rag_owl.store import condemned

PictureInput: TypeAlias = str | os.PathLike[str] | bytes
"""A picture or video of a question: a file's path, or its encoded bytes."""


@dataclass(frozen=True)
class Intake:
    """Stores pictures and videos of strangers; pictures are decoded apart before."""

    engine: Engine
    blobs: BlobStore
    decoders: Pool
    limits: media.Limits

    def pictures(self, images: Sequence[PictureInput]) -> tuple[str, ...]:
        """-> their blob keys. Raises `InvalidQuestion`; its `field` says which picture it is."""
        if isinstance(images, str | bytes | bytearray | os.PathLike) or not isinstance(
            images, Iterable
        ):
            raise InvalidQuestion("images is a list; give [picture], not a picture alone")
        pictures = []
        for at, image in enumerate(images):
            try:
                pictures.append(self._picture(image))
            except InvalidQuestion as error:
                error.field = f"images.{at}"
                raise
        return tuple(pictures)

    def video(self, video: PictureInput) -> str:
        """-> its blob key. Raises `InvalidQuestion`."""
        try:
            return self._kept(partial(own_video.keep_video, self.blobs, video, self.limits))
        except InvalidQuestion as error:
            error.field = "video"
            raise

    def _picture(self, image: PictureInput) -> str:
        name = "given as bytes"
        try:
            if isinstance(image, bytes | bytearray):
                data = bytes(image)
            elif isinstance(image, str | os.PathLike):
                name = os.fsdecode(image)
                # Regular files alone, of known length: a device or a pipe may never end.
                data = WatchedFile.of(Path(name), self.limits).read(
                    self.limits.max_picture_bytes, "the picture"
                )
            else:
                raise InvalidQuestion(
                    f"a picture is a path or its bytes, not a {type(image).__name__}"
                )
            self.decoders.check_picture(data, self.limits)
        except UnreadableMedia as error:
            raise InvalidQuestion(f"cannot read the picture {name}: {error}") from error
        return self._kept(lambda: self.blobs.put(data))

    def _kept(self, put: Callable[[], str]) -> str:
        """Store what a question needs, also while a deletion collects the same bytes."""
        while True:
            key = put()
            with db.reading(self.engine) as session:
                if not condemned.is_condemned(session, key):
                    return key
            try:
                with db.writing(self.engine) as session:
                    condemned.keep(session, [key])
                return key
            except BlobsGone as gone:
                with db.writing(self.engine) as session:
                    condemned.forgive(session, gone.keys)
