"""A real S3 interface on loopback (moto's), whose answers can be made to fail on the way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "owls"
Fault = Callable[[str, str], str | None]
"""(method, path) -> None, or what is to go wrong: `503`; `half`: half of the body, as if it were
all of it; `cut`: the connection ends in the midst of it; `flip`: one bit of it is another one."""


class S3:
    """A server with one bucket. `fault` is asked before each answer."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.fault: Fault | None = None
        self.requests: list[tuple[str, str]] = []  # method, path
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        wrong = self.fault(method, path) if self.fault else None
        if wrong == "503":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Later.</Message></Error>"]
        if wrong is None:
            answer: Iterable[bytes] = self._app(environ, start)
            return answer
        said: list[Any] = []
        body = b"".join(self._app(environ, lambda *given: said.extend(given)))
        # As a store answers that sends no checksums.
        told = ("content-length", "x-amz-checksum", "x-amz-sdk-checksum")
        status, headers = said[0], [(n, v) for n, v in said[1] if not n.lower().startswith(told)]
        length = len(body)
        if wrong == "flip":
            middle = length // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        else:
            body = body[: length // 2]
        headers.append(("Content-Length", str(length if wrong == "cut" else len(body))))
        start(status, headers)
        return [body]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    server = S3()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """With an empty bucket, and the environment that reaches it."""
    import boto3
    from moto.s3.models import s3_backends

    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    for backends in s3_backends.values():
        for backend in backends.values():
            backend.reset()
    boto3.client("s3", endpoint_url=s3_server.url).create_bucket(Bucket=BUCKET)
    s3_server.requests.clear()
    return s3_server


def environment(server: S3) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
