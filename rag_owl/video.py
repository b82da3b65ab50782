"""Films as streams of upright RGB pictures with their seconds, and the subtitles in them.

Two decoders behind one small port: decord where it has a wheel, PyAV elsewhere, and PyAV for every
file (or rest of a file) that decord does not decode. PyAV always looks first: sizes and length are
held against `Limits` before a frame is decoded, and only it knows rotations and subtitles.

Nothing here keeps more than a few frames: a film of two hours needs no more memory than a minute.
Times are seconds from the film's beginning, as a player shows them.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rag_owl.errors import UnreadableMedia
from rag_owl.media import (
    DEFAULT_LIMITS,
    SNIFF_BYTES,
    VIDEO_FORMATS,
    Limits,
    clean_text,
    describe,
    sniff,
)

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

Decoder = Literal["auto", "decord", "pyav"]
_THREADS = min(4, os.cpu_count() or 1)  # each holds a frame
_INDEXED = ("video/mp4", "video/quicktime", "video/webm", "video/x-matroska", "video/x-msvideo")
_DAMAGED = "the video is damaged and cannot be decoded: save it again"
_NEAR = 120  # frames: to one this near, reading on costs less than finding its place
_STYLES = re.compile(r"\{\\[^}]*\}|</?[a-zA-Z][^<>\n]{0,80}>|<\d\d:[\d:.]+>")
_MOST_DAMAGED = 1_000  # packets in a row that give no frame: the rest is noise


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture of the film, from `seconds` on until the next one."""

    seconds: float
    image: Image = field(repr=False)  # upright RGB


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: plain text between two times."""

    start: float  # seconds
    end: float
    text: str


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
        cues = []
        with _opened(self.path, self.media_type) as container:
            tracks = _text_tracks(container)
            if track >= len(tracks):
                return []
            stream = tracks[track]
            for packet in container.demux(stream):
                cue = _cue(stream, packet, self.start)
                if cue is not None:
                    cues.append(cue)
        return sorted(cues, key=lambda cue: cue.start)

    def _shown(
        self, times: Iterator[float], max_side: int | None, all_times: bool = False
    ) -> Iterator[Frame]:
        """For each time the frame that is seen then, until the film ends (or for `all_times`)."""
        size = fit(self.width, self.height, max_side)
        wanted = _Times(times, all_times)
        if self.decoder != "pyav" and self._suits_decord and _decord() is not None:
            try:
                yield from _by_decord(self, wanted, size)
                return
            except _DecordFailed as failure:
                log.debug("PyAV goes on with %s: %s", self.path, failure)
        yield from _by_pyav(self, wanted, size)

    @property
    def _suits_decord(self) -> bool:
        """It gives wrong times for streams without an index, and is not told of every rotation."""
        return not self.rotation and self.media_type in _INDEXED


def open_video(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS, decoder: Decoder = "auto"
) -> Video:
    """Look at a video file's header. Raises `UnreadableMedia` with the reason and the remedy."""
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
    with _opened(absolute, media_type) as container:
        return _described(container, absolute, media_type, limits, decoder)


