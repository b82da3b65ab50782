"""Search over many items: `python -m benchmarks.search [--items N] [--data FOLDER]`.

The collection is made by the real pipeline out of real sentences; only the vectors of its items are
drawn at random (embedding 100,000 passages would take most of an hour). Queries are embedded for
real. The baseline of the dense search is the bare FAISS call on the same index in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.ingest import passages
from rag_owl import RagOwl
from rag_owl.indexer.embed import load_text_embedder
from rag_owl.ports import TextEmbedder
from rag_owl.types import Question

QUERIES = [
    "What is the capital of the country with a red disc on its flag?",
    "Which countries export coffee and bananas?",
    "highest mountain of Nepal",
    "official languages of Switzerland",
    "When did the population reach one hundred million inhabitants and which neighbours are there?",
    "blue cross on a white field",
    "currency of Iceland",
    "What do the colours of the flag of Ghana mean?",
]


class RandomVectors:
    """Stands for the text embedder while the collection is built: clustered unit vectors."""

    def __init__(self, name: str, dimension: int) -> None:
        self.name, self.dimension = name, dimension
        self._random = np.random.default_rng(0)
        self._centres = self._random.standard_normal((200, dimension))

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        centres = self._centres[self._random.integers(0, 200, len(texts))]
        vectors = centres + self._random.standard_normal(centres.shape)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        return self.embed_texts([text])[0]


class Timed:
    """An embedder that remembers its last query's vector and duration."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self.name, self.dimension, self._embedder = embedder.name, embedder.dimension, embedder
        self.seconds = 0.0
        self.last = np.zeros(0, dtype=np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        begun = time.perf_counter()
        self.last = self._embedder.embed_query(text)
        self.seconds = time.perf_counter() - begun
        return self.last


def build(folder: Path, count: int) -> None:
    rows = folder / "rows.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with rows.open("w") as file:
        for at, text in enumerate(passages(count)):
            file.write(json.dumps({"text": text, "number": at}) + "\n")
    with RagOwl.open(folder / "data") as owl:
        real = load_text_embedder()
        owl.models.put("text", RandomVectors(real.name, real.dimension))
        owl.ingest("rows", [rows])


def median_ms(work: Callable[[str], object], rounds: int) -> float:
    times = []
    for at in range(rounds):
        begun = time.perf_counter()
        work(QUERIES[at % len(QUERIES)])
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def measure(data: Path, rounds: int) -> None:
    """In a process of its own, so that nothing is warm from building."""
    import faiss
    import psutil

    embedder = Timed(load_text_embedder())
    embedder.embed_query("warm")  # the model is loaded before the folder is opened
    process = psutil.Process()
    before = process.memory_info().rss
    begun = time.perf_counter()
    owl = RagOwl.open(data)
    owl.models.put("text", embedder)
    opened = time.perf_counter() - begun
    owl.search("rows", QUERIES[0])
    first = time.perf_counter() - begun
    print(f"open {opened:.2f} s, to the end of the first search {first:.2f} s (limit 1 s to open)")

    def search(query: str, *channels: str, **options: object) -> object:
        question = Question("rows", query, k=10, channels=channels or None, **options)  # type: ignore[arg-type]
        return owl._retriever.retrieve(question)

    for query in QUERIES:
        search(query)
    memory = process.memory_info().rss - before
    view = next(iter(owl._retriever._views.values()))
    segments = view.segments["text"]
    items = sum(len(segment) for segment in segments)
    vectors = items * view.generation.text_dimension * 4
    kinds = ", ".join(f"{len(s)} {s.manifest.index_type}" for s in segments)
    print(f"{items} items in segments: {kinds}")
    print(f"memory {memory / 2**20:.0f} MiB, {memory / vectors:.2f} x the vectors (limit 1.3)")

    indexes = [
        faiss.read_index(str(s.folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC) for s in segments
    ]

    def overhead(query: str) -> tuple[float, float]:
        """(whole dense search, what of it is neither embedding nor FAISS), paired, in ms."""
        begun = time.perf_counter()
        search(query, "text")
        whole = time.perf_counter() - begun
        vector = embedder.last[None]
        begun_faiss = time.perf_counter()
        for index in indexes:
            index.search(vector, 50)
        bare = time.perf_counter() - begun_faiss
        return 1e3 * whole, 1e3 * (whole - embedder.seconds - bare)

    half = {"field": "number", "op": "<", "value": items // 2}
    for _ in range(3):  # alternately, so that the machine's other work hits all of them
        embedding = median_ms(embedder.embed_query, rounds)
        pairs = [overhead(QUERIES[at % len(QUERIES)]) for at in range(rounds)]
        dense, over = (statistics.median(column) for column in zip(*pairs, strict=True))
        words = median_ms(lambda query: search(query, "words"), rounds)
        hybrid = median_ms(search, rounds)
        filtered = median_ms(lambda query: search(query, filters=half), rounds)
        print(
            f"median ms: embed {embedding:.1f}; dense {dense:.1f}, of it over embedding and bare "
            f"FAISS {over:.1f} (limit 3), {dense / (dense - over):.2f} x; words {words:.1f}; "
            f"hybrid {hybrid:.1f} (limit 25); hybrid over half of the items {filtered:.1f}"
        )
    owl.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--data", type=Path, help="keep the collection here, or use what is there")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.rounds)
        return
    print(machine.describe(), flush=True)
    times = [
        float(
            subprocess.check_output(
                [
                    sys.executable,
                    "-c",
                    "import time; t = time.perf_counter(); import rag_owl; "
                    "print(time.perf_counter() - t)",
                ]
            )
        )
        for _ in range(5)
    ]
    print(f"import rag_owl: {statistics.median(times):.3f} s (limit 0.3)", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.data or Path(scratch)
        if not (folder / "data").exists():
            begun = time.perf_counter()
            build(folder, given.items)
            print(f"built in {time.perf_counter() - begun:.0f} s", flush=True)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.search", "--measure", str(folder / "data"),
             "--rounds", str(given.rounds)],
            check=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
