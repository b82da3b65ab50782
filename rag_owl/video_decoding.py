"""From a film's packets to its frames at given times, by PyAV or by decord."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_owl.errors import UnreadableMedia
from rag_owl.media import VIDEO_FORMATS, Limits

if TYPE_CHECKING:
    from PIL.Image import Image

    from rag_owl.video import Video

Size = tuple[int, int]  # width, height in pixels
DAMAGED = "the video is damaged and cannot be decoded: save it again"
_MOST_DAMAGED = 1_000  # packets in a row that give no frame: the rest is noise
_NEAR = 120  # frames: to one this near, reading on costs less than finding its place
_FAR = 5.0  # seconds, likewise
_THREADS = min(4, os.cpu_count() or 1)  # each holds a frame
# A frame's time stamp may be rounded a little above the time that is asked for.
_ROUNDING = 0.002  # seconds

# A larger frame becomes a picture at once; others wait as they were decoded, in 3 MB at most.
_LARGE = 1_920 * 1_088  # pixels


class Frame:
    """A picture of the film, from `seconds` on until the next one.

    It is made when it is asked for: that costs nearly as much as decoding, and of most frames
    whoever looks for changes of scenes needs only the `thumbnail`.
    """

    def __init__(self, seconds: float, made: Image | Callable[[Size | None], Image]) -> None:
        """made: the picture, or what makes it, or a thumbnail of it. Times before 0 are 0."""
        self.seconds = max(0.0, seconds)
        self._made = made

    @property
    def image(self) -> Image:
        """Upright RGB. Raises `UnreadableMedia`."""
        if callable(self._made):
            self._made = self._made(None)
        return self._made

    def thumbnail(self, size: Size) -> Image:
        """All of it in a picture of this size, as it lies in the file. Raises `UnreadableMedia`."""
        if callable(self._made):
            return self._made(size)
        return self._made.resize(size, 4, reducing_gap=1.0)  # Pillow's BOX


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


def by_pyav(video: Video, wanted: Times, size: Size) -> Iterator[Frame]:
    if wanted.next is None:
        return
    with opened(video.path, video.media_type) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = _THREADS
        shown, look = None, None  # what is seen now; as it is given, once it is asked for
        for frame in _decoded(container, stream, video, wanted):
            seconds = frame.time - video.start
            while shown is not None and wanted.next is not None and (
                wanted.next + _ROUNDING < seconds
            ):  # fmt: skip
                look = look or _look(shown, size, video)
                yield look
                wanted.take()
            if wanted.next is None:
                return
            shown, look = frame, None
        if shown is None:
            raise UnreadableMedia(DAMAGED)
        ends = max(video.seconds, shown.time - video.start + _ROUNDING)
        while wanted.before(ends):
            look = look or _look(shown, size, video)
            yield look
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


def _look(decoded: Any, size: Size, video: Video) -> Frame:
    check_pixels(decoded.width, decoded.height, video.limits)  # it may change within a stream
    look = Frame(decoded.time - video.start, partial(_picture, decoded, size, video.rotation))
    if decoded.width * decoded.height > _LARGE:
        _ = look.image
    return look


def _picture(decoded: Any, size: Size, rotation: int, thumbnail: Size | None) -> Image:
    import av

    sideways = bool(rotation % 180)
    width, height = thumbnail or (size[::-1] if sideways else size)
    try:
        if thumbnail and decoded.format.name in ("yuv420p", "yuvj420p"):
            return _by_planes(decoded, thumbnail)
        image: Image = decoded.to_image(width=width, height=height, interpolation="AREA")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableMedia(DAMAGED) from error
    return image.rotate(rotation, expand=True) if rotation and not thumbnail else image


# What a byte of a film stands for (ITU-R BT.601): luma is 16..235, the colours are 128 ± 112.
_LUMA = [min(255, max(0, round((value - 16) * 255 / 219))) for value in range(256)]
_CHROMA = [min(255, max(0, round((value - 128) * 255 / 224 + 128))) for value in range(256)]


def _by_planes(decoded: Any, size: Size) -> Image:
    """A thumbnail of a frame of the commonest format, in a third of FFmpeg's time."""
    from PIL import Image as pillow  # noqa: N813

    planes = []
    for plane, meaning in zip(decoded.planes, (_LUMA, _CHROMA, _CHROMA), strict=True):
        shape = (plane.width, plane.height)
        whole = pillow.frombuffer("L", shape, plane, "raw", "L", plane.line_size, 1)
        small = whole.resize(size, pillow.Resampling.BOX, reducing_gap=1.0)
        planes.append(small if decoded.format.name == "yuvj420p" else small.point(meaning))
    return pillow.merge("YCbCr", planes).convert("RGB")


# --- decord ---------------------------------------------------------------------------------------


class DecordFailed(Exception):
    pass


@cache
def decord_module() -> Any:
    try:
        import decord
    except (ImportError, OSError):  # no wheel for this machine, or one that does not load here
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def by_decord(video: Video, wanted: Times, size: Size) -> Iterator[Frame]:
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
        yield Frame(float(starts[index]), image)
        wanted.take()
