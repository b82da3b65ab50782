"""How large a system must be, from what was measured small.

    python -m benchmarks.scaling --measure > benchmarks/results/scaling.txt   constants, here
    python -m benchmarks.scaling > docs/scaling.md                            the page

Every figure of the page is a product of constants in `benchmarks/results/` and of numbers that the
page itself calls assumed. No GPU has been measured: GPU time is counted in operations.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ITEMS = (10**5, 10**7, 10**9)
DIMENSION = 384  # of the default text embedder
GIB = 2**30
# Assumed, and called so on the page.
SUSTAINED = 100e12  # operations a second of one GPU
MACHINE_MEMORY, MACHINE_CORES = 256 * GIB, 32
WORKER_DAYS = 7.0  # for the first ingest
FLAT_UNTIL, HNSW_UNTIL = 50_000, 1_000_000  # `auto`, by a test the same as segment_files'
MILVUS_FROM = 3 * 10**7
CPU_SHARE = 1 / 2  # of each machine for questions; the rest is for what comes beside them


# --- constants ------------------------------------------------------------------------------------


def measure(count: int) -> None:
    """Ingest passages, and say what an item costs."""
    from benchmarks import machine
    from benchmarks.ingest import passages
    from rag_owl import RagOwl

    print(machine.describe())
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        texts = passages(count)
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        with RagOwl.open(Path(scratch) / "data", index_type="flat") as owl:
            embedders, _ = owl.models.embedders_for(None)
            embedders.text.embed_texts(texts[:8])  # loaded, and warm
            begun = time.process_time()
            job = owl.ingest("rows", [rows])
            used = time.process_time() - begun
            assert job.added == count, job
            owl.search("rows", "a country")
            folder = owl.folder
        database = sum(path.stat().st_size for path in folder.glob("rag_owl.db*"))
        segments = sum(p.stat().st_size for p in (folder / "segments").rglob("*") if p.is_file())
        blobs = sum(p.stat().st_size for p in (folder / "blobs").rglob("*") if p.is_file())
    print(f"passages {count}")
    print(f"characters_per_passage {sum(map(len, texts)) / count:.0f}")
    print(f"ingest_cpu_seconds_per_passage {used / count:.5f}")
    print(f"database_bytes_per_passage {database / count:.0f}")
    print(f"blob_bytes_per_passage {blobs / count:.0f}")
    print(f"segment_bytes_per_vector_number {segments / count / DIMENSION:.3f}")


@dataclass(frozen=True)
class Constants:
    """All from benchmarks/results; seconds and bytes."""

    ingest_cpu: float  # of one passage
    database_bytes: float
    blob_bytes: float
    characters: float
    passages: float  # that were ingested to measure it
    index_over_vectors: float  # memory of an HNSW index, over that of its vectors
    search_seconds: float  # hybrid, at `search_items`
    search_items: int
    picture_cpu: float  # one picture through the vision tower
    machine: str

    @classmethod
    def read(cls) -> Constants:
        lines = (RESULTS / "scaling.txt").read_text().splitlines()
        small: Mapping[str, float] = {
            name: float(value)
            for name, value in (line.split() for line in lines[1:] if len(line.split()) == 2)
        }
        search = (RESULTS / "search.txt").read_text()
        hybrid = sorted(float(ms) for ms in re.findall(r"hybrid ([\d.]+) \(", search))
        owl3 = json.loads((RESULTS / "owl3-0.5b-cpu.json").read_text())["rows"]
        encoded = max((row for row in owl3 if row["way"] == "a"), key=lambda row: row["pictures"])
        picture = (encoded["first_token_encoding"] - encoded["first_token"]) / encoded["pictures"]
        return cls(
            ingest_cpu=small["ingest_cpu_seconds_per_passage"],
            database_bytes=small["database_bytes_per_passage"],
            blob_bytes=small["blob_bytes_per_passage"],
            characters=small["characters_per_passage"],
            passages=small["passages"],
            index_over_vectors=_number(r"([\d.]+) x the vectors", search),
            search_seconds=hybrid[len(hybrid) // 2] / 1_000,
            search_items=int(_number(r"(\d+) items in segments", search)),
            picture_cpu=picture,
            machine=lines[0],
        )


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, pattern
    return float(found[1])


def picture_operations() -> float:
    """Of SigLIP so400m/14 at 384: a multiplication and an addition each count one."""
    from rag_owl.model.owl3.sizes import SIGLIP

    tokens = (SIGLIP.image_size // SIGLIP.patch_size) ** 2
    width, inner = SIGLIP.hidden_size, SIGLIP.intermediate_size
    matrices = 4 * width * width + 2 * width * inner
    attention = 2 * tokens * width
    return 2.0 * tokens * SIGLIP.num_hidden_layers * (matrices + attention)


def passage_operations(characters: float) -> float:
    """Of MiniLM-L6 (6 layers, 384 wide, 1,536 inside), with four characters to a token."""
    tokens, width, inner, layers = characters / 4, 384, 1_536, 6
    return 2.0 * tokens * layers * (4 * width * width + 2 * width * inner + 2 * tokens * width)


def feature_bytes(size: str = "7b") -> int:
    """What is stored of one picture in bfloat16."""
    from rag_owl.model.owl3.sizes import SIGLIP, SIZES

    return (SIGLIP.image_size // SIGLIP.patch_size) ** 2 * SIZES[size].hidden_size * 2


# --- the page -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What so many passages of text need."""

    items: int
    constants: Constants

    @property
    def vectors(self) -> float:
        return 4.0 * self.items * DIMENSION

    @property
    def index(self) -> float:
        return self.vectors * self.constants.index_over_vectors

    @property
    def engine(self) -> str:
        return "Milvus" if self.items >= MILVUS_FROM else "FAISS"

    @property
    def kind(self) -> str:
        if self.engine == "Milvus":
            return "hnsw"
        return "flat" if self.items < FLAT_UNTIL else "hnsw" if self.items < HNSW_UNTIL else "ivf"

    @property
    def database(self) -> float:
        return self.items * self.constants.database_bytes

    @property
    def blobs(self) -> float:
        return self.items * max(self.constants.blob_bytes, self.constants.characters)

    @property
    def cpu_hours(self) -> float:
        return self.items * self.constants.ingest_cpu / 3_600

    @property
    def gpu_hours(self) -> float:
        return self.items * passage_operations(self.constants.characters) / SUSTAINED / 3_600

    @property
    def picture_gpu_hours(self) -> float:
        return self.items * picture_operations() / SUSTAINED / 3_600

    @property
    def index_machines(self) -> int:
        """Whose memory holds the index, three quarters of it."""
        return max(1, math.ceil(self.index / (0.75 * MACHINE_MEMORY)))

    @property
    def workers(self) -> int:
        """Machines that ingest it all on their CPUs within `WORKER_DAYS`."""
        return max(1, math.ceil(self.cpu_hours / (24 * WORKER_DAYS * MACHINE_CORES)))

    @property
    def questions_per_second(self) -> float:
        """Searches of one machine, each at the measured time: what is searched of an index grows
        with its logarithm."""
        slower = max(1.0, math.log(self.items) / math.log(self.constants.search_items))
        return MACHINE_CORES * CPU_SHARE / (self.constants.search_seconds * slower)

    @property
    def parts(self) -> str:
        if self.items <= 10**6:
            return "SQLite, FAISS and files in one folder"
        if self.engine == "FAISS":
            return "PostgreSQL, FAISS segments on an object store, workers"
        return (
            "PostgreSQL, Milvus (its own etcd and object store), blobs on an object store, workers"
        )


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if number < 1_000 or unit == "PiB":
            return f"{number:.3g} {unit}"
        number /= 1_024
    raise AssertionError


