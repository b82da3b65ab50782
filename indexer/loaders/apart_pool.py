"""Decoders' processes: started when they are needed, used again, ended when they do not answer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_owl.errors import Conflict, DataFolderError, RagOwlError, UnreadableMedia
from rag_owl.indexer.loaders.apart_wire import Broken, Channel
from rag_owl.media import Limits

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from rag_owl.indexer.loaders.apart_child import main; "
    "main(int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))"
)
# Of this process's environment a decoder sees what a program needs to run, and no secret.
_NAMES = """
PATH HOME LANG LC_ALL LC_CTYPE TZ PYTHONHOME PYTHONPATH PYTHONUTF8 PYTHONIOENCODING
LD_LIBRARY_PATH DYLD_LIBRARY_PATH LD_PRELOAD SYSTEMROOT VIRTUAL_ENV
"""
_ENVIRONMENT = frozenset(_NAMES.split())
# Libraries that make a thread and its buffers for every core would use up the memory.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_MOST_REQUESTS = 20_000  # of one process: what leaks does not grow for ever
_PATIENCE = 2.0  # seconds for an answer that should long be there
_START_SECONDS = 60.0  # until a process has loaded what it needs


class DecoderLost(Exception):
    """The process crashed or did not answer. The message is the reason, to be put after a name."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What decoding may cost."""

    seconds: float = 60.0  # for one piece: a file's first look, a page, a picture
    memory: int = 2 * 2**30  # bytes of data of one process
    processes: int = 2  # for pictures of questions; a job has one of its own


DEFAULT_ALLOWANCE = Allowance()


class Pool:
    """Safe for many threads. Nothing is started before it is needed."""

    def __init__(
        self, allowance: Allowance = DEFAULT_ALLOWANCE, scratch: Path | None = None
    ) -> None:
        """scratch: where decoders may write while they work; default: the system's place."""
        self.allowance = allowance
        self._scratch = scratch
        self._idle: list[Decoder] = []
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(allowance.processes)
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[Decoder]:
        """A decoder for one file; afterwards another may have it, unless it was lost."""
        with self._lock:
            if self._closed:
                raise Conflict("the data folder was closed")
            decoder = self._idle.pop() if self._idle else None
        if decoder is None or not decoder.alive:
            decoder = Decoder(self.allowance, self._scratch)
        try:
            yield decoder
        finally:
            with self._lock:
                keep = not self._closed and len(self._idle) <= self.allowance.processes
                if keep and decoder.reusable:
                    self._idle.append(decoder)
                    decoder = None
            if decoder is not None:
                decoder.end()

    def warm(self) -> None:
        """Have a decoder that has started."""
        with self.lend() as decoder:
            decoder.prepare()

    def check_picture(self, data: bytes, limits: Limits) -> None:
        """Raises `UnreadableMedia` unless `rag_owl.media.decode_picture` can decode the bytes."""
        with self._room, self.lend() as decoder:
            try:
                decoder.ask(("picture", data, limits))
                kind, *reason = decoder.answer()
            except DecoderLost as error:
                raise UnreadableMedia(str(error)) from error
        if kind != "end":
            raise UnreadableMedia(str(reason[0]))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.end()


