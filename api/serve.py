"""`rag-owl serve`: uvicorn, its socket and the log."""

from __future__ import annotations

import gc
import signal
import socket
import sys

import uvicorn

from rag_owl.api import auth, logs, tracing
from rag_owl.api.app import create_app
from rag_owl.api.middleware import split_list
from rag_owl.api.protocol import HEADER_BYTES, TimedProtocol
from rag_owl.client import RagOwl
from rag_owl.errors import InvalidSettings
from rag_owl.settings import Settings

log = logs.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; running answers may finish within `shutdown_seconds`.

    Raises `InvalidSettings` for an address that cannot be used, and as starting the app does.
    """
    logs.configure(settings.log_format)
    finish_traces = tracing.configure(settings)
    listening = _listen(settings)
    _check(settings)
    # A thread that holds the interpreter for long makes every answer wait: let go more often.
    sys.setswitchinterval(0.001)
    app = create_app(settings, on_ready=_settle)
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=split_list(settings.trusted_proxies),
        timeout_graceful_shutdown=settings.shutdown_seconds or None,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=HEADER_BYTES,
        lifespan="on",
    )
    server = uvicorn.Server(config)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    with listening:
        log.info("listening", address=f"http://{shown}:{port}", key_needed=auth.needs_key(settings))
        # While it runs, uvicorn has handlers of its own; afterwards it raises the signal again.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: None)
        try:
            server.run(sockets=[listening])
        finally:
            finish_traces()


def _settle() -> None:
    """Take what is loaded for good out of the collector's sight.

    Models and libraries are some 350,000 objects: every full collection would walk them for 0.2 s
    on one core, several times that on a busy one, and every answer, health's too, would wait.
    """
    gc.collect()
    gc.freeze()


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
