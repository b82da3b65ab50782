"""Documents by URL: nobody is led into our own network, nothing large or slow is waited for."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rag_owl import fetch
from rag_owl.errors import InvalidInput
from rag_owl.uploads import Upload


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
        "2001:0:1::1", "192.0.0.192", "168.63.129.16", "192.88.99.1", "fec0::1",
        "not an address", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not fetch.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_addresses_that_are(address: str) -> None:
    assert fetch.is_public(address)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "begins with https"),
        ("ftp://example.org/x", "begins with https"),
        ("gopher://example.org", "begins with https"),
        ("//example.org/x", "begins with https"),
        ("", "begins with https"),
        ("http://", "begins with https"),
        ("http://user:secret@example.org/", "without user"),
        ("http://example.org:22/", "usual ports"),
        ("https://example.org:80/", "usual ports"),
        ("http://example.org:99999/", "no address"),
        ("http://[::1/", "no address"),
        ("http://example.org/a b", "percent-encoded"),
        ("http://example.org/\r\nX-Evil: 1", "percent-encoded"),
        ("http://127.0.0.1/", "public internet"),
        ("http://localhost/", "public internet"),
        ("http://[::1]/", "public internet"),
        ("http://2130706433/", "public internet"),
        ("http://0x7f.1/", "public internet"),
        ("http://169.254.169.254/latest/meta-data/", "public internet"),
    ],
)
def test_addresses_that_are_refused(tmp_path: Path, url: str, reason: str) -> None:
    with Upload(tmp_path) as upload, pytest.raises(InvalidInput, match=reason) as caught:
        fetch.fetch(url, upload, 1_000, 5)
    assert caught.value.field == "url"


class Site:
    """A real server on loopback that the test takes for public, on whatever port it got."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Any], None]] = {}
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, dict(self.headers)))
                site.answers[self.path.split("?")[0]](self)

            def log_message(self, *_: object) -> None:
                pass

        self.asked: list[tuple[str, dict[str, str]]] = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def page(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        def answer(handler: Any) -> None:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The names `owls.example` and `evil.example`, which really resolve to loopback here."""
    found = Site()
    addresses = {"owls.example": "93.184.216.34", "evil.example": "10.0.0.7"}
    connect, look_up = socket.create_connection, socket.getaddrinfo

    def resolve(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host == "127.0.0.1":  # of the connection to the site itself
            return list(look_up(host, port, *more, **named))
        if host not in addresses:
            raise socket.gaierror("no such host")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[host], port))]

    def to_the_site(address: tuple[str, int], timeout: float | None = None) -> socket.socket:
        # Only what was checked is connected to, and only under that very address.
        assert address == ("93.184.216.34", 80)
        return connect(("127.0.0.1", found.port), timeout)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", to_the_site)
    yield found
    found.server.shutdown()
    found.server.server_close()


def fetched(tmp_path: Path, url: str, most: int = 1_000, seconds: float = 60) -> tuple[str, bytes]:
    with Upload(tmp_path) as upload:
        got = fetch.fetch(url, upload, most, seconds)
        return got.name, (upload.folder / got.name).read_bytes()


def test_a_document_comes_with_its_name(tmp_path: Path, site: Site) -> None:
    site.page("/a/snowy%20owl.txt", b"white")
    assert fetched(tmp_path, "http://owls.example/a/snowy%20owl.txt?v=2") == (
        "snowy owl.txt",
        b"white",
    )
    path, headers = site.asked[0]
    assert path == "/a/snowy%20owl.txt?v=2"
    assert headers["Host"] == "owls.example"
    assert not {"Cookie", "Authorization", "X-Forwarded-For"} & set(headers)


def test_redirects_are_checked_each(tmp_path: Path, site: Site) -> None:
    site.page("/x", b"", 302, Location="/y")
    site.page("/y", b"there")
    assert fetched(tmp_path, "http://owls.example/x") == ("y", b"there")
    for target in ("http://evil.example/", "http://127.0.0.1/", "file:///etc/passwd"):
        site.page("/x", b"", 302, Location=target)
        with pytest.raises(InvalidInput, match="cannot fetch"):
            fetched(tmp_path, "http://owls.example/x")
    site.page("/x", b"", 302, Location="/x")
    with pytest.raises(InvalidInput, match="redirects more than"):
        fetched(tmp_path, "http://owls.example/x")


def test_one_private_address_among_several_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [(2, 1, 6, "", (each, port)) for each in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(InvalidInput, match="public internet"):
        fetched(tmp_path, "http://rebinding.example/")


def test_too_large_announced_or_not(tmp_path: Path, site: Site) -> None:
    site.page("/announced", b"x" * 2_000)
    with pytest.raises(InvalidInput, match="larger than the limit of 1,000"):
        fetched(tmp_path, "http://owls.example/announced")

    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"x" * 100_000)

    site.answers["/silent"] = endless
    with pytest.raises(InvalidInput, match="larger than the limit"):
        fetched(tmp_path, "http://owls.example/silent")
    assert not list((tmp_path / "uploads").iterdir())


def test_too_slow(tmp_path: Path, site: Site) -> None:
    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    site.answers["/drip"] = drip
    with pytest.raises(InvalidInput, match=r"too long|timed out"):
        fetched(tmp_path, "http://owls.example/drip", seconds=0.5)


@pytest.mark.parametrize("start", ["X-Drip: ", "Transfer-Encoding: chunked\r\n\r\n1;drip="])
def test_too_slow_within_a_line(tmp_path: Path, site: Site, start: str) -> None:
    """No read of such an answer times out by itself."""
    waited_for = []

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.flush_headers()
        handler.wfile.write(start.encode())
        for _ in range(200):
            handler.wfile.write(b"x")
            time.sleep(0.05)
        waited_for.append(start)
        end = b"\r\nx\r\n0\r\n\r\n" if "chunked" in start else b"\r\n\r\nx"
        handler.wfile.write(end)

    site.answers["/drip"] = drip
    with pytest.raises(InvalidInput, match="too long"):
        fetched(tmp_path, "http://owls.example/drip", seconds=0.5)
    assert not waited_for


def test_broken_off_and_refused(tmp_path: Path, site: Site) -> None:
    def half(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "500")
        handler.end_headers()
        handler.wfile.write(b"x" * 100)

    site.answers["/half"] = half
    with pytest.raises(InvalidInput, match="cannot fetch"):
        fetched(tmp_path, "http://owls.example/half")
    site.page("/missing", b"no", 404)
    with pytest.raises(InvalidInput, match="status 404"):
        fetched(tmp_path, "http://owls.example/missing")
    with pytest.raises(InvalidInput, match="no such host"):
        fetched(tmp_path, "http://nobody.example/")
