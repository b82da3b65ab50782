"""The process that works the jobs beside a service, so that no question waits for an ingest."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from rag_owl.api import logs
from rag_owl.client import RagOwl
from rag_owl.settings import Settings, as_environment, read_settings

log = logs.get_logger(__name__)

_PATIENCE = 15.0  # seconds for the worker to finish its batch
_AGAIN = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds until a worker that died is started again
_NICE = 10  # questions first


class Worker:
    """Keeps one `rag-owl worker` running. It ends by itself when our end of its pipe closes."""

    def __init__(self, settings: Settings) -> None:
        self._command = [sys.executable, "-m", "rag_owl.api.cli", "worker", "--until-closed"]
        self._environment = as_environment(settings)
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="rag-owl-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        process = self._process
        if process is not None:
            _close(process)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(_PATIENCE)

    def _keep(self) -> None:
        tries = 0
        while not self._stopping.is_set():
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                env=self._environment,
                # A terminal's ^C is for us, who then close its pipe. No session of its own: Linux
                # shares the processor between sessions first, and its niceness would count nothing.
                process_group=0,
            )
            if self._stopping.is_set():
                _close(self._process)
            status = self._process.wait()
            if self._stopping.is_set():
                return
            log.error("the job worker ended; it is started again", status=status)
            self._stopping.wait(_AGAIN[min(tries, len(_AGAIN) - 1)])
            tries += 1


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def work(data: Path | None, until_closed: bool) -> None:
    """`rag-owl worker`: work the folder's jobs until SIGTERM, or standard input is closed."""
    logs.configure(read_settings(data=data).log_format)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    if until_closed:
        threading.Thread(target=_wait_for_end, args=(stop,), daemon=True).start()
    with RagOwl.open(data):
        stop.wait()


def _wait_for_end(stop: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    stop.set()
