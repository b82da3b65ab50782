"""Films as streams of upright RGB pictures with their seconds, and the subtitles in them.

Two decoders behind one small port: PyAV, or decord where that is chosen, with PyAV for every file
(or rest of a file) that decord does not decode. PyAV always looks first: sizes and length are held
against `Limits` before a frame is decoded, and only it knows rotations and subtitles.

Why PyAV (25 minutes of 640 x 360 H.264, a frame a second): 5.5 s of CPU and 59 MiB, level;
decord 0.6 takes 14.9 s and grows all the while, to 354 MiB. At 1080p both take the same time.

Nothing here keeps more than a few frames: a film of two hours needs no more memory than a minute.
Times are seconds from the film's beginning, as a player shows them.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rag_owl.errors import UnreadableMedia
from rag_owl.media import DEFAULT_LIMITS, SNIFF_BYTES, VIDEO_FORMATS, Limits, describe, sniff
from rag_owl.subtitles import Cue, read_track, text_tracks
from rag_owl.video_decoding import (
    DecordFailed,
    Frame,
    Times,
    by_decord,
    by_pyav,
    check_pixels,
    check_seconds,
    decord_module,
    opened,
)

__all__ = ["Decoder", "Frame", "Video", "fit", "open_video"]

log = logging.getLogger(__name__)

Decoder = Literal["auto", "decord", "pyav"]
_INDEXED = ("video/mp4", "video/quicktime", "video/webm", "video/x-matroska", "video/x-msvideo")


@dataclass(frozen=True, slots=True)
class Video:
    """A file that holds moving pictures, as its header describes it. Holds no open file.

    width and height are those of the upright picture with square pixels.
    """

    path: Path
    media_type: str
    seconds: float
    frame_rate: float  # average; 0 where the file does not say
    width: int
    height: int
    codec: str
    sound: bool
    subtitle_languages: tuple[str, ...]  # of each text track, "" where it does not say
    rotation: int = 0  # degrees counterclockwise that bring a frame upright
    start: float = 0.0  # the time stamp of the beginning
    limits: Limits = DEFAULT_LIMITS
    decoder: Decoder = "auto"

    def frames(
        self,
        every: float = 1.0,
        *,
        start: float = 0.0,
        end: float | None = None,
        max_side: int | None = None,
    ) -> Iterator[Frame]:
        """What is seen at `start`, `start + every`, …: each frame once, in order, as a stream.

        max_side: pixels of the longer side; None: as large as in the film. A frame that stays
        longer than `every` comes once. Raises `UnreadableMedia` when nothing can be decoded.
        """
        if not every > 0:
            raise ValueError("every is a number of seconds above 0")
        last = None
        for frame in self._shown(_ticks(start, every, end), max_side):
            if frame.seconds != last:
                yield frame
            last = frame.seconds

    def frames_at(
        self, seconds: Sequence[float], *, max_side: int | None = None
    ) -> Iterator[Frame]:
        """What is seen at each of these times: as many frames, in the same order.

        seconds: ascending. Beyond the last frame, that one. Raises `UnreadableMedia`.
        """
        if any(b < a for a, b in itertools.pairwise(seconds)):
            raise ValueError("seconds must be ascending")
        yield from self._shown(iter(seconds), max_side, all_times=True)

    def subtitles(self, track: int = 0) -> list[Cue]:
        """The cues of a text track, in order of their beginnings. Raises `UnreadableMedia`."""
        with opened(self.path, self.media_type) as container:
            tracks = text_tracks(container)
            if track >= len(tracks):
                return []
            return read_track(container, tracks[track], self.start)

    def _shown(
        self, times: Iterator[float], max_side: int | None, all_times: bool = False
    ) -> Iterator[Frame]:
        """For each time the frame that is seen then, until the film ends (or for `all_times`)."""
        size = fit(self.width, self.height, max_side)
        wanted = Times(times, all_times)
        if self.decoder == "decord" and self._suits_decord and decord_module() is not None:
            try:
                yield from by_decord(self, wanted, size)
                return
            except DecordFailed as failure:
                log.debug("PyAV goes on with %s: %s", self.path, failure)
        yield from by_pyav(self, wanted, size)

    @property
    def indexed(self) -> bool:
        """Whether the file says where each second is."""
        return self.media_type in _INDEXED

    @property
    def _suits_decord(self) -> bool:
        """It gives wrong times for streams without an index, and is not told of every rotation."""
        return not self.rotation and self.indexed


def open_video(
    path: str | os.PathLike[str],
    limits: Limits = DEFAULT_LIMITS,
    decoder: Decoder | None = None,
) -> Video:
    """Look at a video file's header. Raises `UnreadableMedia` with the reason and the remedy.

    decoder: instead of `limits.video_decoder`.
    """
    absolute = Path(os.path.abspath(path))  # never read as an address or an option by a demuxer
    try:
        size = absolute.stat().st_size
        with absolute.open("rb") as file:
            media_type = sniff(file.read(SNIFF_BYTES), "")
    except OSError as error:
        raise UnreadableMedia(f"it cannot be read ({error.strerror or error})") from error
    if media_type not in VIDEO_FORMATS:
        raise UnreadableMedia(f"it is {describe(media_type)}, not a video: give MP4, WebM or MKV")
    if size > limits.max_bytes:
        raise UnreadableMedia(
            f"the video has {size:,} bytes, more than the limit of {limits.max_bytes:,}: cut it"
        )
    with opened(absolute, media_type) as container:
        chosen = decoder or limits.video_decoder
        return _described(container, absolute, media_type, limits, chosen)


def fit(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """The size with the longer side at most `max_side`, and no side below 1."""
    scale = 1.0 if max_side is None else min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _described(
    container: Any, path: Path, media_type: str, limits: Limits, decoder: Decoder
) -> Video:
    import av

    if not container.streams.video:
        raise UnreadableMedia("it holds no moving picture (sound is not read): give a video")
    stream = container.streams.video[0]
    if stream.codec_context is None or not stream.width:
        raise UnreadableMedia("its codec is not known here, or it is damaged: save it as H.264")
    if stream.disposition & stream.disposition.attached_pic:
        raise UnreadableMedia("it is sound with a picture on its cover: give a video")
    check_pixels(stream.width, stream.height, limits)
    start = max(0.0, (container.start_time or 0) / 1_000_000)
    seconds = _seconds(container, stream)
    if seconds is None:
        seconds = _last_time(container, stream) - start
        container.seek(0)
    check_seconds(seconds, limits)
    try:
        rotation = next(container.decode(stream)).rotation
    except (StopIteration, av.FFmpegError, ValueError):
        rotation = 0  # the first frame is damaged; the others may not be
    width, height = stream.width, stream.height
    ratio = stream.sample_aspect_ratio
    if ratio and 0.1 < ratio < 10:
        width = max(1, round(width * ratio))
    if rotation % 180:
        width, height = height, width
    return Video(
        path=path,
        media_type=media_type,
        seconds=seconds,
        frame_rate=float(stream.average_rate or stream.guessed_rate or 0),
        width=width,
        height=height,
        codec=stream.codec_context.name,
        sound=bool(container.streams.audio),
        subtitle_languages=tuple(track.language or "" for track in text_tracks(container)),
        rotation=rotation,
        start=start,
        limits=limits,
        decoder=decoder,
    )


def _seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1_000_000


def _last_time(container: Any, stream: Any) -> float:
    """The end of the last packet: read through, nothing decoded."""
    last = 0.0
    for packet in container.demux(stream):
        if packet.pts is not None:
            last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return last


def _ticks(start: float, every: float, end: float | None) -> Iterator[float]:
    count = 0
    while end is None or start + count * every < end:
        yield start + count * every  # not a running sum: 7,200 additions of 0.1 drift
        count += 1
