"""Sudden death: `python -m benchmarks.reliability.kills [--kills N] [--seed S] [--postgres]`.

Processes ingest folders of mixed files, and meanwhile reindex, merge, delete or back up; or the
service takes uploads. They are killed (`SIGKILL`) at a random moment, again and again. After each
death the folder is opened, asked, and looked at: the live generation answers, and every document
that was committed before is still found. In the end all jobs have come to an end and everything is
compared: each text is found in its document, none is double, every upload that was acknowledged is
there, rows and files are of one piece, backups that were finished can be restored, and after
`doctor --deep` no file is left that nothing refers to. (So that blobs count as old enough to be
orphans, all files are dated back by a day first.) Texts are embedded by hashing. `--postgres`: on a
PostgreSQL out of the `pgserver` wheel.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks import machine
from benchmarks.reliability import material
from benchmarks.reliability.dying import Dying, serve, work
from benchmarks.reliability.workers import Server
from rag_owl import RagOwl, db
from rag_owl.api.doctor import examine
from rag_owl.settings import as_environment, read_settings
from rag_owl.store import blob_uses
from rag_owl.store import jobs as job_rows
from rag_owl.store.jobs import DEADLY
from rag_owl.types import Job
from tests.consistency import problems

KINDS = ("ingest", "reindex", "merge", "delete", "backup", "service")


@dataclass
class Course:
    """What happened."""

    kills: int = 0
    in_work: int = 0  # kills that hit a process that had the folder open
    kinds: dict[str, int] = field(default_factory=dict)  # kills by what went on beside an ingest
    deleted: set[str] = field(default_factory=set)  # names of documents that were
    saved: list[str] = field(default_factory=list)  # backups that were finished
    uploads: int = 0  # acknowledged by the service
    acknowledged: int = 0  # documents that were committed at the last death
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    given_up: int = 0  # jobs whose process was killed ten times with nothing done between
    skipped: int = 0
    documents: int = 0
    orphans: int = 0  # removed in the end
    slowest_opening: float = 0.0


def run(
    scratch: Path,
    kills: int,
    seed: int,
    files: int,
    folders: int = 4,
    url: str = "",
    kinds: tuple[str, ...] = KINDS,
    minutes: float = math.inf,
    say: bool = False,
) -> Course:
    """url: of an empty PostgreSQL; none: SQLite. minutes: after them it ends with fewer kills."""
    chance = random.Random(seed)
    words: dict[str, str] = {}  # no two files are alike: equal bytes are one document, renamed
    given, there = [], []  # folders, and what is in them as `words`
    for number in range(folders):
        given.append(scratch / f"files{number}")
        there.append(material.mixed(given[-1], files // folders, chance, f"w{seed}f{number}"))
        words |= there[-1]
    data = scratch / "data"
    course = Course()
    known: set[str] = set()
    began = time.perf_counter()
    while course.kills < kills and time.perf_counter() - began < 60 * minutes:
        kind = kinds[course.kills % len(kinds)]
        before = course.kills
        if kind == "service":
            finished = _die_serving(data, url, chance, course, words)
        else:
            file = scratch / f"backup{course.kills}-"
            extra = _extra(kind, data, url, known, course.deleted, chance, file)
            finished = _die(data, url, kind, extra, given, chance, course)
        course.kinds[kind] = course.kinds.get(kind, 0) + course.kills - before
        _look(data, url, known, words, chance, course)
        if say:
            print(
                f"{course.kills} kills, {kind}, {len(known)} documents, lost {len(course.lost)}, "
                f"wrong {len(course.wrong)}, {time.perf_counter() - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        if finished:  # there is always something to do: other files in the place of some
            number = chance.randrange(folders)
            shutil.rmtree(given[number])
            prefix = f"w{seed}f{number}k{course.kills}"
            there[number] = material.mixed(given[number], files // folders, chance, prefix)
            words |= there[number]
    # What was deleted of a folder that is there no more is not ingested again.
    again = {name for folder in there for name in folder.values()}
    gone = course.deleted - again
    words = {word: name for word, name in words.items() if name not in gone}
    _finish(data, url, given, words, course)
    return course


def _extra(
    kind: str,
    data: Path,
    url: str,
    known: set[str],
    deleted: set[str],
    chance: random.Random,
    backup: Path,
) -> str:
    if kind == "delete" and known:
        with RagOwl.open(data, work_jobs=False, database_url=url or None, **material.LIGHT) as owl:
            # Of a folder, which is ingested again in the end: then it is there again.
            mine = [each for each in owl.documents("c") if not each.name.startswith("up-")]
        if mine:
            victim = chance.choice(mine)
            known.discard(victim.name)
            deleted.add(victim.name)
            return victim.id
    return {"reindex": chance.choice(("flat", "hnsw")), "backup": str(backup)}.get(kind, "none")


def _die(
    data: Path,
    url: str,
    kind: str,
    extra: str,
    given: list[Path],
    chance: random.Random,
    course: Course,
) -> bool:
    """Work in another process and kill it; whether it was done before that."""
    child = Dying(work, data, url, kind, extra, given, log=data.with_name("said"))
    early = chance.random() < 0.15  # while it opens the folder, or before
    if not early and not child.wait_for("open"):
        course.wrong.append(f"the process ended by itself with {child.kill()}: {child.said[-20:]}")
        return False
    child.work_for(chance.uniform(0, 3) if chance.random() < 0.8 else chance.uniform(0, 0.2))
    running = child.runs
    status = child.kill()
    said = child.said
    course.saved += [line.removeprefix("saved ") for line in said if line.startswith("saved ")]
    if running:
        course.kills += 1
        course.in_work += not early
    elif "done" not in said:
        course.wrong.append(f"{kind} ended by itself with {status}: {said[-20:]}")
    return not running


def _die_serving(
    data: Path, url: str, chance: random.Random, course: Course, words: dict[str, str]
) -> bool:
    """Upload to a service until it is killed. What it answered with 202 is to be found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = read_settings(
        data=data, port=port, database_url=url or None, job_runner="thread", stalled_seconds=2,
        **material.LIGHT,
    )  # fmt: skip
    child = Dying(serve, as_environment(settings), log=data.with_name("said"))
    until: float | None = None  # the first upload that arrives begins its last seconds
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for at in range(10_000):
            name = f"up-{course.kills}-{at}.txt"
            word = f"up{course.kills}x{at}q"
            sent = {"files": (name, material.text(word, chance).encode())}
            try:
                answer = client.post("/v1/collections/c/documents", files=sent)
                if answer.status_code != 202:
                    course.wrong.append(f"an upload was answered with {answer.text}")
                    break
            except httpx.HTTPError:
                if not child.runs:
                    break
                time.sleep(0.1)  # it does not listen yet
                continue
            words[word] = name
            course.uploads += 1
            until = until or time.monotonic() + chance.uniform(0, 3)
            if time.monotonic() > until:
                break
    running = child.runs
    status = child.kill()
    if not running:
        course.wrong.append(f"the service ended by itself with {status}: {child.said[-20:]}")
        return False
    course.kills += 1
    course.in_work += 1
    return False


