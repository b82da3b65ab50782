"""Fetching a document that a stranger named by URL, without being led into our own network.

Every host name is resolved by us, every address it has must be a public one, and the connection
goes to just the address that was checked: a name that resolves to something else a moment later
(DNS rebinding) gains nothing. The same at each redirect. No proxy, no cookies, no credentials.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from rag_owl.errors import InvalidInput
from rag_owl.uploads import Received, Upload

_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
_BLOCK = 1 << 16
_AGENT = "rag-owl"
# Public by the tables, and yet ways to somewhere else.
_INWARD = tuple(
    ipaddress.ip_network(each)
    for each in (
        # NAT64, 6to4 and its relays, Teredo, documentation, what was site-local
        *("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "192.88.99.0/24", "2001::/32"),
        *("3fff::/20", "fec0::/10"),
        # metadata and control of machines at Oracle and Azure
        *("192.0.0.0/24", "168.63.129.16/32"),
    )
)


def fetch(url: str, upload: Upload, most_bytes: int, seconds: float) -> Received:
    """One file into the upload, named as the address ends.

    Raises `InvalidInput` that names the address and what is wrong with it: no http or https,
    another port than theirs, not public, too large, too slow, a status other than 200.
    """
    until = time.monotonic() + seconds
    for _ in range(_REDIRECTS + 1):
        parts = _parts(url)
        connection = _connect(parts, until)
        sock = connection.sock  # which the connection forgets once the answer ends with it
        # A server that drips byte by byte never lets a read time out.
        late = threading.Timer(_left(until, url), _hang_up, (sock,))
        late.daemon = True
        late.start()
        try:
            _shake_hands(sock, parts)
            response = _ask(connection, parts, until)
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise _refused(url, f"it answers with status {response.status}")
            return _save(response, sock, url, upload, most_bytes, until)
        except (OSError, http.client.HTTPException) as error:
            _left(until, url)  # it may be us who hung up
            raise _refused(url, f"it cannot be read: {error or type(error).__name__}") from error
        finally:
            late.cancel()
            connection.close()
    raise _refused(url, f"it redirects more than {_REDIRECTS} times")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(url, f"this is no address: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise _refused(url, "give an address that begins with https:// or http://")
    if parts.username is not None or parts.password is not None:
        raise _refused(url, "give it without user and password")
    if port not in (None, _PORTS[parts.scheme]):
        raise _refused(url, "only the usual ports, 80 and 443, are read")
    if any(ord(char) <= 32 or ord(char) > 126 for char in url):
        raise _refused(url, "it holds spaces or other characters that must be percent-encoded")
    return parts


def public_addresses(host: str, port: int) -> list[str]:
    """All addresses of the host. Raises `InvalidInput` unless every one of them is public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused(host, f"there is no such host: {error}") from None
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    for address in addresses:
        if not is_public(address):
            raise _refused(host, "it does not lie in the public internet")
    return addresses


def is_public(address: str) -> bool:
    """Whether strangers may have us connect to it: not loopback, private, link-local, metadata."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return is_public(str(parsed.ipv4_mapped))
    if any(parsed in network for network in _INWARD):
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _connect(parts: SplitResult, until: float) -> http.client.HTTPConnection:
    """To an address that was checked, under the name that was asked for."""
    assert parts.hostname is not None
    port = _PORTS[parts.scheme]
    failure: OSError | None = None
    for address in public_addresses(parts.hostname, port):
        try:
            sock = socket.create_connection((address, port), timeout=_left(until, parts.hostname))
        except OSError as error:
            failure = error
            continue
        try:
            if parts.scheme == "https":
                sock = ssl.create_default_context().wrap_socket(
                    sock, server_hostname=parts.hostname, do_handshake_on_connect=False
                )
        except OSError as error:
            sock.close()
            raise _refused(parts.hostname, f"no safe connection: {error}") from error
        connection = http.client.HTTPConnection(parts.hostname, port)
        connection.sock = sock  # so that it resolves and connects to nothing by itself
        return connection
    raise _refused(parts.hostname, f"it cannot be reached: {failure}")


def _shake_hands(sock: socket.socket, parts: SplitResult) -> None:
    if isinstance(sock, ssl.SSLSocket):
        try:
            sock.do_handshake()
        except OSError as error:
            raise _refused(parts.netloc, f"no safe connection: {error}") from error


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, which another thread reads


def _ask(
    connection: http.client.HTTPConnection, parts: SplitResult, until: float
) -> http.client.HTTPResponse:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.sock.settimeout(_left(until, parts.netloc))
    # Host is written by hand: the connection's own would name the port of https.
    connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
    for name, value in (
        ("Host", parts.netloc),
        ("User-Agent", _AGENT),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def _save(
    response: http.client.HTTPResponse,
    sock: socket.socket,
    url: str,
    upload: Upload,
    most_bytes: int,
    until: float,
) -> Received:
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced[:20]) > most_bytes:
        raise _too_large(url, most_bytes)
    upload.begin(unquote(PurePosixPath(urlsplit(url).path).name) or "document")
    got = 0
    while block := response.read1(_BLOCK):
        got += len(block)
        if got > most_bytes:
            raise _too_large(url, most_bytes)
        upload.write(block)
        sock.settimeout(_left(until, url))
    _left(until, url)  # what ends because we hung up is not complete
    if announced.isdecimal() and got != int(announced[:20]):
        raise _refused(url, "it broke off half-way")
    return upload.end()


def _left(until: float, what: str) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise _refused(what, "it takes too long")
    return left


def _too_large(url: str, most_bytes: int) -> InvalidInput:
    return _refused(url, f"it is larger than the limit of {most_bytes:,} bytes")


def _refused(url: str, reason: str) -> InvalidInput:
    return InvalidInput(f"cannot fetch {url[:200]}: {reason}", field="url")
