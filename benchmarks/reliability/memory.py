"""Memory while large things are ingested: `python -m benchmarks.reliability.memory [CASE…]`.

    text    one text file of --text-mb (200)
    pdf     one PDF of --pages (2,000)
    files   a folder of --files (100,000) small texts
    jsonl   one JSONL file of --jsonl-mb (5,000), its texts of --row-chars (1,500) and a little more

Each case runs in a process of its own, which embeds by hashing (a stand-in for the model, whose
own memory does not depend on what is read). Printed is the most memory that it and its decoder held
together (PSS: what they share counts once) over what the idle process held with the folder open and
one file ingested, also after each quarter of the items, for it must not grow with them; when the
first items could be found by another process; and how fast it went, by the clock and of CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.reliability import material
from rag_owl import RagOwl
from tests.consistency import problems

LIMIT = 1.5 * 2**30
_INGEST = """
import sys
from benchmarks.reliability import material
from rag_owl import RagOwl
with RagOwl.open(sys.argv[1], **material.LIGHT) as owl:
    owl.ingest("warm", [sys.argv[2]])
    print("idle", flush=True)
    input()
    job = owl.ingest("c", [sys.argv[3]])
    print(job.state, job.added, job.skipped_count, job.items, flush=True)
    input()
"""


def write(case: str, folder: Path, given: argparse.Namespace) -> str:
    """The files of a case; says what they are."""
    chance = random.Random(1)
    texts = [material.text(f"base{at}", chance) for at in range(200)]
    if case == "text":
        with (folder / "long.txt").open("w") as file:
            at = 0
            while file.tell() < given.text_mb * 2**20:
                file.write(f"Paragraph {at}, word{at}q. {chance.choice(texts)}\n\n")
                at += 1
        return f"a text of {given.text_mb} MiB"
    if case == "pdf":
        pages = [f"Page {at}, word{at}q. {chance.choice(texts)}" for at in range(given.pages)]
        pictures = [material.picture("jpg", chance, 600) for _ in range(8)]
        shown = [chance.choice(pictures) for _ in pages]
        (folder / "long.pdf").write_bytes(material.pdf(pages, shown))
        return f"a PDF of {given.pages:,} pages"
    if case == "files":
        for at in range(given.files):
            inner = folder / f"{at // 1_000:03}"
            inner.mkdir(exist_ok=True)
            (inner / f"{at}.txt").write_text(f"File {at}, word{at}q. {chance.choice(texts)[:200]}")
        return f"{given.files:,} small files"
    with (folder / "rows.jsonl").open("w") as file:
        at = 0
        while file.tell() < given.jsonl_mb * 2**20:
            text = f"Row {at}, word{at}q."
            while len(text) < given.row_chars:
                text += f" {chance.choice(texts)}"
            row = {"id": f"r{at}", "text": text}
            file.write(json.dumps(row) + "\n")
            at += 1
    return f"a JSONL file of {given.jsonl_mb:,} MiB, {at:,} rows"


def held(process: psutil.Process) -> int:
    """Bytes of it and its children, what they share counted once."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def used(process: psutil.Process) -> float:
    """CPU seconds of it and of the children that it has now."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


def quarters(seen: list[tuple[int, int]], items: int) -> str:
    """The most memory (MiB) until each quarter of the items was there. seen: (items, bytes)."""
    most = (max((held for at, held in seen if at <= items * n / 4), default=0) for n in range(1, 5))
    return ", ".join(f"{each / 2**20:.0f}" for each in most)


def measure(case: str, given: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="rag-owl-memory-", dir=given.scratch) as scratch:
        folder, data = Path(scratch) / "files", Path(scratch) / "data"
        folder.mkdir()
        what = write(case, folder, given)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        warm = Path(scratch) / "warm.txt"
        warm.write_text("A word to begin with.")
        child = subprocess.Popen(
            [sys.executable, "-c", _INGEST, str(data), str(warm), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "idle\n"
        process = psutil.Process(child.pid)
        idle = held(process)
        child.stdin.write("\n")
        child.stdin.flush()
        began, first, cpu = time.perf_counter(), None, used(process)
        seen: list[tuple[int, int]] = []
        with RagOwl.open(data, work_jobs=False, **material.LIGHT) as owl:
            while True:
                jobs = [job for job in owl.jobs() if job.collection == "c"]
                seen.append((jobs[0].items if jobs else 0, held(process)))
                if first is None and jobs and jobs[0].items and owl.search("c", "word1q", k=1):
                    first = time.perf_counter() - began
                if child.poll() is not None or (jobs and jobs[0].finished):
                    break
                time.sleep(0.5)
            cpu = used(process) - cpu
        seconds = time.perf_counter() - began
        peak = max(each for _, each in seen)
        state, added, skipped, items = child.stdout.readline().split()
        child.communicate("\n")
        print(
            f"{what}: {state}, {int(added):,} documents, {skipped} skipped, {int(items):,} items "
            f"in {seconds:.0f} s; "
            f"first found after {first or seconds:.1f} s; "
            f"{size / 2**20 / seconds:.2f} MiB/s, {cpu:.0f} s of CPU ({size / 2**20 / cpu:.2f} "
            f"MiB for a second of it); most memory by quarters {quarters(seen, int(items))} MiB; "
            f"idle {idle / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB, "
            f"{(peak - idle) / 2**20:.0f} MiB over it (limit {LIMIT / 2**20:.0f})",
            flush=True,
        )
        wrong = problems(data)  # of many gigabytes this takes long where they are on a slow disk
        well = state == "done" and not wrong and peak - idle < LIMIT and skipped == "0"
        print(f"{wrong or 'folder of one piece'}; {'PASSED' if well else 'FAILED'}", flush=True)
        return well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="text pdf files jsonl")
    parser.add_argument("--text-mb", type=int, default=200)
    parser.add_argument("--pages", type=int, default=2_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--jsonl-mb", type=int, default=5_000)
    parser.add_argument("--row-chars", type=int, default=1_500)
    parser.add_argument("--scratch", help="a folder with room for it all")
    given = parser.parse_args()
    print(machine.describe(), flush=True)
    cases = given.cases or ["text", "pdf", "files", "jsonl"]
    results = [measure(case, given) for case in cases]
    raise SystemExit(not all(results))


if __name__ == "__main__":
    main()