def fit(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """The size with the longer side at most `max_side`, and no side below 1."""
    scale = 1.0 if max_side is None else min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _described(
    container: Any, path: Path, media_type: str, limits: Limits, decoder: Decoder
) -> Video:
    import av

    if not container.streams.video or not container.streams.video[0].width:
        raise UnreadableMedia("it holds no moving picture (sound is not read): give a video")
    stream = container.streams.video[0]
    if stream.disposition & stream.disposition.attached_pic:
        raise UnreadableMedia("it is sound with a picture on its cover: give a video")
    _check_pixels(stream.width, stream.height, limits)
    start = max(0.0, (container.start_time or 0) / 1_000_000)
    seconds = _seconds(container, stream)
    if seconds is None:
        seconds = _last_time(container, stream) - start
        container.seek(0)
    _check_seconds(seconds, limits)
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
        subtitle_languages=tuple(track.language or "" for track in _text_tracks(container)),
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


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_frame_pixels:
        raise UnreadableMedia(
            f"the video says its frames are {width:,} x {height:,} pixels, more than the limit "
            f"of {limits.max_frame_pixels:,}: scale it down"
        )


def _check_seconds(seconds: float, limits: Limits) -> None:
    if seconds > limits.max_video_seconds:
        raise UnreadableMedia(
            f"the video is {seconds:,.0f} seconds long, more than the limit of "
            f"{limits.max_video_seconds:,}: cut it"
        )


def _ticks(start: float, every: float, end: float | None) -> Iterator[float]:
    count = 0
    while end is None or start + count * every < end:
        yield start + count * every  # not a running sum: 7,200 additions of 0.1 drift
        count += 1


class _Times:
    """Ascending times, the next of which can be looked at before it is taken."""

    def __init__(self, times: Iterator[float], all_of_them: bool) -> None:
        self._times = times
        self._all = all_of_them
        self.next: float | None = next(times, None)

    def before(self, end: float) -> bool:
        """Whether one is to come before the film's end; of `all_of_them`, whether any is."""
        return self.next is not None and (self._all or self.next < end)

    def take(self) -> None:
        self.next = next(self._times, None)


# A frame's time stamp may be rounded a little above the time that is asked for.
_ROUNDING = 0.002  # seconds


# --- PyAV -----------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, media_type: str) -> Iterator[Any]:
    """The container, opened as the one format that its content says, as a file and nothing else."""
    import av

    try:
        container = av.open(
            os.fspath(path),
            format=VIDEO_FORMATS[media_type],
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableMedia(_DAMAGED) from error
    try:
        yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableMedia(_DAMAGED) from error
    finally:
        container.close()


def _by_pyav(video: Video, wanted: _Times, size: tuple[int, int]) -> Iterator[Frame]:
    if wanted.next is None:
        return
    with _opened(video.path, video.media_type) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = _THREADS
        if wanted.next > 5:  # nearer, reading on costs less than finding the place
            _seek(container, video.start + wanted.next)
        shown, image = None, None  # what is seen now; its picture, once it is asked for
        for frame in _decoded(container, stream):
            seconds = frame.time - video.start
            while shown is not None and wanted.next is not None and (
                wanted.next + _ROUNDING < seconds
            ):  # fmt: skip
                image = image or _upright(shown, size, video)
                yield Frame(max(0.0, shown.time - video.start), image)
                wanted.take()
            if wanted.next is None:
                return
            _check_seconds(seconds, video.limits)
            shown, image = frame, None
        if shown is None:
            raise UnreadableMedia(_DAMAGED)
        ends = max(video.seconds, shown.time - video.start + _ROUNDING)
        while wanted.before(ends):
            image = image or _upright(shown, size, video)
            yield Frame(max(0.0, shown.time - video.start), image)
            wanted.take()


def _seek(container: Any, seconds: float) -> None:
    import av

    try:
        container.seek(int(seconds * 1_000_000))
    except (av.FFmpegError, OSError):
        container.seek(0)  # it has no index: everything before is decoded


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Every frame that has a time and can be decoded; damaged packets are passed over."""
    import av

    damaged, last = 0, float("-inf")
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            damaged += 1
            if damaged > _MOST_DAMAGED:
                raise UnreadableMedia(_DAMAGED) from error
            packets = container.demux(stream)  # the generator ended with its error
            continue
        if packet is None:
            return
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError, ValueError) as error:
            damaged += 1
            if damaged > _MOST_DAMAGED:
                raise UnreadableMedia(_DAMAGED) from error
            continue
        for frame in frames:
            if frame.time is not None and frame.time > last:
                damaged, last = 0, frame.time
                yield frame


def _upright(frame: Any, size: tuple[int, int], video: Video) -> Image:
    _check_pixels(frame.width, frame.height, video.limits)  # it may change within a stream
    sideways = bool(video.rotation % 180)
    width, height = size[::-1] if sideways else size
    image: Image = frame.to_image(width=width, height=height, interpolation="AREA")
    return image.rotate(video.rotation, expand=True) if video.rotation else image


def _text_tracks(container: Any) -> list[Any]:
    """The subtitle streams that hold text; those of DVDs hold pictures of text."""
    return [
        stream
        for stream in container.streams.subtitles
        if stream.codec_context is not None and stream.codec_context.codec.text_sub
    ]


def _cue(stream: Any, packet: Any, start: float) -> Cue | None:
    import av

    if packet.pts is None or not packet.size:
        return None
    try:
        decoded = packet.decode()
    except (av.FFmpegError, ValueError):
        return None
    begins = float(packet.pts * packet.time_base) - start
    lasts = float((packet.duration or 0) * packet.time_base)
    text = plain_cue("\n".join(_spoken(rect) for rect in decoded if rect.type != b"bitmap"))
    return Cue(max(0.0, begins), max(0.0, begins + lasts), text) if text else None


def _spoken(rect: Any) -> str:
    """FFmpeg gives text subtitles of every kind as ASS: eight fields, then the text."""
    text: str = (rect.ass or rect.text).decode("utf-8", "replace")
    fields = text.split(",", 8)
    return fields[8] if rect.ass and len(fields) == 9 else text


def plain_cue(text: str) -> str:
    """A cue's text as it is read: without styles, positions and empty lines."""
    text = _STYLES.sub("", text.replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " "))
    lines = (" ".join(line.split()) for line in clean_text(text).splitlines())
    return "\n".join(line for line in lines if line)


# --- decord ---------------------------------------------------------------------------------------


class _DecordFailed(Exception):
    pass


@functools.cache
def _decord() -> Any:
    try:
        import decord
    except (ImportError, OSError):  # no wheel for this machine, or one that does not load here
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _by_decord(video: Video, wanted: _Times, size: tuple[int, int]) -> Iterator[Frame]:
    """Raises `_DecordFailed`; what was given till then is taken from `wanted`."""
    import numpy as np
    from PIL import Image as pillow  # noqa: N813

    try:
        reader = _decord().VideoReader(
            os.fspath(video.path), width=size[0], height=size[1], num_threads=_THREADS
        )
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0] - video.start
    except Exception as error:  # its own kinds, and a path that it cannot take
        raise _DecordFailed(str(error)) from error
    if not len(starts) or not np.isfinite(starts).all() or (np.diff(starts) < 0).any():
        raise _DecordFailed("no usable time stamps")
    _check_seconds(float(starts[-1]), video.limits)
    ends = max(video.seconds, float(starts[-1]) + _ROUNDING)
    position, shown, image = 0, -1, None  # the frame that comes next; the one that was given last
    while wanted.before(ends):
        assert wanted.next is not None
        index = max(0, int(np.searchsorted(starts, wanted.next + _ROUNDING, "right")) - 1)
        try:
            if image is None and index > _NEAR:
                reader.seek_accurate(index)
            elif index > position:
                reader.skip_frames(index - position)
            if index != shown:
                image = pillow.fromarray(reader.next().asnumpy())
        except Exception as error:
            raise _DecordFailed(str(error)) from error
        position, shown = index + 1, index
        assert image is not None
        yield Frame(max(0.0, float(starts[index])), image)
        wanted.take()
