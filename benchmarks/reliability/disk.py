"""A full disk, a folder that may not be written, a file that changes while it is read.

    python -m benchmarks.reliability.disk [--moments N] [--files M]

The data folder lies on a small tmpfs of its own (in a user namespace, where mounting is not
allowed), which is filled up at N moments: when it has taken so many bytes of the ingest. Each time
the job must end with one clear error or wait and say so, no half of anything may be found, the
folder must open and answer; and after space is made the same ingest must go to its end. Where
nobody may mount, SQLite's `max_page_count` stands for the full disk, and the output says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.reliability import material
from rag_owl import RagOwl
from rag_owl.errors import DataFolderError, RagOwlError
from tests.consistency import problems

SIZE = 64 * 2**20  # bytes of the tmpfs
FITTED = "nothing: it fitted"
_INSIDE = "RAG_OWL_DISK_BENCHMARK_INSIDE"  # of the namespace


def free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class Ballast:
    """A file that takes what is left of the disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ballast"

    def fill(self, leave: int) -> None:
        """Take all but so many bytes."""
        with self.path.open("ab", buffering=0) as file:
            while (missing := free(self.path.parent) - leave) > 0:
                file.write(bytes(min(missing, 2**20)))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def full_disk(disk: Path, files: Path, words: dict[str, str], leave: int) -> tuple[str, list[str]]:
    """An ingest on a disk with `leave` bytes left: (what was said, what is wrong)."""
    data = disk / "data"
    wrong: list[str] = []
    ballast = Ballast(disk)
    said = FITTED
    try:
        # The folder is opened with room, as it was on another day.
        with RagOwl.open(data, **material.LIGHT) as owl:
            owl.ingest("warm", [next(files.glob("*.txt"))])
        ballast.fill(leave)
        try:
            with RagOwl.open(data, **material.LIGHT) as owl:
                job = owl.ingest("c", [files])
                if job.state != "done":
                    said = f"job {job.state}: {job.error}"
        except RagOwlError as error:
            said = f"{type(error).__name__}: {error}"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            wrong.append(f"an error that is none of ours: {said}")
        if "\n" in said or len(said) > 600:
            wrong.append(f"not one clear line: {said[:700]!r}")
        try:
            with RagOwl.open(data, work_jobs=False, **material.LIGHT) as owl:
                owl.search("warm", "word", k=5)
        except DataFolderError as error:  # SQLite cannot even read without a page of its log
            if leave > 100_000:
                wrong.append(f"the full folder does not open: {error}")
        ballast.remove()
        with RagOwl.open(data, **material.LIGHT) as owl:
            job = owl.ingest("c", [files])
            for each in owl.jobs():
                owl.wait_for_job(each.id)
            if job.state != "done" or job.found != job.handled:
                wrong.append(f"after space was made: {job}")
            for word, document in words.items():
                hits = owl.search("c", word, k=5)
                names = [h.item.document_name for h in hits if word in (h.item.text or "")]
                if names != [document]:
                    wrong.append(f"after space was made {word} is in {names}")
        wrong += problems(data)
    finally:
        ballast.remove()
        shutil.rmtree(data, ignore_errors=True)
    return said, wrong


def needed(disk: Path, files: Path) -> int:
    """Bytes that the ingest takes where there is room."""
    data = disk / "data"
    with RagOwl.open(data, **material.LIGHT) as owl:
        owl.ingest("warm", [next(files.glob("*.txt"))])
    before = free(disk)
    least = [before]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            least[0] = min(least[0], free(disk))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with RagOwl.open(data, **material.LIGHT) as owl:
        owl.ingest("c", [files])
    stop.set()
    watcher.join()
    shutil.rmtree(data)
    return before - least[0]


def full_database(scratch: Path, files: Path, pages: int) -> tuple[str, list[str]]:
    """As `full_disk`, where SQLite may not grow beyond so many pages."""
    from sqlalchemy import event

    data = scratch / "paged"
    wrong: list[str] = []
    said = "nothing: it fitted"
    with RagOwl.open(data, **material.LIGHT) as owl:
        limit = event.listens_for(owl.engine, "connect")

        @limit
        def _limit(connection: object, _: object) -> None:
            connection.execute(f"PRAGMA max_page_count={pages}")  # type: ignore[attr-defined]

        owl.engine.dispose()
        try:
            job = owl.ingest("c", [files])
            said = f"job {job.state}: {job.error}" if job.state != "done" else said
        except RagOwlError as error:
            said = f"{type(error).__name__}: {error}"
    with RagOwl.open(data, **material.LIGHT) as owl:
        job = owl.ingest("c", [files])
        if job.state != "done" or job.found != job.handled:
            wrong.append(f"after space was made: {job}")
    wrong += problems(data)
    shutil.rmtree(data)
    return said, wrong


