"""Films: stretches with their seconds, each with a picture and the subtitles that are read in it.

A stretch ends where the scene changes, and after `LONGEST` seconds. The film is decoded once, as a
stream: what is held is the looks of one stretch and the pictures of a few.
"""

from __future__ import annotations

import hashlib
import io
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.ahead import ahead
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.plain import hash_and_encoding, text_blocks
from rag_owl.indexer.loaders.values import PICTURE_SIDE, Loaded, Picture, Section, stem_title
from rag_owl.media import Limits
from rag_owl.subtitles import Cue, parse_subtitles
from rag_owl.types import Skipped, TextTime
from rag_owl.video import Frame, Video, open_video

_AHEAD = 32  # stretches that are decoded while others are embedded, about 1 MB each
LONGEST = 10.0  # seconds of a stretch
_JPEG = {"quality": 85}
_THUMBNAIL = (32, 18)
_CHANGE = 14.0  # of 255, mean over the thumbnail: less is a movement or noise
_UNREST = 2.5  # times as much as usual just before: a scene in motion is no change of scenes
_MEMORY = 8  # looks
_PAUSE = 1.5  # seconds without words end a sentence that has no full stop
_SENTENCE_CHARS = 300
_ENDS = tuple('.!?…。！？"”»)♪')


def load_video(
    name: str,
    file: WatchedFile,
    limits: Limits,
    subtitles: WatchedFile | None = None,
    subtitles_name: str = "",
) -> Iterator[Skipped | Loaded]:
    """The document, and before it what of the film is not read: its sound, broken subtitles.

    subtitles: a `.srt` or `.vtt` file beside the film; it comes before those in the film.
    Raises `UnreadableMedia` when nothing of the film can be decoded.
    """
    sha256 = source_sha256 = file.sha256()
    video = open_video(file.path, limits)
    # Or nothing of it can be decoded. By PyAV, which need not read the whole file for that.
    _ = next(replace(video, decoder="pyav").frames(max_side=_THUMBNAIL[0])).image
    cues: Sequence[Cue] = ()
    if subtitles is not None:
        try:
            text_sha256, cues = _beside(subtitles, subtitles_name, limits)
            sha256 = hashlib.sha256(
                f"video:{sha256}\nsubtitles:{text_sha256}\n".encode()
            ).hexdigest()
        except UnreadableMedia as error:
            yield Skipped(subtitles_name, f"{error} (the film is used without)")
    if not cues:
        cues = _inside(video)
    metadata: dict[str, Any] = {"seconds": round(video.seconds, 3)}
    if video.sound:
        metadata["sound"] = "not read"
        yield Skipped(f"{name} sound", "sound is not read; the film's pictures and subtitles are")
    yield Loaded(
        name=name,
        title=stem_title(name),
        media_type=video.media_type,
        sha256=sha256,
        sections=lambda: _sections(video, file, sentences_of(cues), limits),
        metadata=metadata,
        source=file.source,
        source_sha256=source_sha256,
    )


def _beside(file: WatchedFile, name: str, limits: Limits) -> tuple[str, list[Cue]]:
    if file.size > limits.max_markup_bytes:
        raise UnreadableMedia(f"subtitles of {file.size:,} bytes are none: remove the file")
    sha256, encoding = hash_and_encoding(file)
    text = "".join(text_blocks(file, encoding))
    return sha256, parse_subtitles(text, PurePosixPath(name).suffix.lower())


def _inside(video: Video) -> list[Cue]:
    if not video.subtitle_languages:
        return []
    try:
        return video.subtitles()
    except UnreadableMedia:
        return []  # the pictures are worth having without


# --- words ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sentence:
    """Cues that belong together: a sentence is often spread over several."""

    cues: tuple[Cue, ...]

    @property
    def middle(self) -> float:
        return (self.cues[0].start + self.cues[-1].end) / 2


def sentences_of(cues: Sequence[Cue]) -> list[Sentence]:
    """The cues in groups that end with a full stop, at a pause, or when they are long enough."""
    groups: list[list[Cue]] = []
    length = 0
    for cue in cues:
        last = groups[-1][-1] if groups else None
        if (
            last is None
            or last.text.endswith(_ENDS)
            or cue.start - last.end > _PAUSE
            or length + len(cue.text) > _SENTENCE_CHARS
        ):
            groups.append([])
            length = 0
        groups[-1].append(cue)
        length += len(cue.text)
    return [Sentence(tuple(group)) for group in groups]


def _written(sentences: Sequence[Sentence]) -> tuple[str, tuple[TextTime, ...]]:
    """Their text, a line for each, and when each cue of it is said."""
    text = ""
    times = []
    for sentence in sentences:
        for at, cue in enumerate(sentence.cues):
            if text:
                text += " " if at else "\n"
            # Line breaks within a cue are for the screen's width; two speakers have lines begin so.
            said = cue.text.replace("\n-", "\0-").replace("\n", " ").replace("\0", "\n")
            times.append(TextTime(len(text), len(text) + len(said), cue.start, cue.end))
            text += said
    return text, tuple(times)


# --- stretches ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stretch:
    begin: float  # seconds
    end: float | None  # where the next begins; None: it is the last
    picture: Picture


def _sections(
    video: Video, file: WatchedFile, sentences: list[Sentence], limits: Limits
) -> Iterator[Section]:
    stretches = ahead(_stretches(video, limits.video_every), _AHEAD)
    with file.open(), closing(stretches):  # the file: to notice when it changes meanwhile
        waiting = sorted(sentences, key=lambda sentence: -sentence.middle)
        start = 0  # of the next section's text
        for stretch in stretches:
            begin, end = stretch.begin, stretch.end
            said = []
            while waiting and (end is None or waiting[-1].middle < end):
                said.append(waiting.pop())
            text, times = _written(said)
            until = max(video.seconds, begin) if end is None else end
            yield Section(
                text, start, seconds=(begin, until), text_times=times, picture=stretch.picture
            )
            start += len(text) + 1 if text else 0


def _stretch(looks: list[Frame], end: float | None) -> _Stretch:
    """Its picture is from its middle: at the ends it may fade."""
    image = looks[len(looks) // 2].image
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", **_JPEG)
    return _Stretch(looks[0].seconds, end, Picture(encoded.getvalue(), image, "image/jpeg"))


def _stretches(video: Video, every: float) -> Iterator[_Stretch]:
    looks: list[Frame] = []
    before: NDArray[np.float32] | None = None
    changes: deque[float] = deque(maxlen=_MEMORY)
    for look in video.frames(every, max_side=PICTURE_SIDE):
        seen = np.asarray(look.thumbnail(_THUMBNAIL), dtype=np.float32)
        change = 0.0 if before is None else float(np.abs(seen - before).mean())
        before = seen
        usual = statistics.median(changes) if changes else 0.0
        changes.append(change)
        other_scene = change > max(_CHANGE, _UNREST * usual)
        if looks and (other_scene or look.seconds - looks[0].seconds >= LONGEST):
            yield _stretch(looks, look.seconds)
            looks = []
        looks.append(look)
    if looks:
        yield _stretch(looks, None)
