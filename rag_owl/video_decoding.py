"""From a film's packets to its frames at given times, by PyAV or by decord."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl.errors import UnreadableMedia
from rag_owl.media import VIDEO_FORMATS, Limits

if TYPE_CHECKING:
    from PIL.Image import Image

    from rag_owl.video import Video

DAMAGED = "the video is damaged and cannot be decoded: save it again"
_MOST_DAMAGED = 1_000  # packets in a row that give no frame: the rest is noise
_NEAR = 120  # frames: to one this near, reading on costs less than finding its place
_FAR = 5.0  # seconds, likewise
_THREADS = min(4, os.cpu_count() or 1)  # each holds a frame
# A frame's time stamp may be rounded a little above the time that is asked for.
_ROUNDING = 0.002  # seconds

Seen = tuple[float, "Image"]  # seconds, and what is seen from then on


class Times:
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


def check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_frame_pixels:
        raise UnreadableMedia(
            f"the video says its frames are {width:,} x {height:,} pixels, more than the limit "
            f"of {limits.max_frame_pixels:,}: scale it down"
        )


def check_seconds(seconds: float, limits: Limits) -> None:
    if seconds > limits.max_video_seconds:
        raise UnreadableMedia(
            f"the video is {seconds:,.0f} seconds long, more than the limit of "
            f"{limits.max_video_seconds:,}: cut it"
        )


# --- PyAV -----------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, media_type: str) -> Iterator[Any]:
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
        raise UnreadableMedia(DAMAGED) from error
    try:
        yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableMedia(DAMAGED) from error
    finally:
        container.close()


def by_pyav(video: Video, wanted: Times, size: tuple[int, int]) -> Iterator[Seen]:
    if wanted.next is None:
        return
    with opened(video.path, video.media_type) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = _THREADS
        shown, image = None, None  # what is seen now; its picture, once it is asked for
        for frame in _decoded(container, stream, video, wanted):
            seconds = frame.time - video.start
            while shown is not None and wanted.next is not None and (
                wanted.next + _ROUNDING < seconds
            ):  # fmt: skip
                image = image or _upright(shown, size, video)
                yield max(0.0, shown.time - video.start), image
                wanted.take()
            if wanted.next is None:
                return
            shown, image = frame, None
        if shown is None:
            raise UnreadableMedia(DAMAGED)
        ends = max(video.seconds, shown.time - video.start + _ROUNDING)
        while wanted.before(ends):
            image = image or _upright(shown, size, video)
            yield max(0.0, shown.time - video.start), image
            wanted.take()


def _seek(container: Any, seconds: float) -> None:
    import av

    try:
        container.seek(int(seconds * 1_000_000))
    except (av.FFmpegError, OSError):
        container.seek(0)  # it has no index: everything before is decoded


def _decoded(container: Any, stream: Any, video: Video, wanted: Times) -> Iterator[Any]:
    """The frames that have a time and can be decoded; what is damaged is passed over.

    Where the next time that is wanted is far, the frames before its key frame are left out.
    """
    import av

    damaged, last = 0, float("-inf")
    packets = container.demux(stream)
    sought, worth = -1.0, video.indexed
    while True:
        seconds = max(0.0, last - video.start)
        far = wanted.next is not None and wanted.next - seconds > _FAR
        if far and worth and sought != wanted.next:
            assert wanted.next is not None
            sought = wanted.next
            _seek(container, video.start + sought)
            packets = container.demux(stream)
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            damaged += 1
            if damaged > _MOST_DAMAGED:
                raise UnreadableMedia(DAMAGED) from error
            packets = container.demux(stream)  # the generator ended with its error
            continue
        if packet is None:
            return
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError, ValueError) as error:
            damaged += 1
            if damaged > _MOST_DAMAGED:
                raise UnreadableMedia(DAMAGED) from error
            continue
        for frame in frames:
            if frame.time is None or frame.time <= last:
                worth = worth and sought < 0  # no key frame is nearer: reading on costs the same
                continue
            if frame.time - video.start > video.limits.max_video_seconds:
                damaged += 1  # one time stamp, unless there are many
                if damaged > _MOST_DAMAGED:
                    check_seconds(frame.time - video.start, video.limits)
                continue
            damaged, last = 0, frame.time
            yield frame


def _upright(frame: Any, size: tuple[int, int], video: Video) -> Image:
    check_pixels(frame.width, frame.height, video.limits)  # it may change within a stream
    sideways = bool(video.rotation % 180)
    width, height = size[::-1] if sideways else size
    image: Image = frame.to_image(width=width, height=height, interpolation="AREA")
    return image.rotate(video.rotation, expand=True) if video.rotation else image


# --- decord ---------------------------------------------------------------------------------------


class DecordFailed(Exception):
    pass


@functools.cache
def decord_module() -> Any:
    try:
        import decord
    except (ImportError, OSError):  # no wheel for this machine, or one that does not load here
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def by_decord(video: Video, wanted: Times, size: tuple[int, int]) -> Iterator[Seen]:
    """Raises `DecordFailed`; what was given till then is taken from `wanted`."""
    import numpy as np
    from PIL import Image as pillow  # noqa: N813

    try:
        reader = decord_module().VideoReader(
            os.fspath(video.path), width=size[0], height=size[1], num_threads=_THREADS
        )
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0] - video.start
    except Exception as error:  # its own kinds, and a path that it cannot take
        raise DecordFailed(str(error)) from error
    if not len(starts) or not np.isfinite(starts).all() or (np.diff(starts) < 0).any():
        raise DecordFailed("no usable time stamps")
    if starts[-1] > video.limits.max_video_seconds:
        raise DecordFailed("time stamps beyond the limit")
    ends = max(video.seconds, float(starts[-1]) + _ROUNDING)
    position, shown, image = 0, -1, None  # the frame that comes next; the one that was given last
    while wanted.before(ends):
        assert wanted.next is not None
        index = max(0, int(np.searchsorted(starts, wanted.next + _ROUNDING, "right")) - 1)
        try:
            if index - position > _NEAR:
                reader.seek_accurate(index)  # reads on where no key frame is nearer
            elif index > position:
                reader.skip_frames(index - position)
            if index != shown:
                image = pillow.fromarray(reader.next().asnumpy())
        except Exception as error:
            raise DecordFailed(str(error)) from error
        position, shown = index + 1, index
        assert image is not None
        yield max(0.0, float(starts[index])), image
        wanted.take()
