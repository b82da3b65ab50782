"""`rag-owl serve`: uvicorn, the log, and the process beside it that works the jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn

from rag_owl.api import auth, logs
from rag_owl.api.app import create_app
from rag_owl.api.middleware import split_list
from rag_owl.client import RagOwl
from rag_owl.errors import InvalidSettings
from rag_owl.settings import Settings, read_settings

log = structlog.get_logger(__name__)

_PATIENCE = 15.0  # seconds for the worker to finish its batch
_AGAIN = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds until a worker that died is started again


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; running answers may finish within `shutdown_seconds`.

    Raises `InvalidSettings` for an address that cannot be used, and as starting the app does.
    """
    logs.configure(settings.log_format)
    _check(settings)
    # A thread that holds the interpreter for long makes every answer wait: let go more often.
    sys.setswitchinterval(0.001)
    app = create_app(settings)
    listening = _listen(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=split_list(settings.trusted_proxies),
        timeout_graceful_shutdown=settings.shutdown_seconds or None,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 * 1024,
        lifespan="on",
    )
    server = uvicorn.Server(config)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    with listening, _worker(settings):
        log.info("listening", address=f"http://{shown}:{port}", key_needed=auth.needs_key(settings))
        # While it runs, uvicorn has handlers of its own; afterwards it raises the signal again.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: None)
        server.run(sockets=[listening])


def _check(settings: Settings) -> None:
    """What would stop the start, said in one line before anything is loaded."""
    with RagOwl.open(work_jobs=False, **dict(settings)) as owl:
        auth.check_start(owl.engine, settings)


def _listen(settings: Settings) -> socket.socket:
    """Bound before anything is loaded: an address in use is said at once."""
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, settings.port))
        listening.set_inheritable(True)
    except OSError as error:
        listening.close()
        raise InvalidSettings(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; "
            "choose others with --host and --port"
        ) from error
    return listening


@contextlib.contextmanager
def _worker(settings: Settings) -> Iterator[None]:
    """A process that works the folder's jobs, at low priority, and ends with this one."""
    if settings.job_runner != "process":
        yield
        return
    worker = Worker(settings.data)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


class Worker:
    """Keeps one `rag-owl worker` running. It ends by itself when our end of its pipe closes."""

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-m", "rag_owl.api.cli", "worker"]
        self._command = [*command, "--data", str(data), "--until-closed"]
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
                # A terminal's ^C is for us, who then close its pipe.
                start_new_session=True,
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
        os.nice(10)  # questions first
    if until_closed:
        threading.Thread(target=_wait_for_end, args=(stop,), daemon=True).start()
    with RagOwl.open(data):
        stop.wait()


def _wait_for_end(stop: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    stop.set()
