"""What decoding in another process costs: `python -m benchmarks.reliability.apart [--repeats N]`.

Each kind of file is read in process and apart, all sections to the end, in turns; the median of
each is printed, with what it adds. The first line is the start of a decoder to its first picture,
which is paid once.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.reliability import material
from rag_owl.indexer.loaders import Input, Loaded, read
from rag_owl.indexer.loaders.apart import read_apart
from rag_owl.indexer.loaders.apart_pool import Pool
from rag_owl.media import DEFAULT_LIMITS, decode_picture
from rag_owl.types import Skipped

Reader = Callable[[Input], Iterator[Loaded | Skipped]]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def started(picture: bytes) -> float:
    pool = Pool()
    seconds = timed(lambda: pool.check_picture(picture, DEFAULT_LIMITS))
    pool.close()
    return seconds


def read_all(reader: Reader, source: Input) -> int:
    pieces = 0
    for value in reader(source):
        assert isinstance(value, Loaded), value
        pieces += sum(1 for _ in value.sections())
    return pieces


def write(folder: Path) -> dict[str, Path]:
    chance = random.Random(1)
    paths = {name: folder / name for name in _FILES}
    paths["small.txt"].write_text(material.text("word", chance))
    paths["large.txt"].write_text("\n\n".join(material.text("word", chance) for _ in range(20_000)))
    paths["page.html"].write_text(f"<h1>One</h1><p>{material.text('word', chance)}</p>")
    rows = [{"text": material.text("word", chance, 2)} for _ in range(5_000)]
    paths["rows.jsonl"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths["small.png"].write_bytes(material.picture("png", chance))
    paths["large.jpg"].write_bytes(material.picture("jpg", chance, 4_000))
    pictures = [material.picture("jpg", chance, 600) for _ in range(20)]
    texts = [material.text("word", chance) for _ in pictures]
    paths["pages.pdf"].write_bytes(material.pdf(texts, pictures))
    paths["film.mp4"].write_bytes(material.film(chance, 10))
    return paths


_FILES = {  # name: what a piece of it is
    "small.txt": "file",
    "large.txt": "section of 64 Ki characters",
    "page.html": "file",
    "rows.jsonl": "row",
    "small.png": "picture",
    "large.jpg": "picture",
    "pages.pdf": "page",
    "film.mp4": "stretch",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    print(machine.describe())
    with tempfile.TemporaryDirectory(prefix="rag-owl-apart-") as scratch:
        paths = write(Path(scratch))
        picture = paths["small.png"].read_bytes()
        start = statistics.median(started(picture) for _ in range(5))
        print(f"start of a decoder, with its first picture: {start * 1e3:.0f} ms")
        pool = Pool()

        def apart(source: Input) -> Iterator[Loaded | Skipped]:
            return read_apart(source, pool=pool)

        print("a picture of a question, checked apart / decoded in process:")
        for name in ("small.png", "large.jpg"):
            data = paths[name].read_bytes()
            here = [timed(partial(decode_picture, data)) for _ in range(given.repeats)]
            there = [
                timed(partial(pool.check_picture, data, DEFAULT_LIMITS))
                for _ in range(given.repeats)
            ]
            print(
                f"  {name:10} {statistics.median(there) * 1e3:8.2f} / "
                f"{statistics.median(here) * 1e3:8.2f} ms"
            )
        print("a file read to its end, ms: in process, apart, ratio; what a piece takes more")
        for name, piece in _FILES.items():
            source = Input(name, paths[name])
            pieces = read_all(apart, source)
            assert pieces == read_all(read, source)
            pairs = [
                (timed(partial(read_all, read, source)), timed(partial(read_all, apart, source)))
                for _ in range(given.repeats)
            ]
            here_s, there_s = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"  {name:10} {here_s * 1e3:9.2f} {there_s * 1e3:9.2f} {there_s / here_s:6.2f}; "
                f"{(there_s - here_s) / pieces * 1e3:+.3f} ms a {piece} (of {pieces})"
            )
        pool.close()


if __name__ == "__main__":
    main()
