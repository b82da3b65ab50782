"""`rag-owl serve` as a process of its own over a new data folder, for the scripts beside this."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

PATIENCE = 900  # seconds until it is ready, on a machine that others use too


@dataclass(frozen=True)
class Served:
    address: str
    process: subprocess.Popen[bytes]
    data: Path
    log: Path


@contextmanager
def served(data: Path, **settings: object) -> Iterator[Served]:
    """The service, ready; ended by SIGTERM. Its log lies beside the data folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        **{f"RAG_OWL_{name.upper()}": str(value) for name, value in settings.items()},
    }
    log = data.parent / "serve.log"
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "rag_owl.api.cli", "serve", "--data", data, "--port", str(port)],
            env=environment,
            stderr=lines,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address, log)
        yield Served(address, process, data, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    with httpx.Client(base_url=address) as http:  # making one costs more than a request
        while time.monotonic() < until and process.poll() is None:
            try:
                if http.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
    raise SystemExit(f"the service did not start:\n{log.read_text()[-2_000:]}")


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rag-owl-http-") as folder:
        yield Path(folder)


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
