"""Two processes at once: `python -m benchmarks.reliability.two [--rounds R] [--postgres]`.

Each round two processes ingest overlapping folders of mixed files into one data folder at the same
time, one of them asks meanwhile, and in every second round one is killed in the middle. In the end
every text is found once, and rows and files are of one piece. `--postgres`: on a PostgreSQL out of
the `pgserver` wheel, or the one that RAG_OWL_TEST_POSTGRES names (it must be empty).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import func, select

from benchmarks import machine
from benchmarks.reliability import material
from rag_owl import RagOwl, db
from rag_owl.rows import RevisionRow, SegmentRow
from tests.consistency import problems

_INGEST = """
import sys
from benchmarks.reliability import material
from rag_owl import RagOwl
data, url, *folders = sys.argv[1:]
with RagOwl.open(data, database_url=url or None, **material.LIGHT) as owl:
    print("open", flush=True)
    for folder in folders:
        job = owl.ingest("c", [folder])
        assert job.state == "done", job
        owl.search("c", "word", k=5)
"""


def start(data: Path, url: str, folders: list[Path]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _INGEST, str(data), url, *map(str, folders)],
        stdout=subprocess.PIPE,
        text=True,
    )


def run(scratch: Path, url: str, files: int, rounds: int, seed: int = 1) -> list[str]:
    """What is wrong in the end."""
    chance = random.Random(seed)
    data = scratch / "data"
    wrong: list[str] = []
    words: dict[str, str] = {}
    for at in range(rounds):
        folders = [scratch / f"{at}{part}" for part in "abc"]
        for part, folder in enumerate(folders):
            words |= material.mixed(folder, files // 3, chance, f"r{at}p{part}")
        pair = [start(data, url, folders[:2]), start(data, url, folders[:0:-1])]
        for child in pair:
            assert child.stdout is not None
            child.stdout.readline()
        if at % 2:
            time.sleep(chance.uniform(0, 2))
            pair[0].send_signal(signal.SIGKILL)
        codes = [child.wait(timeout=600) for child in pair]
        for child in pair:
            assert child.stdout is not None
            child.stdout.close()
        if codes[at % 2 :] != [0] * len(codes[at % 2 :]):
            wrong.append(f"round {at}: exit statuses {codes}")
    with RagOwl.open(data, database_url=url or None, **material.LIGHT) as owl:
        for at in range(rounds):  # what the killed ones had not begun
            for part in "abc":
                owl.ingest("c", [scratch / f"{at}{part}"])
        for job in owl.jobs():
            job = owl.wait_for_job(job.id)
            if job.state != "done" or job.found != job.handled:
                wrong.append(f"a job is not well: {job}")
        names = [document.name for document in owl.documents("c")]
        if len(names) != len(set(names)):
            wrong.append(f"{len(names) - len(set(names))} documents are double")
        for word, document in words.items():
            hits = [hit.item for hit in owl.search("c", word, k=5) if word in (hit.item.text or "")]
            if [hit.document_name for hit in hits] != [document]:
                wrong.append(f"{word} of {document} is in {[h.document_name for h in hits]}")
        with db.reading(owl.engine) as session:
            half = session.scalar(
                select(func.count()).where(~RevisionRow.complete)
            )  # fmt: skip
            known = set(session.scalars(select(SegmentRow.id)))
        if half:
            wrong.append(f"{half} revisions are half-read")
        if strays := set(owl.segments.names()) - known:
            wrong.append(f"segments without a row: {strays}")
    if not url:
        wrong += problems(data)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--postgres", action="store_true")
    given = parser.parse_args()
    print(machine.describe())
    with tempfile.TemporaryDirectory(prefix="rag-owl-two-") as scratch:
        url = os.environ.get("RAG_OWL_TEST_POSTGRES", "") if given.postgres else ""
        server = None
        if given.postgres and not url:
            import pgserver

            server = pgserver.get_server(Path(scratch) / "postgres")
            url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        began = time.perf_counter()
        wrong = run(Path(scratch), url, given.files, given.rounds)
        where = "PostgreSQL" if url else "SQLite"
        print(
            f"{where}: {given.rounds} rounds of {given.files} files, two processes at once, "
            f"{time.perf_counter() - began:.0f} s; wrong: {len(wrong)} {wrong[:10]}"
        )
        if server is not None:
            server.cleanup()
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
