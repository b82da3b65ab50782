"""Tiny videos for the tests, drawn and encoded on the fly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Draw = Callable[[float], NDArray[np.uint8]]
"""What is seen at a second: (height, width, 3)."""

_HEADER = (  # what FFmpeg's subtitle encoders want to have seen
    b"[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\n"
    b"Format: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n[Events]\n"
    b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200))


def colours(size: tuple[int, int] = (64, 48)) -> Draw:
    """One colour each second; the top left quarter is white."""

    def draw(second: float) -> NDArray[np.uint8]:
        picture = np.empty((size[1], size[0], 3), np.uint8)
        picture[:] = COLOURS[int(second + 1e-6) % len(COLOURS)]
        picture[: size[1] // 2, : size[0] // 2] = 255
        return picture

    return draw


def write_film(
    path: Path,
    seconds: float = 5,
    draw: Draw | None = None,
    *,
    rate: int = 10,
    codec: str = "libx264",
    cues: Sequence[tuple[float, float, str]] = (),
    times: Sequence[float] | None = None,
    sound: bool = False,
) -> Path:
    """times: of the frames, where they are not evenly spaced."""
    draw = draw or colours()
    height, width, _ = draw(0).shape
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        audio = film.add_stream("aac", rate=8_000) if sound else None
        titles = None
        if cues:
            titles = film.add_stream("mov_text" if path.suffix == ".mp4" else "subrip")
            titles.codec_context.subtitle_header = _HEADER
        pending = list(cues)
        for time in times or [at / rate for at in range(round(seconds * rate))]:
            while titles is not None and pending and pending[0][0] <= time:
                film.mux(_cue_packet(titles, *pending.pop(0)))
            frame = av.VideoFrame.from_ndarray(draw(time), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 8_000, 0
            film.mux(audio.encode(silence))
            film.mux(audio.encode(None))
    return path


def _cue_packet(stream: av.stream.Stream, start: float, end: float, text: str) -> av.Packet:
    data = text.encode()
    if stream.codec_context.name == "mov_text":
        data = len(data).to_bytes(2, "big") + data
    packet = av.Packet(data)
    packet.stream = stream
    packet.time_base = Fraction(1, 1000)
    packet.pts = packet.dts = round(1000 * start)
    packet.duration = round(1000 * (end - start))
    return packet


def rotate_mp4(path: Path) -> None:
    """Have players turn it a quarter clockwise, as phones that are held upright write."""
    data = bytearray(path.read_bytes())
    one = (0x10000).to_bytes(4, "big")
    zero, last = bytes(4), (0x40000000).to_bytes(4, "big")
    upright = one + zero * 3 + one + zero * 3 + last
    turned = zero + one + zero + (-0x10000 & 0xFFFFFFFF).to_bytes(4, "big") + zero * 4 + last
    at = data.index(upright, data.index(b"tkhd"))
    data[at : at + len(turned)] = turned
    path.write_bytes(data)
