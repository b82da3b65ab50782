"""Sudden death: `python -m benchmarks.reliability.kills [--kills N] [--seed S] [--files M]`.

A process ingests folders of mixed files, one after the other, and is killed (`SIGKILL`) at a random
moment, again and again. After each death the folder is opened, asked, and looked at: every document
that was committed before is still found. In the end the jobs are finished and everything is
compared: each text is found in its document, none is double, rows and files are of one piece, and
after `doctor --deep` no file is left that nothing refers to. (So that blobs count as old enough to
be orphans, all files are dated back by a day first.) Texts are embedded by hashing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.reliability import material
from rag_owl import RagOwl, db
from rag_owl.api.doctor import examine
from rag_owl.store import blob_uses
from tests.consistency import problems

_INGEST = """
import sys
from benchmarks.reliability import material
from rag_owl import RagOwl
with RagOwl.open(sys.argv[1], **material.LIGHT) as owl:
    print("open", flush=True)
    for folder in sys.argv[2:]:
        job = owl.ingest("c", [folder])
        print("done", job.state, flush=True)
"""


@dataclass
class Course:
    """What happened."""

    kills: int = 0
    in_ingest: int = 0  # kills that hit a process that had the folder open
    acknowledged: int = 0  # documents that were committed at the last death
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    skipped: int = 0
    documents: int = 0
    orphans: int = 0  # removed in the end
    slowest_opening: float = 0.0


def run(scratch: Path, kills: int, seed: int, files: int, folders: int = 4) -> Course:
    chance = random.Random(seed)
    words: dict[str, str] = {}  # no two files are alike: equal bytes are one document, renamed
    given = []
    for number in range(folders):
        given.append(scratch / f"files{number}")
        words |= material.mixed(given[-1], files // folders, chance, f"w{seed}f{number}")
    data = scratch / "data"
    course = Course()
    known: set[str] = set()
    while course.kills < kills:
        finished = _die(data, given, chance, course)
        _look(data, known, words, chance, course)
        if finished:  # there is always something to do: other files in the place of some
            number = chance.randrange(folders)
            shutil.rmtree(given[number])
            prefix = f"w{seed}f{number}k{course.kills}"
            words |= material.mixed(given[number], files // folders, chance, prefix)
    _finish(data, given, words, course)
    return course


def _die(data: Path, given: list[Path], chance: random.Random, course: Course) -> bool:
    """Ingest in another process and kill it; whether it was done before that."""
    child = subprocess.Popen(
        [sys.executable, "-c", _INGEST, str(data), *map(str, given)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    early = chance.random() < 0.15  # while it opens the folder, or before
    if not early and child.stdout.readline() != "open\n":
        course.wrong.append(f"the process ended by itself with {child.wait()}")
        return False
    time.sleep(chance.uniform(0, 5) if chance.random() < 0.8 else chance.uniform(0, 0.2))
    running = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    if running:
        course.kills += 1
        course.in_ingest += not early
    return not running


def _look(
    data: Path, known: set[str], words: dict[str, str], chance: random.Random, course: Course
) -> None:
    """Open, compare, ask; nobody works the jobs meanwhile."""
    began = time.perf_counter()
    with RagOwl.open(data, work_jobs=False, **material.LIGHT) as owl:
        course.slowest_opening = max(course.slowest_opening, time.perf_counter() - began)
        if not owl.collections():
            return
        now = {document.name for document in owl.documents("c")}
        if gone := known - now:
            course.lost.append(f"after kill {course.kills}: {sorted(gone)[:5]} ({len(gone)})")
        known |= now
        course.acknowledged = len(known)
        owl.ask("c", "Which country has the capital?", model="sentences")
        by_document: dict[str, list[str]] = {}
        for word, document in words.items():
            by_document.setdefault(document, []).append(word)
        complete = sorted(now & by_document.keys())
        for name in chance.sample(complete, min(5, len(complete))):
            word = chance.choice(by_document[name])
            hits = [hit.item for hit in owl.search("c", word, k=5) if word in (hit.item.text or "")]
            if len(hits) > 1:  # 0: of a long document that is still growing
                course.wrong.append(f"{word} is found {len(hits)} times")


def _finish(data: Path, given: list[Path], words: dict[str, str], course: Course) -> None:
    with RagOwl.open(data, **material.LIGHT) as owl:
        for job in owl.jobs():
            ended = owl.wait_for_job(job.id)
            if ended.state != "done":
                course.wrong.append(f"job {ended.state}: {ended.error}")
        for folder in given:
            owl.ingest("c", [folder])
        for folder in given:
            job = owl.ingest("c", [folder])
            course.skipped += job.skipped_count
            if job.state != "done" or job.added or job.updated:
                course.wrong.append(f"all was said to be there, but: {job}")
        for word, document in words.items():
            hits = [hit.item for hit in owl.search("c", word, k=5) if word in (hit.item.text or "")]
            if [hit.document_name for hit in hits] != [document]:
                course.lost.append(f"{word} of {document}: {[h.document_name for h in hits]}")
        course.documents = sum(1 for _ in owl.documents("c"))
        yesterday = time.time() - 86_400
        for path in (data / "blobs").rglob("*"):
            os.utime(path, (yesterday, yesterday))
        before = sum(path.is_file() for path in data.rglob("*"))
        for finding in examine(owl, deep=True):
            if not finding.well and finding.what not in ("faiss",):
                course.wrong.append(f"doctor: {finding.what}: {finding.detail}")
        course.orphans = before - sum(path.is_file() for path in data.rglob("*"))
        with db.reading(owl.engine) as session:
            used = {digest.hex() for digest in blob_uses.used(session)}
        if set(owl.blobs.list_keys()) != used:
            course.wrong.append("blobs are not those that rows refer to")
    # The pool's own folders are gone with the process; so are halves of files.
    for name in ("decoding", "blobs/arriving", "uploads"):
        if (data / name).is_dir() and (left := list((data / name).iterdir())):
            course.wrong.append(f"{name} holds {left}")
    course.wrong += problems(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=480)
    given = parser.parse_args()
    print(machine.describe())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rag-owl-kills-") as scratch:
        course = run(Path(scratch), given.kills, given.seed, given.files)
    print(
        f"{course.kills} kills, {course.in_ingest} of them after the folder was open; seed "
        f"{given.seed}, {given.files} mixed files, {time.perf_counter() - began:.0f} s"
    )
    print(f"the slowest opening afterwards: {course.slowest_opening:.1f} s")
    print(f"documents in the end: {course.documents}; skipped in the last pass: {course.skipped}")
    print(f"files without use that doctor --deep removed: {course.orphans}")
    print(f"lost: {len(course.lost)} {course.lost[:10]}")
    print(f"wrong: {len(course.wrong)} {course.wrong[:10]}")
    raise SystemExit(bool(course.lost or course.wrong))


if __name__ == "__main__":
    main()