class Decoder:
    """One process. One thread at a time asks it, and takes the answer before it asks again."""

    def __init__(self, allowance: Allowance, scratch: Path | None) -> None:
        self._allowance = allowance
        self._folder = _own_folder(scratch)
        ours, theirs = socket.socketpair()
        arguments = [json.dumps([str(path) for path in sys.path]), str(theirs.fileno())]
        arguments += [str(allowance.seconds), str(allowance.memory)]
        environment = {name: os.environ[name] for name in _ENVIRONMENT & os.environ.keys()}
        environment |= {"TMPDIR": str(self._folder), **_ONE_THREAD}
        try:
            # A program of its own, not a fork: no lock, connection or thread of ours is in it. In
            # its own group, so that Ctrl-C in a terminal ends us first; but not in its own session:
            # Linux shares the processor between sessions first, and a worker's niceness would
            # count nothing for what it decodes.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                process_group=0,
            )
        except BaseException as error:
            ours.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise RagOwlError(
                    f"cannot start a process to decode in: {error.strerror or error}; check how "
                    "many processes and how much memory this user may have"
                ) from error
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours)
        self._deadline = 0.0
        self._requests = 0
        self._lost = self._grown = self._ready = False
        self.waiting = False  # an answer is still to come

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._lost and self._process.poll() is None

    @property
    def reusable(self) -> bool:
        return (
            self.alive and not self.waiting and not self._grown and self._requests < _MOST_REQUESTS
        )

    def ask(self, request: tuple[Any, ...], extra: float = 0.0) -> None:
        """extra: seconds beyond those of a piece. Raises `DecoderLost`."""
        assert not self.waiting
        self.prepare()  # what starting takes is not the file's fault
        seconds = self._allowance.seconds + extra
        self._requests += 1
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        self.waiting = True
        with self._watched():
            self._channel.send((seconds, request), self._deadline)

    def prepare(self) -> None:
        """Wait until it has started. Raises `RagOwlError`."""
        if self._ready:
            return
        self._seconds = _START_SECONDS
        try:
            with self._watched():
                self._channel.receive(time.monotonic() + _START_SECONDS)
        except DecoderLost as error:
            raise RagOwlError(
                "a process to decode in does not start: check the installation and "
                "the setting decode_memory"
            ) from error
        self._ready = True

    def answer(self) -> tuple[Any, ...]:
        """The answer to what was asked. Raises `DecoderLost`, after which nothing more comes."""
        # It worked while we did something else: the answer may be there, past its time.
        deadline = max(self._deadline, time.monotonic() + _PATIENCE)
        with self._watched():
            grown, answer = self._channel.receive(deadline)
        self._grown = self._grown or bool(grown)
        self.waiting = False
        return tuple(answer)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.end()
            raise DecoderLost(
                f"decoding one piece of it took longer than {self._seconds:.0f} seconds "
                "(decode_seconds): it is damaged, or too large; save it again or split it"
            ) from None
        except (Broken, ValueError, TypeError) as error:
            status = self._wait(_PATIENCE)
            self.end()
            raise DecoderLost(_reason(status, error, self._seconds)) from error
        except BaseException:
            self.end()
            raise

    def _wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Whatever it does; what it wrote is removed."""
        self._lost = True
        self._channel.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


_PREFIX = "rag-owl-decoder-"


def _own_folder(scratch: Path | None) -> Path:
    try:
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=scratch))
    except OSError as error:
        raise DataFolderError(
            f"cannot write to {scratch or tempfile.gettempdir()}: {error.strerror or error}. "
            "Make space or check permissions, then run the same command again."
        ) from error


def sweep(scratch: Path) -> int:
    """Remove what the decoders of killed processes have left in `scratch`; how many they were."""
    removed = 0
    for folder in scratch.glob(f"{_PREFIX}*"):
        try:
            owner = int(folder.name.removeprefix(_PREFIX).partition("-")[0])
            os.kill(owner, 0)
        except ValueError:
            continue
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        except OSError:  # it lives, as somebody else's
            continue
    return removed


def _reason(status: int | None, error: Exception, seconds: float) -> str:
    if status is None:
        return f"its decoder answered nonsense ({error}): save it again"
    if -status == signal.SIGALRM:
        return (
            f"decoding one piece of it took longer than {seconds:.0f} seconds "
            "(decode_seconds): it is damaged, or too large; save it again or split it"
        )
    if -status == signal.SIGKILL:
        return "its decoder was killed, as the system does when memory ends: make it smaller"
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return (
        f"its decoder crashed ({how}): it is damaged, or takes more memory than decode_memory "
        "allows; save it again"
    )
