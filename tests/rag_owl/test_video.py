"""Frames, times and subtitles of videos, by both decoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_owl import video_decoding
from rag_owl.errors import UnreadableMedia
from rag_owl.media import Limits
from rag_owl.subtitles import Cue
from rag_owl.video import Decoder, Frame, fit, open_video
from tests.films import COLOURS, rotate_mp4, write_film


@pytest.fixture(params=["decord", "pyav"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    if request.param == "decord":
        pytest.importorskip("decord")
    decoder: Decoder = request.param
    return decoder


def colour(frame: Frame) -> int:
    """Which of COLOURS the bottom right is nearest to."""
    pixel = np.asarray(frame.image, np.int32)[-4, -4]
    return int(np.abs(np.array(COLOURS) - pixel).sum(axis=1).argmin())


def test_a_film_is_described_by_its_header(tmp_path: Path) -> None:
    video = open_video(write_film(tmp_path / "a.mp4", 5, sound=True))
    assert (video.media_type, video.codec, video.sound) == ("video/mp4", "h264", True)
    assert (video.width, video.height) == (64, 48)
    assert video.seconds == pytest.approx(5, abs=0.2)
    assert video.frame_rate == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("a.mov", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.mpg", "mpeg2video"),
    ],
)
def test_frames_of_every_container_come_at_their_seconds(
    tmp_path: Path, decoder: Decoder, name: str, codec: str
) -> None:
    rate = 25 if codec == "mpeg2video" else 10
    film = write_film(tmp_path / name, 4, codec=codec, rate=rate)
    video = open_video(film, decoder=decoder)
    frames = list(video.frames(0.5, start=0.25, end=4))
    assert [frame.seconds for frame in frames] == pytest.approx(
        [0.25 + 0.5 * at for at in range(8)], abs=0.1
    )
    assert [colour(frame) for frame in frames] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_what_is_seen_at_given_times(tmp_path: Path, decoder: Decoder) -> None:
    video = open_video(write_film(tmp_path / "a.mp4", 20), decoder=decoder)
    asked = [0.0, 0.0, 3.7, 3.71, 16.05, 19.5, 300]
    frames = list(video.frames_at(asked, max_side=32))
    assert [colour(frame) for frame in frames] == [0, 0, 3, 3, 1, 4, 4]
    assert [frame.seconds for frame in frames] == pytest.approx(
        [0, 0, 3.7, 3.7, 16.0, 19.5, 19.9], abs=0.02
    )
    assert {frame.image.size for frame in frames} == {(32, 24)}
    assert list(video.frames_at([])) == []
    with pytest.raises(ValueError, match="ascending"):
        list(video.frames_at([2, 1]))


def test_a_thumbnail_has_the_colours_of_its_picture(tmp_path: Path, decoder: Decoder) -> None:
    video = open_video(write_film(tmp_path / "a.mp4", 3), decoder=decoder)
    for frame in video.frames(1.0):
        small = np.asarray(frame.thumbnail((4, 3)), np.float32)
        whole = np.asarray(frame.image.resize((4, 3), 4), np.float32)  # Pillow's BOX
        assert np.abs(small - whole).mean() < 4


def test_frames_that_stay_come_once(tmp_path: Path, decoder: Decoder) -> None:
    film = write_film(tmp_path / "a.mkv", times=[0, 0.1, 0.2, 3.3, 3.4, 9.0, 9.1])
    video = open_video(film, decoder=decoder)
    assert [frame.seconds for frame in video.frames(1.0)] == pytest.approx(
        [0, 0.2, 3.4, 9.0], abs=0.01
    )
    (at_three,) = video.frames_at([3.0])
    assert at_three.seconds == pytest.approx(0.2, abs=0.01)


def test_a_phone_held_upright_gives_upright_pictures(tmp_path: Path, decoder: Decoder) -> None:
    film = write_film(tmp_path / "a.mp4", 1)
    rotate_mp4(film)
    video = open_video(film, decoder=decoder)
    assert (video.width, video.height) == (48, 64)
    (frame,) = video.frames(1.0)
    pixels = np.asarray(frame.image)
    assert pixels.shape == (64, 48, 3)
    # The white quarter was top left; a quarter turn clockwise puts it top right.
    assert pixels[5, -5].min() > 200
    assert pixels[5, 5].min() < 100


def test_only_what_is_asked_for_is_decoded(tmp_path: Path, decoder: Decoder) -> None:
    """A stream: the first frame comes before the film is read, and it can be left at any time."""
    video = open_video(write_film(tmp_path / "a.mp4", 30), decoder=decoder)
    stream = video.frames(1.0)
    assert next(stream).seconds == 0
    stream.close()  # type: ignore[attr-defined]
    assert next(video.frames(1.0, start=28)).seconds == pytest.approx(28, abs=0.11)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_embedded_subtitles_are_plain_text_with_times(tmp_path: Path, name: str) -> None:
    cues = [(0.5, 1.5, "<i>Mount</i> Kenya\nin {braces}"), (2.0, 2.5, "Ōsaka & <b>Kyōto")]
    video = open_video(write_film(tmp_path / name, 4, cues=cues))
    assert len(video.subtitle_languages) == 1
    assert video.subtitles() == [
        Cue(0.5, 1.5, "Mount Kenya\nin {braces}"),
        Cue(2.0, 2.5, "Ōsaka & Kyōto"),
    ]
    assert video.subtitles(1) == []


def test_a_film_cut_off_gives_what_is_there(tmp_path: Path, decoder: Decoder) -> None:
    film = write_film(tmp_path / "a.mkv", 10)
    data = film.read_bytes()
    film.write_bytes(data[: len(data) * 2 // 3])
    video = open_video(film, decoder=decoder)
    seconds = [frame.seconds for frame in video.frames(1.0)]
    assert seconds[:4] == pytest.approx([0, 1, 2, 3], abs=0.01)
    assert len(seconds) < 10


def test_damage_in_the_middle_leaves_both_sides(tmp_path: Path, decoder: Decoder) -> None:
    noise = np.random.default_rng(0)
    film = write_film(
        tmp_path / "a.mp4", 10, lambda _: noise.integers(0, 255, (48, 64, 3), np.uint8)
    )
    data = bytearray(film.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3_000] = noise.bytes(3_000)
    film.write_bytes(data)
    seconds = [frame.seconds for frame in open_video(film, decoder=decoder).frames(1.0)]
    assert min(seconds) == 0
    assert max(seconds) >= 8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"hello, this is text", "text"),
        (b"\x1aE\xdf\xa3" + bytes(500), "damaged"),
        (b"\0\0\0\x18ftypisom" + bytes(500), "damaged"),
    ],
)
def test_what_is_no_video_is_refused_with_a_reason(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableMedia, match=says):
        open_video(path)
    with pytest.raises(UnreadableMedia, match="cannot be read"):
        open_video(tmp_path / "none.mp4")


def test_limits_are_held_before_anything_is_decoded(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 5)
    for limits, says in (
        (Limits(max_video_seconds=3), "seconds long"),
        (Limits(max_frame_pixels=1_000), "64 x 48 pixels"),
        (Limits(max_bytes=100), "bytes, more than the limit"),
    ):
        with pytest.raises(UnreadableMedia, match=says):
            open_video(film, limits)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableMedia, match="no moving picture"):
        open_video(tmp_path / "a.mp4")


def test_sizes_keep_their_proportions() -> None:
    assert fit(1920, 1080, 960) == (960, 540)
    assert fit(100, 50, None) == fit(100, 50, 400) == (100, 50)
    assert fit(10_000, 1, 100) == (100, 1)


def test_a_film_that_is_longer_than_it_says_is_noticed(
    tmp_path: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_decoding, "_MOST_DAMAGED", 20)
    film = write_film(tmp_path / "a.mkv", 10)
    video = replace(open_video(film, decoder=decoder), limits=Limits(max_video_seconds=5))
    with pytest.raises(UnreadableMedia, match="seconds long"):
        list(video.frames(1.0))


def test_one_damaged_time_stamp_costs_one_frame(tmp_path: Path, decoder: Decoder) -> None:
    film = write_film(tmp_path / "a.mkv", times=[0, 1, 2, 3, 30_000])
    frames = open_video(film, Limits(max_video_seconds=40_000), decoder)
    video = replace(frames, limits=Limits(max_video_seconds=60))
    assert [frame.seconds for frame in video.frames(1.0)] == pytest.approx([0, 1, 2, 3], abs=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_far_times_are_found_as_near_ones(tmp_path: Path, decoder: Decoder, name: str) -> None:
    codec = "mpeg4" if name == "a.avi" else "libx264"
    video = open_video(write_film(tmp_path / name, 60, codec=codec), decoder=decoder)
    asked = [0.35, 9.35, 9.85, 30.35, 41.35, 59.35]
    frames = list(video.frames_at(asked))
    assert [colour(frame) for frame in frames] == [int(second) % 5 for second in asked]
    assert [frame.seconds for frame in frames] == pytest.approx(asked, abs=0.11)
