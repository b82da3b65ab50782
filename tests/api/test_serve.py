"""`rag-owl serve` as a process: how it starts, refuses to start, and stops."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.service import PATIENCE, make_key


@contextlib.contextmanager
def serving(data: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and its port, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(command(data, "--port", str(port), *more), text=True)
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            assert process.poll() is None
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                    break
            time.sleep(0.1)
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def command(data: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "rag_owl.api.cli", "serve", "--data", str(data), *more]


def refused(data: Path, *more: str) -> str:
    """The one line that it says instead of starting."""
    done = subprocess.run(
        command(data, *more), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_it_refuses_strangers_without_a_key(tmp_path: Path) -> None:
    assert "rag-owl keys create" in refused(tmp_path / "data", "--host", "0.0.0.0")


def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1 port {port}" in refused(tmp_path, "--port", port)


@pytest.mark.slow
def test_a_running_request_is_finished_and_the_worker_goes_too(tmp_path: Path) -> None:
    """Stopped while an upload arrives: it is taken to its end, and nothing is left running."""
    data = tmp_path / "data"
    with serving(data) as (process, port):
        workers = psutil.Process(process.pid).children()
        assert any("worker" in part for each in workers for part in each.cmdline())
        part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n'
        body = [part + b"An owl ", b"that hunts.\r\n--x--\r\n"]
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
            raw.sendall(
                b"POST /v1/collections/owls/documents HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n" % sum(map(len, body)) + body[0]
            )
            while not list((data / "uploads").glob("*/a.txt")):  # it is being taken
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            raw.sendall(body[1])
            answer = raw.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 202"), answer[:300]
        assert process.wait(PATIENCE) == 0
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
        assert not alive


@pytest.mark.slow
def test_killed_it_leaves_no_worker_and_loses_no_upload(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as (process, port):
        workers = psutil.Process(process.pid).children()
        sent = httpx.post(
            f"http://127.0.0.1:{port}/v1/collections/owls/documents",
            files={"files": ("a.txt", b"An owl that stays.")},
            timeout=PATIENCE,
        )
        assert sent.status_code == 202
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
        assert not alive
    with serving(data) as (_, port):
        base = f"http://127.0.0.1:{port}/v1"
        with httpx.Client(base_url=base, timeout=PATIENCE) as http:
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                job = http.get(f"/jobs/{sent.json()['job']['id']}").json()
                if job["state"] == "done":
                    break
                time.sleep(0.2)
            (document,) = http.get("/collections/owls/documents").json()["data"]
        assert document["name"] == "a.txt"


@pytest.mark.slow
def test_keys_from_the_command_line(tmp_path: Path) -> None:
    key = make_key(tmp_path / "data", "ask")

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rag_owl.api.cli", "keys", *arguments,
             "--data", str(tmp_path / "data")],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    made = keys("create", "the website", "--scope", "ask", "--collection", "a", "--expires", "90d")
    assert made.stdout.startswith("owl_")
    assert len(made.stdout.split()) == 1
    listed = keys("list").stdout
    assert "the website" in listed
    assert made.stdout.strip() not in listed
    assert key not in listed
    identity = next(line.split()[0] for line in listed.splitlines() if "the website" in line)
    assert keys("revoke", identity).returncode == 0
    assert "revoked" in keys("list").stdout
    for wrong in (
        ("create", "x", "--scope", "root"),
        ("create", "x", "--expires", "soon"),
        ("create", ""),
        ("revoke", "nope"),
    ):
        done = keys(*wrong)
        assert done.returncode == 1, wrong
        assert done.stderr.startswith("error:"), done.stderr
