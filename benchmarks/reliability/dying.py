"""The processes that `benchmarks.reliability.kills` kills.

They are forked from a server that has imported everything and has no threads: a process is there
in a tenth of the processor time that a new interpreter would need, and dies as any other does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from benchmarks.reliability import material
from rag_owl import RagOwl
from rag_owl.errors import Conflict, NotFound

_LOADED = (
    "benchmarks.reliability.dying",
    "rag_owl.api.cli",
    "rag_owl.api.cli_service",
    "rag_owl.api.serve",
    "rag_owl.backup",
    "rag_owl.job_queue",
    "rag_owl.indexer.pipeline",
    "rag_owl.indexer.reindex",
    "rag_owl.indexer.upkeep",
    "rag_owl.indexer.vectors",
    "rag_owl.retention",
    "faiss",
    "alembic",
    "psycopg",
)
_MOST_WAITING = 8  # times as long as it was to work


class Dying:
    """A process in a session of its own, and what it has said so far, line by line."""

    def __init__(self, target: Callable[..., None], *given: object, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_LOADED))
        self._log = log
        log.write_text("")
        self._process: ForkServerProcess = context.Process(target=_run, args=(log, target, given))
        self._process.start()

    @property
    def said(self) -> list[str]:
        """Whole lines alone."""
        return self._log.read_text().split("\n")[:-1]

    def wait_for(self, line: str) -> bool:
        """Until it says so; False: it has ended before."""
        while line not in self.said:
            if not self.runs:
                return line in self.said
            time.sleep(0.02)
        return True

    def work_for(self, seconds: float) -> None:
        """Until it and its children had the processor for so long, or have waited for something;
        on a busy machine that takes longer, and the same is done in it."""
        until = time.monotonic() + _MOST_WAITING * seconds
        while self.runs and self._processor_seconds() < seconds and time.monotonic() < until:
            time.sleep(0.02)

    def _processor_seconds(self) -> float:
        try:
            mine = psutil.Process(self._process.pid)
            times = [each.cpu_times() for each in (mine, *mine.children(recursive=True))]
        except psutil.NoSuchProcess:
            return 0.0
        return sum(each.user + each.system for each in times)

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> int:
        """SIGKILL, or nothing where it has ended; how it ended."""
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid or 0, signal.SIGKILL)
        self._process.join()
        return self._process.exitcode or 0


def _run(log: Path, target: Callable[..., None], given: tuple[object, ...]) -> None:
    os.setsid()
    with log.open("a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        try:
            target(*given)
        except BaseException:
            traceback.print_exc()
            raise


def work(data: Path, url: str, kind: str, extra: str, folders: list[Path]) -> None:
    """Ingest the folders one after the other, and beside each do what `kind` says."""
    opened = RagOwl.open(data, database_url=url or None, stalled_seconds=2, **material.LIGHT)
    with opened as owl:
        print("open")
        for folder in folders:
            jobs = [owl.ingest("c", [folder], wait=False)]
            try:
                if kind == "reindex":
                    jobs.append(owl.reindex("c", index_type=extra, wait=False))  # type: ignore[arg-type]
                elif kind == "merge":
                    jobs.append(owl.begin_upkeep("merge"))
                elif kind == "delete":
                    jobs.append(owl.delete_document("c", extra))
                elif kind == "backup":
                    owl.backup(f"{extra}{folder.name}")
                    print(f"saved {extra}{folder.name}")
            except (Conflict, NotFound) as refused:
                print(f"refused {refused}")
            for job in jobs:
                owl.wait_for_job(job.id)
        print("done")


def serve(environment: Mapping[str, str]) -> None:
    """`rag-owl serve`."""
    from rag_owl.api.cli import main

    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["rag-owl", "serve"]
    main()
