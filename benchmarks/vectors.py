"""Vector search and the picture descriptor: time, memory and recall, each beside its baseline.

    python -m benchmarks.vectors                     100,000 x 384 vectors
    python -m benchmarks.vectors --pictures FOLDER   how often a warped picture of FOLDER is found

The baseline of a search is the bare FAISS call on an index of the same kind, held in memory, in
the same run. The vectors are random around 1,000 random centres, as text embeddings clump;
`--noise` (0.9 of a centre's length) makes them harder to index.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from rag_owl.indexer.descriptor import describe
from rag_owl.indexer.segment import Segment, search_segments, write_segment
from rag_owl.indexer.segment_files import HNSW_SEARCH_WIDTH, faiss, probes

K, QUERIES = 10, 200
Floats = NDArray[np.float32]


def clustered(count: int, dimension: int, noise: float, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((1000, dimension), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = random.standard_normal((count, dimension), np.float32)
    vectors *= noise / np.sqrt(dimension)
    vectors += centres[random.integers(0, 1000, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def median_ms(call: Callable[[int], Any]) -> float:
    for number in range(10):
        call(number)
    seconds = []
    for number in range(QUERIES):
        start = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) * 1e3


def compare(index_type: str, folder: Path, ids: Any, vectors: Floats, queries: Floats) -> None:
    start = time.perf_counter()
    write_segment(folder, ids, vectors, index_type=index_type, manifest={"embedder": "random@1"})
    written = time.perf_counter()
    segment = Segment.open(folder)
    opened = time.perf_counter()
    chosen = segment.manifest.index_type
    bare = faiss.read_index(str(folder / "index.faiss"))  # all of it in memory
    parameters = None
    if chosen == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=HNSW_SEARCH_WIDTH)
    elif chosen == "ivf":
        parameters = faiss.SearchParametersIVF(nprobe=probes(bare.nlist))
    baseline = median_ms(lambda n: bare.search(queries[n : n + 1], K, params=parameters))
    ours = median_ms(lambda n: search_segments([segment], queries[n], K))
    print(f"{index_type}{f' ({chosen})' if index_type != chosen else ''}")
    print(f"  written in {written - start:.1f} s, opened in {(opened - written) * 1e3:.1f} ms")
    print(
        f"  search_segments {ours:.3f} ms, bare FAISS {baseline:.3f} ms: "
        f"{ours / baseline:.2f} x, {ours - baseline:+.3f} ms"
    )
    exact = queries @ vectors.T
    print(f"  recall@{K} {recall(segment, queries, exact, ids, None):.4f}")
    random = np.random.default_rng(1)
    for share in (0.9, 0.5, 0.1, 0.01, 0.0001):
        allowed = np.sort(random.choice(ids, int(len(ids) * share), replace=False))
        filtered = median_ms(lambda n, a=allowed: search_segments([segment], queries[n], K, a))
        found = recall(segment, queries, exact, ids, allowed)
        print(f"  filter that leaves {share:>7.2%}: {filtered:.3f} ms, recall@{K} {found:.4f}")
    dead = np.sort(random.choice(ids, len(ids) // 100, replace=False))
    removed = median_ms(lambda n: search_segments([segment], queries[n], K, None, dead))
    print(f"  1 % tombstones: {removed:.3f} ms")


def recall(segment: Segment, queries: Floats, exact: Floats, ids: Any, allowed: Any) -> float:
    keep = np.arange(len(ids)) if allowed is None else np.searchsorted(ids, allowed)
    found = 0
    for query, scores in zip(queries, exact, strict=True):
        nearest = keep[np.argpartition(-scores[keep], min(K, len(keep)) - 1)[:K]]
        found += len(set(search_segments([segment], query, K, allowed)[0]) & set(ids[nearest]))
    return found / (len(queries) * min(K, len(keep)))


MEASURE_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from rag_owl.indexer.segment import Segment, search_segments

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

queries = np.load(sys.argv[2])
before = resident()
segment = Segment.open(Path(sys.argv[1]))
for query in queries:
    search_segments([segment], query, 10)
searched = resident()
search_segments([segment], queries[0], len(segment))  # exact: touches every vector
print(before, searched, resident())
"""


