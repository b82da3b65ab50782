"""Several workers on one PostgreSQL: `python -m benchmarks.reliability.workers [--texts N]`.

- How much faster two workers ingest than one, where a delay stands for the embedder (it takes as
  long as a slow model would, without a processor of its own).
- A database that goes away for half a minute while two workers ingest and a service answers: which
  processes ended, what was embedded twice, what is wrong afterwards.
- A worker that is suspended until its job went to another, and then continued: what it activated.

The PostgreSQL is one out of the `pgserver` wheel. Texts are embedded by hashing, after the delay.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, text

from benchmarks import machine
from benchmarks.reliability import material
from rag_owl import RagOwl, db
from rag_owl.settings import as_environment
from rag_owl.types import Job
from tests.consistency import problems

_WORKER = """
import sys, time
from benchmarks.reliability import material
from rag_owl import RagOwl
from rag_owl.indexer.embed import HashingEmbedder

data, url, delay, stalled, journal = sys.argv[1:]
embed = HashingEmbedder.embed_texts

def slowly(self, texts, batch_size=32):
    time.sleep(float(delay) * len(texts))
    with open(journal, "a") as file:
        file.write(f"{len(texts)}\\n")
    return embed(self, texts, batch_size)

HashingEmbedder.embed_texts = slowly
with RagOwl.open(data, database_url=url, stalled_seconds=float(stalled), **material.LIGHT):
    print("ready", flush=True)
    sys.stdin.read()
"""


@dataclass
class Place:
    """A data folder and its database."""

    data: Path
    url: str
    journal: Path  # what was embedded: a number of texts a line

    def open(self, **more: Any) -> RagOwl:
        """Without working jobs: the workers do."""
        return RagOwl.open(
            self.data, database_url=self.url, work_jobs=False, **{**material.LIGHT, **more}
        )

    @property
    def embedded(self) -> int:
        return sum(map(int, self.journal.read_text().split())) if self.journal.exists() else 0


class Server:
    """A PostgreSQL that can be taken away."""

    def __init__(self, folder: Path) -> None:
        import pgserver

        self._server = _patiently(lambda: pgserver.get_server(folder))
        self._uri = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")

    def place(self, scratch: Path, name: str) -> Place:
        admin = db.connect(self._uri)
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        admin.dispose()
        url = make_url(self._uri).set(database=name).render_as_string(hide_password=False)
        return Place(scratch / name, url, scratch / f"{name}.journal")

    @contextmanager
    def away(self) -> Iterator[None]:
        from pgserver import pg_ctl

        pg_ctl(
            ["-m", "immediate", "stop"], pgdata=self._server.pgdata, user=self._server.system_user
        )
        try:
            yield
        finally:
            _patiently(self._server.ensure_postgres_running)

    def close(self) -> None:
        self._server.cleanup()


def _patiently(start: Callable[[], Any]) -> Any:
    """It waits ten seconds for the server to start, too few on a busy machine."""
    for _ in range(30):
        try:
            return start()
        except (subprocess.SubprocessError, AssertionError):  # not ready yet
            time.sleep(1)
    return start()


@contextmanager
def workers(place: Place, count: int, delay: float, stalled: float = 5) -> Iterator[list[Worker]]:
    """Processes that work jobs, ready to."""
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                _WORKER,
                *map(str, (place.data, place.url, delay, stalled, place.journal)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(count)
    ]
    try:
        for each in started:
            assert each.stdout is not None
            if each.stdout.readline() != "ready\n":
                raise RuntimeError(each.communicate()[1])
        yield started
    finally:
        for each in started:
            each.send_signal(signal.SIGCONT)
            each.kill()
            each.communicate()


Worker = subprocess.Popen[str]
PARTS = ("speed", "outage", "suspended")


def write(folder: Path, jobs: int, texts: int) -> list[Path]:
    """As many files of rows, no two rows alike."""
    folder.mkdir(parents=True)
    files = []
    for job in range(jobs):
        files.append(folder / f"{job}.jsonl")
        rows = (json.dumps({"text": f"The word here is w{job}x{row}q."}) for row in range(texts))
        files[-1].write_text("\n".join(rows))
    return files


def begin(owl: RagOwl, files: list[Path]) -> list[str]:
    return [owl.ingest("c", [file], wait=False).id for file in files]


def end(owl: RagOwl, jobs: list[str]) -> list[Job]:
    return [owl.wait_for_job(job) for job in jobs]


def check(place: Place, ended: list[Job], texts: int) -> list[str]:
    """What is wrong afterwards; texts: of all jobs together."""
    wrong = [f"not well: {job}" for job in ended if job.state != "done" or job.handled != job.found]
    with place.open() as owl:
        (info,) = owl.collections()
        if (info.documents, info.items) != (texts, texts):
            wrong.append(f"{texts} texts became {info.documents} documents, {info.items} items")
    return wrong + problems(place.data, place.url)


def speed(place: Place, count: int, jobs: int, texts: int, delay: float) -> tuple[float, list[str]]:
    """(seconds, what is wrong): all jobs go into one collection."""
    files = write(place.data.with_suffix(".files"), jobs, texts)
    with workers(place, count, delay), place.open() as owl:
        end(owl, begin(owl, [_first(place)]))  # models are loaded, the collection is there
        began = time.perf_counter()
        ended = end(owl, begin(owl, files))
        seconds = time.perf_counter() - began
    return seconds, check(place, ended, jobs * texts + 1)


def _first(place: Place) -> Path:
    file = place.data.with_suffix(".txt")
    file.write_text("The first text of all.")
    return file


@dataclass
class Outage:
    seconds: float  # until all was done, the outage included
    away: float  # how long the database could not be reached, its start included
    ended: int  # processes that did not live through it
    repeated: int  # texts that were embedded more than once
    statuses: list[int]  # of /readyz: before, while it was away, afterwards
    wrong: list[str]


def outage(
    server: Server, place: Place, jobs: int, texts: int, delay: float, away: float
) -> Outage:
    files = write(place.data.with_suffix(".files"), jobs, texts)
    # Nobody's heart beats while the database is away; what is silent for that long is alive.
    with workers(place, 2, delay, stalled=max(2 * away, 30)) as both, place.open() as owl:
        began = time.perf_counter()
        running = begin(owl, files)
        with _service(owl) as (service, ask):
            _until(lambda: ask() == 200)
            statuses = [ask()]
            _until(lambda: any(owl.job(job).items for job in running))
            gone_at = time.perf_counter()
            with server.away():
                time.sleep(away / 2)
                statuses.append(ask())
                time.sleep(away / 2)
            was_away = time.perf_counter() - gone_at
            ended = end(owl, running)
            seconds = time.perf_counter() - began
            _until(lambda: ask() == 200)
            statuses.append(ask())
            gone = sum(each.poll() is not None for each in (*both, service))
    wrong = check(place, ended, jobs * texts)
    return Outage(seconds, was_away, gone, place.embedded - jobs * texts, statuses, wrong)


@contextmanager
def _service(owl: RagOwl) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], int]]]:
    """`rag-owl serve` without a worker of its own, and its readiness."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "rag_owl.api.cli", "serve", "--port", str(port)],
        env=as_environment(owl.settings.model_copy(update={"job_runner": "none"})),
        stderr=subprocess.DEVNULL,
    )

    def ask() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    try:
        yield process, ask
    finally:
        process.kill()
        process.wait()


