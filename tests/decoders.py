"""Decoders' processes that go from one opened folder to the next, instead of one for each.

Most of what a small ingest takes is starting one. That a decoder may be used again for any file is
what `rag_owl.indexer.loaders.apart_pool` is about; that folders end theirs when they are closed,
`tests/test_interrupted.py` tests with pools as they are.
"""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from rag_owl.indexer.loaders.apart_pool import DEFAULT_ALLOWANCE, Allowance, Decoder, Pool

MOST_KEPT = 2
_kept: list[Decoder] = []
_keeping = threading.Lock()


class SharingPool(Pool):
    """Its decoders write where the system's temporary files are, as no folder is theirs."""

    def __init__(
        self, allowance: Allowance = DEFAULT_ALLOWANCE, scratch: Path | None = None
    ) -> None:
        self._shares = allowance == DEFAULT_ALLOWANCE
        super().__init__(allowance, None if self._shares else scratch)

    @contextmanager
    def lend(self) -> Iterator[Decoder]:
        with self._lock, _keeping:
            if self._shares and not self._closed and not self._idle and _kept:
                self._idle.append(_kept.pop())
        with super().lend() as decoder:
            yield decoder

    def close(self) -> None:
        with self._lock, _keeping:
            while self._shares and self._idle and len(_kept) < MOST_KEPT:
                decoder = self._idle.pop()
                _kept.append(decoder) if decoder.reusable else decoder.end()
        super().close()


@atexit.register
def _end() -> None:
    for decoder in _kept:
        decoder.end()


OF_OTHERS: set[int] = set()


def decoders() -> list[psutil.Process]:
    """Those that were started since the test began: a server of other tests may have its own."""
    return [process for process in all_decoders() if process.pid not in OF_OTHERS]


def all_decoders() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended
            if "apart_child" in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextmanager
def when_busy(do: Callable[[psutil.Process], None]) -> Iterator[None]:
    """Within it, do it to each decoder that has worked for longer than a sound page would take."""
    over, done = threading.Event(), set[int]()

    def watch() -> None:
        while not over.wait(0.01):
            for process in decoders():
                with suppress(psutil.NoSuchProcess):
                    if process.pid not in done and process.cpu_times().user > 0.6:
                        done.add(process.pid)
                        do(process)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def hurry(process: psutil.Process) -> None:
    """As its own clock ends a decoder whose time is over."""
    process.send_signal(signal.SIGALRM)