def memory(folder: Path, queries_file: Path, size: int) -> None:
    if not Path("/proc/self/statm").exists():
        print("memory: measured on Linux only")
        return
    command = [sys.executable, "-c", MEASURE_MEMORY, str(folder), str(queries_file)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, searched, whole = map(int, output.split())
    print(f"memory over the vectors' {size / 2**20:.0f} MiB (resident, in a process of its own)")
    print(f"  after {QUERIES} searches {(searched - before) / size:.2f} x")
    print(f"  after every vector was read {(whole - before) / size:.2f} x")


# --- pictures -------------------------------------------------------------------------------------


def warp(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """All at once: 90 % crop anywhere, tilt to 8 degrees with a random colour behind, another
    size, blur, tint, JPEG at quality 30."""
    width, height = picture.size
    inner = int(width * 0.9), int(height * 0.9)
    left, top = (
        int(random.integers(0, a - b + 1)) for a, b in zip(picture.size, inner, strict=True)
    )
    picture = picture.crop((left, top, left + inner[0], top + inner[1]))
    behind = tuple(int(value) for value in random.integers(0, 256, 3))
    angle = float(random.uniform(-8, 8))
    picture = picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=behind)
    scale = float(random.uniform(0.3, 1.5))
    picture = picture.resize((max(8, int(inner[0] * scale)), max(8, int(inner[1] * scale))))
    picture = picture.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.2))))
    tinted = np.asarray(picture) * random.uniform(0.88, 1.12, 3) + random.uniform(-10, 10, 3)
    file = io.BytesIO()
    Image.fromarray(tinted.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def find_pictures(folder: Path) -> None:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".png", ".jpg"})
    pictures = []
    for path in paths:
        picture = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        pictures.append(Image.alpha_composite(white, picture).convert("RGB"))
    index = np.stack([describe(picture) for picture in pictures])
    small = np.stack([np.asarray(p.resize((64, 48)), np.float32).ravel() for p in pictures])
    random = np.random.default_rng(0)
    right = total = 0
    for number, picture in enumerate(pictures):
        for _ in range(5):
            found = int((index @ describe(warp(picture, random))).argmax())
            # Some countries share one flag: less than 2 of 255 apart on average is the same.
            right += bool(np.abs(small[found] - small[number]).mean() < 2)
            total += 1
    print(f"{len(pictures)} pictures, {total} warped queries: right one first {right / total:.3f}")


def describe_speed() -> None:
    random = np.random.default_rng(0)
    for size in ((320, 213), (1600, 1067)):
        noise = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
        picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4))
        per_picture = median_ms(lambda _, p=picture: describe(p))
        print(f"descriptor of {size[0]} x {size[1]}: {per_picture:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description="vector search and the picture descriptor")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--noise", type=float, default=0.9)
    parser.add_argument("--types", nargs="*", default=["flat", "auto", "ivf"])
    parser.add_argument("--pictures", type=Path, help="only this: pictures to warp and find again")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, faiss {faiss.__version__}")
    describe_speed()
    if arguments.pictures:
        find_pictures(arguments.pictures)
        return
    everything = clustered(arguments.count + QUERIES + 10, arguments.dimension, arguments.noise)
    vectors, queries = everything[: arguments.count], everything[arguments.count :]
    ids = np.arange(arguments.count, dtype=np.int64) * 3 + 7
    with tempfile.TemporaryDirectory() as name:
        np.save(f"{name}/queries.npy", queries[:QUERIES])
        for index_type in arguments.types:
            compare(index_type, Path(name) / index_type, ids, vectors, queries)
            memory(Path(name) / index_type, Path(name) / "queries.npy", vectors.nbytes)


if __name__ == "__main__":
    main()