def read_only(scratch: Path, files: Path) -> tuple[str, list[str]]:
    """A folder that may only be read: by its mode, and for root by how it is mounted."""
    data = scratch / "read-only"
    with RagOwl.open(data, **material.LIGHT) as owl:
        owl.ingest("c", [next(files.glob("*.txt"))])
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    for path in [data, *data.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:  # whom modes do not stop
        subprocess.run(["mount", "--bind", str(data), str(data)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(data)], check=True)
    try:
        with RagOwl.open(data, **material.LIGHT) as owl:
            said = str(owl.ingest("c", [files]))
        wrong = ["nothing was said of a folder that may only be read"]
    except DataFolderError as error:
        said, wrong = f"DataFolderError: {error}", []
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "--lazy", str(data)], check=True)
        for path in [data, *data.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    after = {path: path.read_bytes() for path in before}
    if after != before:
        wrong.append("files of the folder changed")
    wrong += problems(data)
    return said, wrong


def changing(scratch: Path, chance: random.Random) -> tuple[str, list[str]]:
    """A file that is written to while it is read."""
    folder = scratch / "changing"
    folder.mkdir()
    path = folder / "long.txt"
    path.write_text("\n\n".join(material.text(f"old{at}q", chance) for at in range(4_000)))
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.02):
            with path.open("a") as file:
                file.write("\n\nand more of it")

    writer = threading.Thread(target=write)
    data = scratch / "data-changing"
    wrong = []
    with RagOwl.open(data, **material.LIGHT) as owl:
        writer.start()
        job = owl.ingest("c", [folder])
        stop.set()
        writer.join()
        said = "; ".join(f"{each.name}: {each.reason}" for each in job.skipped)
        if job.state != "done" or "changed while it was read" not in said:
            wrong.append(f"not said: {job}")
        if owl.search("c", "old0q", k=5):
            wrong.append("a half of it is found")
        job = owl.ingest("c", [folder])
        if (job.added, job.skipped_count) != (1, 0) or not owl.search("c", "old3999q", k=5):
            wrong.append(f"not read when it had come to rest: {job}")
    wrong += problems(data)
    return said, wrong


def report(what: str, found: tuple[str, list[str]]) -> int:
    said, wrong = found
    print(f"{what}\n    said: {said}", flush=True)
    for each in wrong[:5]:
        print(f"    WRONG: {each}", flush=True)
    return len(wrong)


def run(scratch: Path, moments: int, count: int, mounted: bool) -> int:
    chance = random.Random(1)
    files = scratch / "files"
    words = material.mixed(files, count, chance, "d")
    failures = 0
    if mounted:
        disk = scratch / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)]
        subprocess.run(command, check=True)
        try:
            takes = needed(disk, files)
            print(f"tmpfs of {SIZE / 2**20:.0f} MiB; {count} mixed files take {takes:,} bytes")
            for at in range(moments):
                leave = int(takes * (at + 0.5) / moments)
                for _ in range(5):  # what it takes at most differs: the log is emptied in between
                    said, wrong = full_disk(disk, files, words, leave)
                    if said != FITTED or wrong:
                        break
                    leave = leave * 9 // 10
                else:
                    wrong.append("the disk was never full: nothing is shown")
                what = f"{at + 1}. full when {leave:,} bytes of it are written"
                failures += report(what, (said.replace(str(disk), "DISK"), wrong))
            said, wrong = read_only(scratch, files)
            failures += report("read-only folder", (said.replace(str(scratch), "SCRATCH"), wrong))
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
    else:
        print("the kernel lets nobody mount here: SQLite's max_page_count stands for the disk")
        for at in range(moments):
            pages = 57 + 8 * at  # an empty database has 55
            what = f"{at + 1}. a database of {pages} pages at most"
            failures += report(what, full_database(scratch, files, pages))
        if os.geteuid():
            failures += report("read-only folder", read_only(scratch, files))
    return failures + report("a file that changes while it is read", changing(scratch, chance))


def in_namespace(arguments: list[str]) -> int | None:
    """Run this again where mounting is allowed; None where the kernel refuses."""
    for wrapper in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        probe = [*wrapper, "mount", "-t", "tmpfs", "none", tempfile.gettempdir()]
        try:
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                inside = [*wrapper, sys.executable, "-m", "benchmarks.reliability.disk"]
                environment = os.environ | {_INSIDE: "1"}
                return subprocess.run(
                    [*inside, *arguments], env=environment, check=False
                ).returncode
        except FileNotFoundError:
            return None
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--files", type=int, default=60)
    given = parser.parse_args()
    inside = os.environ.pop(_INSIDE, "") == "1"
    if not inside and (code := in_namespace(sys.argv[1:])) is not None:
        raise SystemExit(code)
    print(machine.describe())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rag-owl-disk-") as scratch:
        failures = run(Path(scratch), given.moments, given.files, inside)
    print(f"{time.perf_counter() - began:.0f} s; {json.dumps({'wrong': failures})}")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