def _look(
    data: Path,
    url: str,
    known: set[str],
    words: dict[str, str],
    chance: random.Random,
    course: Course,
) -> None:
    """Open, compare, ask; nobody works the jobs meanwhile."""
    began = time.perf_counter()
    with RagOwl.open(data, work_jobs=False, database_url=url or None, **material.LIGHT) as owl:
        course.slowest_opening = max(course.slowest_opening, time.perf_counter() - began)
        if not owl.collections() or owl.collections()[0].text_embedder is None:
            return  # nothing was committed yet
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


def _jobs(owl: RagOwl) -> list[Job]:
    """All of them; `owl.jobs` has the newest."""
    with db.reading(owl.engine) as session:
        return job_rows.list_page(session, limit=100_000)


def _finish(data: Path, url: str, given: list[Path], words: dict[str, str], course: Course) -> None:
    with RagOwl.open(data, database_url=url or None, stalled_seconds=2, **material.LIGHT) as owl:
        for job in _jobs(owl):
            ended = owl.wait_for_job(job.id)
            died = "times in a row" in (ended.error or "") or DEADLY in (ended.error or "")
            if ended.state == "failed" and died:
                course.given_up += 1  # as said, until somebody asks for it again
                ended = owl.wait_for_job(owl.retry_job(job.id).id)
            if ended.state != "done":
                course.wrong.append(f"{ended.kind} {ended.state}: {ended.error}")
            # Of a folder: it is read again below.
            course.given_up += sum(s.reason == DEADLY for s in ended.skipped)
            others = (s for s in ended.skipped if s.reason != DEADLY)
            course.wrong += [f"skipped {s.name}: {s.reason}" for s in others]
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
        for kept in ("blobs", "uploads"):
            for path in (data / kept).rglob("*"):
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
    course.wrong += problems(data, url)
    for number, file in enumerate(course.saved):
        RagOwl.restore(file, data.parent / f"restored{number}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of killing, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=480)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--postgres", action="store_true")
    given = parser.parse_args()
    print(machine.describe())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rag-owl-kills-") as scratch:
        url, server = "", None
        if given.postgres:
            server = Server(Path(scratch) / "postgres")
            url = server.place(Path(scratch), "kills").url
        kinds = tuple(given.kinds)
        course = run(
            Path(scratch),
            given.kills,
            given.seed,
            given.files,
            url=url,
            kinds=kinds,
            minutes=given.minutes,
            say=True,
        )
        if server is not None:
            server.close()
    print(
        f"{'PostgreSQL' if given.postgres else 'SQLite'}: {course.kills} kills "
        f"({', '.join(f'{n} in {kind}' for kind, n in course.kinds.items())}), {course.in_work} of "
        f"them after the folder was open; {course.uploads} uploads acknowledged, "
        f"{len(course.saved)} backups finished and restored; seed "
        f"{given.seed}, {given.files} mixed files, {time.perf_counter() - began:.0f} s"
    )
    print(f"the slowest opening afterwards: {course.slowest_opening:.1f} s")
    print(f"documents in the end: {course.documents}; skipped in the last pass: {course.skipped}")
    print(
        "jobs given up after ten deaths with nothing done, and files after three, then retried: "
        f"{course.given_up}"
    )
    print(f"files without use that doctor --deep removed: {course.orphans}")
    print(f"lost: {len(course.lost)} {course.lost[:10]}")
    print(f"wrong: {len(course.wrong)} {course.wrong[:10]}")
    raise SystemExit(bool(course.lost or course.wrong))


if __name__ == "__main__":
    main()
