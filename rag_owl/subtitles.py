"""Subtitles, in a film or in a file beside it, as plain text between two times."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

from rag_owl.errors import UnreadableMedia
from rag_owl.media import clean_text

SUBTITLE_SUFFIXES = {".srt": "srt", ".vtt": "webvtt"}  # suffix -> FFmpeg's name of the format
_STYLES = re.compile(r"\{\\[^}]*\}|</?[a-zA-Z][^<>\n]{0,80}>|<\d\d:[\d:.]+>")


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: plain text between two times."""

    start: float  # seconds
    end: float
    text: str


def parse_subtitles(text: str, suffix: str) -> list[Cue]:
    """The cues of a `.srt` or `.vtt` file, in order of their beginnings; damaged ones left out.

    Raises `UnreadableMedia` when there are none.
    """
    import av

    try:
        file = io.BytesIO(text.encode())
        with av.open(file, format=SUBTITLE_SUFFIXES[suffix], metadata_errors="replace") as film:
            cues = read_track(film, film.streams.subtitles[0])
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise UnreadableMedia("it holds no subtitles that can be read: save it again") from error
    if not cues:
        raise UnreadableMedia("it holds no subtitles: put some into it, or remove it")
    return cues


def read_track(container: Any, stream: Any, start: float = 0.0) -> list[Cue]:
    """The cues of an open container's stream; times are counted from `start`."""
    cues = []
    for packet in container.demux(stream):
        cue = _cue(packet, start)
        if cue is not None:
            cues.append(cue)
    return sorted(cues, key=lambda cue: (cue.start, cue.end))


def text_tracks(container: Any) -> list[Any]:
    """The subtitle streams that hold text; those of DVDs hold pictures of text."""
    return [
        stream
        for stream in container.streams.subtitles
        if stream.codec_context is not None and stream.codec_context.codec.text_sub
    ]


def _cue(packet: Any, start: float) -> Cue | None:
    import av

    if packet.pts is None or not packet.size:
        return None
    try:
        decoded = packet.decode()
    except (av.FFmpegError, ValueError):
        return None
    begins = float(packet.pts * packet.time_base) - start
    lasts = float((packet.duration or 0) * packet.time_base)
    text = _plain("\n".join(_spoken(rect) for rect in decoded if rect.type != b"bitmap"))
    begins = max(0.0, begins)
    return Cue(begins, begins + max(0.0, lasts), text) if text else None


def _spoken(rect: Any) -> str:
    """FFmpeg gives text subtitles of every kind as ASS: eight fields, then the text."""
    text: str = (rect.ass or rect.text).decode("utf-8", "replace")
    fields = text.split(",", 8)
    return fields[8] if rect.ass and len(fields) == 9 else text


def _plain(text: str) -> str:
    """A cue's text as it is read: without styles, positions and empty lines."""
    text = _STYLES.sub("", text.replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " "))
    lines = (" ".join(line.split()) for line in clean_text(text).splitlines())
    return "\n".join(line for line in lines if line)
