"""Damaged files of every kind: `python -m benchmarks.reliability.mutations [--files N] [--seed S]`.

Sound JPEG, PNG, WebP, GIF, TIFF, PDF, MP4, zip and JSONL files are damaged by flipped bits, cuts,
splices, zeros and repeats, and ingested. Every one must be ingested or skipped with a reason; the
job must end, the process must live, and the data folder must be of one piece afterwards. Texts are
embedded by hashing: what is tested is reading.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks import machine
from benchmarks.reliability import material
from rag_owl import RagOwl
from rag_owl.types import Job, Skipped
from tests.consistency import problems

KINDS = ("jpg", "png", "webp", "gif", "tif", "pdf", "mp4", "zip", "jsonl")
_LOST = re.compile(r"decoder (crashed|was killed|answered)|took longer than|reader failed")


def original(kind: str, chance: random.Random) -> bytes:
    if kind in material.PICTURES:
        return material.picture(kind, chance)
    if kind == "pdf":
        pages = [material.text("word", chance) for _ in range(3)]
        return material.pdf(pages, [material.picture("jpg", chance) for _ in pages])
    if kind == "mp4":
        return material.film(chance)
    if kind == "zip":
        return material.archive(
            {
                "a.txt": material.text("word", chance).encode(),
                "b.jpg": material.picture("jpg", chance),
                "c/d.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
            }
        )
    rows = [f'{{"text": "{material.text("word", chance, 1)}", "n": {n}}}\n' for n in range(20)]
    return "".join(rows).encode()


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """One to four kinds of damage, one after the other. `other`: where splices come from."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if not result:
            break
        at = chance.randrange(len(result))
        length = min(chance.choice((1, 4, 16, 256, 4_096)), len(result) - at)
        kind = chance.choice(("flip", "flip", "cut", "splice", "zero", "repeat", "remove", "head"))
        if kind == "flip":
            for _ in range(chance.choice((1, 8, 64))):
                result[chance.randrange(len(result))] ^= 1 << chance.randrange(8)
        elif kind == "head":  # where sizes and counts stand
            for _ in range(4):
                result[chance.randrange(min(len(result), 128))] = chance.choice((0, 127, 128, 255))
        elif kind == "cut":
            del result[at:]
        elif kind == "splice":
            begin = chance.randrange(len(other))
            result[at : at + length] = other[begin : begin + length]
        elif kind == "zero":
            result[at : at + length] = bytes(length)
        elif kind == "repeat":
            result[at:at] = result[at : at + length] * chance.choice((1, 2, 30))
        else:
            del result[at : at + length]
    return bytes(result)


def write(folder: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    originals = {kind: [original(kind, chance) for _ in range(6)] for kind in KINDS}
    for at in range(count):
        kind = KINDS[at % len(KINDS)]
        alike = originals[kind if chance.random() < 0.8 else chance.choice(KINDS)]
        data = mutated(chance.choice(originals[kind]), chance.choice(alike), chance)
        (folder / f"{at:05}.{kind}").write_bytes(data)


def run(count: int, seed: int, seconds: float = 20) -> tuple[Job, list[Skipped], list[str]]:
    """The job, all that it skipped, and what is wrong with the folder afterwards."""
    from rag_owl import db
    from rag_owl.store import jobs

    with tempfile.TemporaryDirectory(prefix="rag-owl-mutations-") as scratch:
        files = Path(scratch) / "files"
        files.mkdir()
        write(files, count, seed)
        data = Path(scratch) / "data"
        with RagOwl.open(data, decode_seconds=seconds, **material.LIGHT) as owl:
            job = owl.ingest("c", [files])
            with db.reading(owl.engine) as session:
                page = jobs.skipped_page(session, job.id, limit=10**6)
            owl.search("c", "word", k=50)
        return job, [skipped for _, skipped in page], problems(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(machine.describe())
    began = time.perf_counter()
    job, skipped, wrong = run(given.files, given.seed)
    print(f"{given.files} damaged files, seed {given.seed}: {time.perf_counter() - began:.0f} s")
    print(f"job {job.state}, {job.error or 'no error'}")
    print(
        f"pieces: found {job.found}, ingested {job.added + job.updated}, "
        f"known already {job.unchanged}, skipped {job.skipped_count}"
    )
    for kind in KINDS:
        mine = [each for each in skipped if re.match(rf"\d+\.{kind}", each.name)]
        whole = {each.name for each in mine if each.name.endswith(f".{kind}")}
        of_kind = len(range(KINDS.index(kind), given.files, len(KINDS)))
        print(f"  {kind:5} {of_kind} files, {len(whole)} skipped whole, {len(mine)} pieces skipped")
    lost = [each for each in skipped if _LOST.search(each.reason)]
    print(f"decoders lost: {len(lost)}")
    for each in lost:
        print(f"  {each.name}: {each.reason}")
    print("reasons, the most frequent:")
    reasons = Counter(re.sub(r"[\d,.]+", "N", each.reason) for each in skipped)
    for reason, times in reasons.most_common(25):
        print(f"  {times:5} {reason}")
    well = job.state == "done" and job.found == job.handled and not wrong
    well = well and len(skipped) == job.skipped_count and all(each.reason for each in skipped)
    print("the data folder:", wrong or "of one piece")
    print("PASSED" if well else "FAILED")
    raise SystemExit(not well)


if __name__ == "__main__":
    main()