def hours(number: float) -> str:
    if number < 1:
        return f"{60 * number:.2g} min"
    return f"{number:.3g} h" if number < 100 else f"{number / 24:,.0f} days"


def page(constants: Constants) -> str:
    plans = [Plan(items, constants) for items in ITEMS]
    rows = {
        "parts": [plan.parts for plan in plans],
        "vector engine, index": [f"{plan.engine}, {plan.kind}" for plan in plans],
        "vectors (384 numbers each)": [size(plan.vectors) for plan in plans],
        "memory of the index": [size(plan.index) for plan in plans],
        "disk: database": [size(plan.database) for plan in plans],
        "disk: text as blobs": [size(plan.blobs) for plan in plans],
        "first ingest, CPU core time": [hours(plan.cpu_hours) for plan in plans],
        f"machines that ingest it in {WORKER_DAYS:.0f} days": [f"{p.workers}" for p in plans],
        "embedding on a GPU (assumed)": [hours(plan.gpu_hours) for plan in plans],
        "machines that hold the index": [f"{plan.index_machines}" for plan in plans],
        "searches a second of one machine": [f"{p.questions_per_second:.0f}" for p in plans],
    }
    features, operations = feature_bytes(), picture_operations()
    pictures = {
        "visual features, mPLUG-Owl3 7B, bfloat16": [size(n * features) for n in ITEMS],
        "the same as int8": [size(n * features / 2) for n in ITEMS],
        "vision tower on two CPU cores, measured": [
            hours(n * constants.picture_cpu / 3_600) for n in ITEMS
        ],
        "vision tower on a GPU (assumed)": [hours(plan.picture_gpu_hours) for plan in plans],
    }

    def table(what: str, lines: Mapping[str, list[str]]) -> str:
        head = f"| {what} | " + " | ".join(f"{items:,}" for items in ITEMS) + " |\n"
        head += "|---|" + "---|" * len(ITEMS) + "\n"
        return head + "".join(f"| {name} | {' | '.join(row)} |\n" for name, row in lines.items())

    largest = constants.search_items
    ingest, database = 1_000 * constants.ingest_cpu, constants.database_bytes
    over, search = constants.index_over_vectors, 1_000 * constants.search_seconds
    passage = passage_operations(constants.characters) / 1e9
    merged, all_rows = size(4.0 * 10**7 * DIMENSION), size(plans[2].database)
    return f"""# Scaling

How much of what 10⁵, 10⁷ and 10⁹ items need. This page is printed by `python -m benchmarks.scaling`
out of constants that benchmarks measured small (`benchmarks/results/`): **no collection larger than
{largest:,} items has been searched, and no Milvus cluster and no GPU has been tried.**

## Passages of text

An item is a passage of {constants.characters:.0f} characters.

{table("items", rows)}
## Pictures, beside that

Each picture also has a vector of its own (as above) and, where a model with a visual memory
answers, its features. Those may be bounded (`RAG_OWL_FEATURES_BYTES`): what is not stored is
computed again.

{table("pictures", pictures)}
## Measured

On {constants.machine}:

- {ingest:.1f} ms of CPU to ingest a passage, nearly all of it the embedder's, measured
  with {constants.passages:.0f} on a machine that was busy with other work (`scaling.txt`);
- {database:,.0f} bytes of database for a passage: text, words' index, rows (`scaling.txt`, SQLite);
- memory of an HNSW index: {over:.2f} × its vectors (`search.txt`);
- a hybrid search: {search:.1f} ms of one core at {largest:,} items, half of it for embedding the
  question (`search.txt`);
- a picture through the vision tower, which is the same in 7B: {constants.picture_cpu:.1f} s on two
  CPU cores (`owl3-0.5b-cpu.json`). Its features are {size(features)} in 7B.

## Assumed

- One GPU sustains {SUSTAINED / 1e12:.0f} × 10¹² operations a second. A picture takes
  {operations / 1e9:,.0f} × 10⁹, a passage {passage:.1f} × 10⁹. Small models reach less: measure
  before you buy.
- A machine has {MACHINE_CORES} cores and {size(MACHINE_MEMORY)}; half of its cores answer, three
  quarters of its memory hold vectors. Milvus is taken from {MILVUS_FROM:,} items on.
- Search time grows with the logarithm of the items. That holds for graphs; the words' search reads
  longer lists for common words.

## What will give first

- **10⁷**: the vectors are {merged}, in segments of 512 MiB at most: a process without copies of
  them waits for the network. FAISS `ivf` is chosen by itself; its vectors must fit into memory.
- **10⁹**: {all_rows} of database make PostgreSQL's full-text index the narrowest part: it is one
  server, and nothing here spreads it. A filter that leaves many millions of items is asked of
  Milvus key by key. Split what can be split into collections with databases of their own.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="print constants instead")
    parser.add_argument("--passages", type=int, default=3_000)
    given = parser.parse_args()
    if given.measure:
        measure(given.passages)
    else:
        print(page(Constants.read()), end="")


if __name__ == "__main__":
    main()