def suspended(place: Place, texts: int, delay: float) -> tuple[str, list[str]]:
    """(what the suspended worker said when it went on, what is wrong afterwards)."""
    files = write(place.data.with_suffix(".files"), 1, texts)
    with workers(place, 1, delay, stalled=2) as (first,), place.open() as owl:
        (job,) = begin(owl, files)
        _until(lambda: owl.job(job).items > 0)
        first.send_signal(signal.SIGSTOP)
        items = owl.job(job).items
        with workers(place, 1, delay, stalled=2):
            _until(lambda: owl.job(job).items > items)  # the other one goes on with it
            first.send_signal(signal.SIGCONT)
            ended = end(owl, [job])
        wrong = check(place, ended, texts)
        # The first is alone again, and well.
        ended = end(owl, begin(owl, [_first(place)]))
        wrong += [f"not well: {each}" for each in ended if each.added != 1]
        first.send_signal(signal.SIGTERM)
        said = first.communicate(timeout=60)[1]
    return said, wrong


def _until(condition: Callable[[], bool], seconds: float = 500) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("waited in vain")
        time.sleep(0.05)


def _speeds(server: Server, scratch: Path, given: argparse.Namespace) -> list[str]:
    took, wrong = {}, []
    for count in (1, 2):
        place = server.place(scratch, f"with{count}")
        took[count], found = speed(place, count, given.jobs, given.texts, given.delay)
        wrong += found
    total = given.jobs * given.texts
    print(
        f"{given.jobs} jobs of {given.texts} texts into one collection, {given.delay} s for each "
        f"text: one worker {took[1]:.1f} s ({total / took[1]:.0f} texts a second), two "
        f"{took[2]:.1f} s ({total / took[2]:.0f}): {took[1] / took[2]:.2f} times as fast",
        flush=True,
    )
    return wrong


def _outage(server: Server, scratch: Path, given: argparse.Namespace) -> list[str]:
    place = server.place(scratch, "away")
    seen = outage(server, place, given.jobs, given.texts, given.delay, given.away)
    print(
        f"without a database for {seen.away:.0f} s while two workers ingest "
        f"{given.jobs * given.texts} texts: all done after {seen.seconds:.0f} s; processes that "
        f"ended: {seen.ended} of 3; texts embedded again: {seen.repeated}; /readyz before, "
        f"meanwhile, afterwards: {seen.statuses}",
        flush=True,
    )
    return seen.wrong + ["a process ended"] * seen.ended


def _suspended(server: Server, scratch: Path, given: argparse.Namespace) -> list[str]:
    said, wrong = suspended(server.place(scratch, "suspended"), given.texts, given.delay)
    outdone = [line for line in said.splitlines() if "taken over" in line]
    print(
        f"a worker suspended until another had its job, then continued, said: {outdone}",
        flush=True,
    )
    return wrong if outdone else [*wrong, f"it noticed nothing: {said[-2_000:]}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--texts", type=int, default=400, help="of each job")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds for each text")
    parser.add_argument("--away", type=float, default=30, help="seconds without a database")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    given = parser.parse_args()
    print(machine.describe())
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rag-owl-workers-") as name:
        scratch = Path(name)
        server = Server(scratch / "postgres")
        if "speed" in given.only:
            wrong += _speeds(server, scratch, given)
        if "outage" in given.only:
            wrong += _outage(server, scratch, given)
        if "suspended" in given.only:
            wrong += _suspended(server, scratch, given)
        server.close()
    print(f"wrong: {len(wrong)} {wrong[:10]}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
