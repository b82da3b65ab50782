"""A two-hour film from ingest to answers: `python -m benchmarks.reliability.film [--seconds N]`.

The film is drawn and encoded once, into a cache folder: scenes that move slowly, people talking in
subtitles, and at random times for some seconds a flag of the sample, half of them with a sentence
about its country. Printed is what ingesting takes beside decoding the same frames alone, the most
memory that all processes held together, and how often questions are answered with the right time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from benchmarks import machine
from rag_owl import RagOwl
from rag_owl.indexer.loaders.values import PICTURE_SIDE
from rag_owl.sample.facts import COUNTRIES
from rag_owl.sample.flags import FLAGS
from rag_owl.types import VideoLocation
from rag_owl.video import Decoder, open_video

HOURS_2 = 7_200
EVENTS = 40
NEAR = 2.0  # seconds between the time that is cited and the true one
_ASS_HEADER = (  # what FFmpeg's subtitle encoder wants to have seen
    b"[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\n"
    b"Format: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n[Events]\n"
    b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
_TALK = (
    ("We", "They", "The others", "My neighbours", "Her friends"),
    ("walked", "waited", "talked", "sat", "worked"),
    ("by the river", "in the garden", "under the old bridge", "near the station", "at the window"),
    ("all morning", "until it was dark", "for an hour or so", "without a word", "once again"),
)


@dataclass(frozen=True, slots=True)
class Event:
    """A flag that is shown from `start` to `end`; with `capital` it is said too, from `said` on."""

    country: str
    start: float
    end: float
    said: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: int
    width: int
    height: int
    rate: int
    events: tuple[Event, ...]
    cues: tuple[tuple[float, float, str], ...]
    scenes: tuple[float, ...]  # where each begins

    @property
    def name(self) -> str:
        return f"film-{self.seconds}s-{self.width}x{self.height}-{self.rate}-{len(self.events)}.mp4"


def plan(
    seconds: int = HOURS_2, events: int = EVENTS, size: tuple[int, int] = (640, 360), rate: int = 24
) -> Plan:
    """The same film for the same arguments. Events do not overlap and lie all over it."""
    chance = random.Random(seconds)
    countries = _distinct_flags(events, chance)
    room = seconds / events
    shown = []
    cues: list[tuple[float, float, str]] = []
    for at, country in enumerate(countries):
        lasts = chance.uniform(3, 8)
        start = at * room + chance.uniform(1, max(1.1, room - lasts - 1))
        said = round(start + 0.5, 2) if at % 2 else None
        shown.append(Event(country, round(start, 2), round(start + lasts, 2), said))
        if said is not None:
            text = f"The capital of {_facts(country).name} is {_facts(country).capital}."
            cues.append((said, said + 2, text))
    second = 2.0
    while second < seconds - 5:
        talk = " ".join(chance.choice(words) for words in _TALK) + "."
        if not any(e.start - 4 < second < e.end + 1 for e in shown):
            cues.append((round(second, 2), round(second + 2.5, 2), talk))
        second += chance.uniform(4, 20)
    scenes = [0.0]
    while scenes[-1] < seconds:
        scenes.append(round(scenes[-1] + chance.uniform(8, 90), 2))
    return Plan(seconds, *size, rate, tuple(shown), tuple(sorted(cues)), tuple(scenes))


def _facts(country: str) -> Any:
    return next(each for each in COUNTRIES if each.stem == country)


def _distinct_flags(count: int, chance: random.Random) -> list[str]:
    """Countries whose flags nobody would take for one another: not Chad with Romania."""
    names = sorted(FLAGS)
    chance.shuffle(names)
    chosen: list[str] = []
    small: list[NDArray[np.float32]] = []
    for name in names:
        seen = np.asarray(FLAGS[name].draw((24, 16)), np.float32)
        if all(np.abs(seen - other).mean() > 25 for other in small):
            chosen.append(name)
            small.append(seen)
        if len(chosen) == count:
            return chosen
    raise ValueError(f"there are only {len(chosen)} flags that differ enough, not {count}")


# --- drawing --------------------------------------------------------------------------------------


def write(film: Plan, path: Path) -> None:
    """Encode it. H.264, a key frame every ten seconds, subtitles as a track."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_suffix(".part.mp4")
    with av.open(str(arriving), "w") as container:
        options = {"preset": "ultrafast", "crf": "28", "g": str(10 * film.rate)}
        stream = container.add_stream("libx264", rate=film.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        titles = container.add_stream("mov_text")
        titles.codec_context.subtitle_header = _ASS_HEADER
        cues = list(film.cues)
        canvas = _Canvas(film)
        for at in range(film.seconds * film.rate):
            second = at / film.rate
            while cues and cues[0][0] <= second:
                container.mux(_cue(titles, *cues.pop(0)))
            frame = av.VideoFrame.from_ndarray(canvas.draw(second), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    arriving.rename(path)


def _cue(stream: Any, start: float, end: float, text: str) -> Any:
    import av

    data = text.encode()
    packet = av.Packet(len(data).to_bytes(2, "big") + data)
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = round(1000 * start)
    packet.duration = round(1000 * (end - start))
    return packet


class _Canvas:
    """Draws in the encoder's own colours: one frame in a fraction of a millisecond."""

    def __init__(self, film: Plan) -> None:
        self._film = film
        self._chance = np.random.default_rng(film.seconds)
        self._scene = -1
        self._flags: dict[str, NDArray[np.uint8]] = {}
        self._frame = np.zeros((film.height * 3 // 2, film.width), np.uint8)
        self._world: NDArray[np.uint8] = self._frame

    def draw(self, second: float) -> NDArray[np.uint8]:
        film = self._film
        for event in film.events:
            if event.start <= second < event.end:
                if event.country not in self._flags:
                    self._flags = {event.country: self._flag(event.country)}
                return self._flags[event.country]
        scene = sum(start <= second for start in film.scenes) - 1
        if scene != self._scene:
            self._scene = scene
            self._begin_scene()
        at = int((second - film.scenes[scene]) * film.rate) // 2  # pixels: a slow pan
        at = at % (self._world.shape[1] - film.width)
        self._frame[: film.height] = self._world[:, at : at + film.width]
        return self._frame

    def _begin_scene(self) -> None:
        film = self._film
        coarse = self._chance.integers(30, 220, (film.height // 30, film.width // 10), np.uint8)
        size = (4 * film.width, film.height)
        smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        grain = self._chance.integers(0, 6, size[::-1], np.uint8)
        self._world = np.asarray(smooth) // 2 + 40 + grain
        colours = self._chance.integers(100, 156, 2)
        quarter = film.height // 4
        self._frame[film.height : film.height + quarter] = colours[0]
        self._frame[film.height + quarter :] = colours[1]

    def _flag(self, country: str) -> NDArray[np.uint8]:
        """As high as the picture, between dark bars."""
        import av

        film = self._film
        flag = FLAGS[country]
        across = min(film.width, round(film.height * flag.width / flag.height))
        picture = Image.new("RGB", (film.width, film.height), (16, 16, 16))
        picture.paste(flag.draw((across, film.height)), ((film.width - across) // 2, 0))
        frame = av.VideoFrame.from_image(picture).reformat(format="yuv420p")
        return frame.to_ndarray()


# --- measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shares:
    """How many of the questions were answered with the right time, by third of the film."""

    right: tuple[int, int, int]
    asked: tuple[int, int, int]

    @property
    def share(self) -> float:
        return sum(self.right) / max(1, sum(self.asked))


@dataclass(frozen=True, slots=True)
class Cost:
    seconds: float  # by the clock
    cpu_seconds: float  # of all processes


@dataclass(frozen=True, slots=True)
class Report:
    seconds: int
    size: str
    stretches: int
    decoding: tuple[Cost, Cost]  # before and after
    ingest: Cost
    ratio: float  # of seconds by the clock
    cpu_ratio: float
    idle_bytes: int  # of all processes, with the models in memory
    peak_bytes: int
    seen: Shares  # which stretch shows this picture
    said: Shares  # a question in words
    both: Shares  # a question about a picture


class _Watch:
    """What this process and its children hold together and have used, seen ten times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._used: dict[int, float] = {}  # CPU seconds by process, also of those that ended
        self._looked()
        self._before = sum(self._used.values())
        self._since = time.perf_counter()
        self.cost = Cost(0, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _looked(self) -> None:
        own = psutil.Process()
        held = 0
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                held += process.memory_info().rss
                times = process.cpu_times()
                self._used[process.pid] = times.user + times.system
        self.peak = max(self.peak, held)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        took = time.perf_counter() - self._since
        self._looked()
        self.cost = Cost(took, sum(self._used.values()) - self._before)

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self._looked()


def decode(path: Path, every: float, decoder: Decoder) -> _Watch:
    """Decode all that an ingest looks at, by the same decoder, and do nothing else."""
    with _Watch() as watch:
        for frame in open_video(path, decoder=decoder).frames(every, max_side=PICTURE_SIDE):
            _ = frame.image
    return watch


def measure(film: Plan, path: Path, data: Path, **settings: Any) -> Report:
    with RagOwl.open(data, **settings) as owl:
        warm = data / "warm.txt"
        warm.write_text("Loads the models.")
        picture = data / "warm.png"
        Image.new("RGB", (64, 48), "red").save(picture)
        owl.ingest("warm", [warm, picture])
        owl.ask("warm", "What is loaded?")
        every, decoder = owl.settings.video_every, owl.settings.video_decoder
        # Half of the baseline before, half after: whatever else the machine does hits both.
        before = decode(path, every, decoder).cost
        idle = _Watch().peak
        with _Watch() as watch:
            job = owl.ingest("film", [path])
        after = decode(path, every, decoder).cost
        if job.state != "done" or job.added != 1 or job.skipped:
            raise RuntimeError(f"the film was not ingested: {job}")
        return Report(
            seconds=film.seconds,
            size=f"{film.width}x{film.height}, {film.rate} frames a second",
            stretches=job.items,
            decoding=(before, after),
            ingest=watch.cost,
            ratio=2 * watch.cost.seconds / (before.seconds + after.seconds),
            cpu_ratio=2 * watch.cost.cpu_seconds / (before.cpu_seconds + after.cpu_seconds),
            idle_bytes=idle,
            peak_bytes=watch.peak,
            seen=_ask_all(film, lambda event: _seen(owl, event)),
            said=_ask_all(film, lambda event: _said(owl, event), only_said=True),
            both=_ask_all(film, lambda event: _both(owl, event), only_said=True),
        )


def _ask_all(film: Plan, ask: Any, only_said: bool = False) -> Shares:
    right, asked = [0, 0, 0], [0, 0, 0]
    for event in film.events:
        if only_said and event.said is None:
            continue
        third = min(2, int(3 * event.start / film.seconds))
        asked[third] += 1
        right[third] += bool(ask(event))
    return Shares((right[0], right[1], right[2]), (asked[0], asked[1], asked[2]))


def _is_near(location: object, second: float | None) -> bool:
    return (
        isinstance(location, VideoLocation)
        and second is not None
        and abs(location.start_seconds - second) <= NEAR
    )


def _picture(event: Event) -> bytes:
    encoded = io.BytesIO()
    FLAGS[event.country].render().save(encoded, "PNG")
    return encoded.getvalue()


def _seen(owl: RagOwl, event: Event) -> bool:
    found = owl.search("film", "", images=[_picture(event)], k=1)
    return bool(found) and _is_near(found[0].item.location, event.start)


def _said(owl: RagOwl, event: Event) -> bool:
    question = f"What is the capital of {_facts(event.country).name}?"
    answer = owl.ask("film", question)
    return any(_is_near(citation.location, event.said) for citation in answer.citations[:1])


def _both(owl: RagOwl, event: Event) -> bool:
    answer = owl.ask("film", "What is the capital of this country?", images=[_picture(event)])
    return any(_is_near(citation.location, event.said) for citation in answer.citations[:1])


def show(report: Report) -> Sequence[str]:
    (before, after), ingest = report.decoding, report.ingest
    lines = [
        f"a film of {report.seconds} s, {report.size}: {report.stretches} stretches",
        f"decoding the same frames alone {before.seconds:.1f} and {after.seconds:.1f} s, ingest "
        f"{ingest.seconds:.1f} s ({report.seconds / ingest.seconds:.0f} times as fast as it "
        f"plays): ratio {report.ratio:.2f} (mark 1.3)",
        f"CPU of all processes {before.cpu_seconds:.1f} and {after.cpu_seconds:.1f} s, ingest "
        f"{ingest.cpu_seconds:.1f} s: ratio {report.cpu_ratio:.2f}",
        f"memory of all processes: idle {report.idle_bytes / 2**20:.0f} MiB, at most "
        f"{report.peak_bytes / 2**20:.0f} MiB",
    ]
    for name, shares in (
        ("which second shows this picture?", report.seen),
        ("asked in words", report.said),
        ("asked about a picture", report.both),
    ):
        thirds = ", ".join(
            f"{where} {right} of {asked}"
            for where, right, asked in zip(
                ("start", "middle", "end"), shares.right, shares.asked, strict=True
            )
        )
        lines.append(f"{name}: right within {NEAR:.0f} s {shares.share:.1%} ({thirds}; mark 90 %)")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=HOURS_2)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--size", default="640x360", help="width x height")
    parser.add_argument("--rate", type=int, default=24, help="frames a second")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rag-owl-film")
    parser.add_argument("--model", default=None, help="the answering model")
    parser.add_argument("--picture-embedder", default=None)
    parser.add_argument("--decoder", default=None, choices=("decord", "pyav"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    width, height = (int(side) for side in given.size.split("x"))
    film = plan(given.seconds, given.events, (width, height), given.rate)
    path = given.cache / film.name
    if not path.exists():
        start = time.perf_counter()
        write(film, path)
        print(f"drew {path.name} in {time.perf_counter() - start:.0f} s")
    settings = {
        "model": given.model,
        "picture_embedder": given.picture_embedder,
        "video_decoder": given.decoder,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    with tempfile.TemporaryDirectory() as data:
        report = measure(film, path, Path(data), **settings)
    if given.json:
        print(json.dumps(asdict(report), indent=1))
        return
    print(machine.describe())
    for line in show(report):
        print(line)


if __name__ == "__main__":
    main()
