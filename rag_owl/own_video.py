"""The video that a user asks about: kept like the pictures, and a few pictures out of it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from rag_owl.errors import InvalidQuestion, NotFound, UnreadableMedia
from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.ports import BlobStore
from rag_owl.video import open_video

if TYPE_CHECKING:
    from PIL.Image import Image

STILLS = 4
_MAX_SIDE = 768  # pixels: more than any embedder looks at


def keep_video(
    blobs: BlobStore, video: str | os.PathLike[str] | bytes, limits: Limits = DEFAULT_LIMITS
) -> str:
    """Store a video, a file's path or its bytes -> its blob key.

    Raises `InvalidQuestion` for what is no readable video, and keeps nothing of it.
    """
    name = "given as bytes"
    try:
        if isinstance(video, bytes | bytearray):
            return _kept(blobs, bytes(video), limits)
        if not isinstance(video, str | os.PathLike):
            raise InvalidQuestion(f"a video is a path or its bytes, not a {type(video).__name__}")
        name = os.fsdecode(video)
        # Regular files alone, of known length: a device or a pipe may never end.
        if not stat.S_ISREG(Path(video).stat().st_mode):
            raise UnreadableMedia("it is not a file: give a video file")
        open_video(video, limits)
        with Path(video).open("rb") as file:
            return blobs.put(file)
    except (OSError, ValueError) as error:  # the latter: NUL in a path
        reason = getattr(error, "strerror", None) or error
        raise InvalidQuestion(f"cannot read the video {name}: {reason}") from error
    except UnreadableMedia as error:
        raise InvalidQuestion(f"cannot read the video {name}: {error}") from error


def _kept(blobs: BlobStore, data: bytes, limits: Limits) -> str:
    known = blobs.exists(hashlib.sha256(data).hexdigest())
    key = blobs.put(data)
    try:
        open_video(blobs.path(key), limits)
    except UnreadableMedia:
        if not known:  # a picture of the collection may have been given as a video
            blobs.delete(key)
        raise
    return key


def stills(blobs: BlobStore, video: str, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """Pictures at the middles of four equal parts of a stored video -> their blob keys, in order.

    The same video gives the same pictures. Raises `InvalidQuestion`: it is gone or damaged.
    """
    try:
        film = open_video(blobs.path(video), limits)
        times = [film.seconds * (2 * i + 1) / (2 * STILLS) for i in range(STILLS)]
        frames = film.frames_at(times, max_side=_MAX_SIDE)
        keys = [blobs.put(_encoded(frame.image)) for frame in frames]
    except (UnreadableMedia, NotFound) as error:
        raise InvalidQuestion(f"the question's video: {error}") from error
    return tuple(dict.fromkeys(keys))


def _encoded(picture: Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
