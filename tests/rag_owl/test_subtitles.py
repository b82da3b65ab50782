"""Subtitle files as they are found in the wild."""

from __future__ import annotations

import pytest

from rag_owl.errors import UnreadableMedia
from rag_owl.subtitles import Cue, parse_subtitles

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>The capital of Japan</i>
is {\\an8}Tokyo.

2
01:00:03,250 --> 01:00:04,000  X1:40 X2:600 Y1:20 Y2:50
- Really?
- Yes {they say}, a <b>& b < c

3
00:00:05,000 --> 00:00:06,000

7
00:00:08,000 --> 00:00:09,000
四天王寺
"""


def test_an_srt_file_is_plain_text_with_times() -> None:
    assert parse_subtitles(SRT, ".srt") == [
        Cue(1.0, 2.5, "The capital of Japan\nis Tokyo."),
        Cue(8.0, 9.0, "四天王寺"),
        Cue(3603.25, 3604.0, "- Really?\n- Yes {they say}, a & b < c"),
    ]


def test_a_webvtt_file_is_plain_text_with_times() -> None:
    text = (
        "WEBVTT - made by hand\n\nNOTE\nnothing is said here\n\nSTYLE\n::cue {color: red}\n\n"
        "intro\n00:01.000 --> 00:02.000 align:start position:10%\n"
        "<v Anna>Good <00:01.500><c.loud>morning</c>\n\n"
        "01:00:03.000 --> 01:00:04.000\nA &amp; B\n"
    )
    assert parse_subtitles(text, ".vtt") == [
        Cue(1.0, 2.0, "Good morning"),
        Cue(3603.0, 3604.0, "A & B"),
    ]


def test_damaged_cues_cost_only_themselves() -> None:
    text = (
        SRT.replace("01:00:03,250 --> ", "01:00:0x,250 ->")
        + "\n9\n00:00:20,000 --> 00:00:19,000\nBack"
    )
    cues = parse_subtitles(text, ".srt")
    assert next(cue.text for cue in cues if cue.start in (1.0, 8.0)).startswith("The capital")
    assert any("四天王寺" in cue.text for cue in cues)
    assert all(cue.end >= cue.start for cue in cues)


@pytest.mark.parametrize("text", ["", "\n\n", "no cues at all", "WEBVTT\n", "1\n2\n3\n"])
@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_a_file_without_cues_is_refused(text: str, suffix: str) -> None:
    with pytest.raises(UnreadableMedia, match="no subtitles"):
        parse_subtitles(text, suffix)
