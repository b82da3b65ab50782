"""The decoder's process: reads files for another one, within limits, one request at a time.

Requests, each with exactly one answer:

    ("read", source, start_row, limits, drop, single)   begin a file; leave out `drop` values
    ("next",)                                           its next values
    ("sections",), ("more",)                            the newest document's sections
    ("picture", data, limits)                           whether the bytes are a picture

    ("values", [(value, sections or None)], then)       then: "next" is to "wait" until the last one
                                                        is done with, may be asked "ahead"; or "end"
    ("sections", [(section, picture or None or True)], done)        True: the picture before
    ("unreadable", reason), ("failed", reason), ("end",)

First of all comes ("ready",). A request comes with the seconds that it may take, an answer with
whether this process has grown so large that it should not be used again.
"""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders import Input, Loaded, Picture, Section, read
from rag_owl.indexer.loaders.apart_wire import Broken, Channel
from rag_owl.media import Limits
from rag_owl.types import Skipped

MESSAGE_BYTES = 256 * 1024  # at about this size an answer is sent
_MESSAGE_SECONDS = 0.05  # or after so long
_ROW_BYTES = 64 * 1024  # a row's document with more than that is not sent ahead
_GRACE = 5.0  # seconds that the other process has to end us before we do it ourselves
_TOO_MUCH = "it needs more memory than a decoder may use (decode_memory): make it smaller"


def main(descriptor: int, seconds: float, memory: int) -> None:
    """Serve until the other end closes. seconds: per request; memory: bytes of data at most."""
    _limit(memory)
    threading.Thread(target=_end_with_the_other, args=(descriptor,), daemon=True).start()
    channel = Channel(socket.socket(fileno=descriptor))
    server = _Server()
    channel.send((False, ("ready",)))
    while True:
        try:
            allowed, request = channel.receive(trusted=True)
        except Broken:
            return
        # Whoever asked ends a decoder that hangs; but it may itself be gone by then.
        signal.alarm(math.ceil((allowed or seconds) + _GRACE))
        answer = server.answer(request)
        signal.alarm(0)
        grown = answer[0] in ("end", "values") and 2 * _peak() > memory
        try:
            channel.send((grown, answer))
        except Broken:
            return


def _limit(memory: int) -> None:
    kind = getattr(resource, "RLIMIT_DATA", resource.RLIMIT_AS)
    for limit, value in ((kind, memory), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(limit)
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (wanted, wanted))
    # Where memory ends, the kernel is to end this process and not the one with the database.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_the_other(descriptor: int) -> None:
    """Whoever asked was killed: nobody waits for what a decoder is at, and it may hang."""
    other = select.poll()
    other.register(descriptor, 0)  # only that the other end is gone
    other.poll()
    os._exit(0)


def _peak() -> int:
    """Bytes that this process ever held at once; `getrusage` would count those of its parent."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:
        return 0
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) * 1024 if found else 0


class _Server:
    def __init__(self) -> None:
        self._values: Iterator[Loaded | Skipped] = iter(())
        self._error: Exception | None = None  # to be said after the values that came before it
        self._single = False
        self._document: Loaded | None = None
        self._sections: Iterator[Section] = iter(())
        self._picture: Picture | None = None  # the one that was sent last

    def answer(self, request: tuple[Any, ...]) -> tuple[Any, ...]:
        kind, *given = request
        try:
            if kind == "read":
                self._begin(*given)
                return self._next()
            if kind == "next":
                return self._next()
            if kind == "sections":
                assert self._document is not None
                self._sections, self._picture = self._document.sections(), None
                return self._more()
            if kind == "more":
                return self._more()
            return self._look(*given)
        except UnreadableMedia as error:
            return "unreadable", str(error)
        except MemoryError:
            return "unreadable", _TOO_MUCH
        except RecursionError:
            return "unreadable", "it is nested too deeply to be read: simplify it"
        except Exception as error:  # hostile bytes make decoders raise whatever they like
            return "failed", f"{type(error).__name__}: {str(error)[:300]}"

    def _begin(
        self, source: Input, start_row: int, limits: Limits, drop: int, single: bool
    ) -> None:
        self._single, self._error = single, None
        self._values = islice(read(source, start_row=start_row, limits=limits), drop, None)

    def _next(self) -> tuple[Any, ...]:
        """The next values: of those that are small as many as one message holds."""
        self._document, self._picture, self._sections = None, None, iter(())
        if self._error is not None:
            raise self._error
        values: list[tuple[Loaded | Skipped, list[Any] | None]] = []
        size, until = 0, time.monotonic() + _MESSAGE_SECONDS
        while (value := self._following(bool(values))) is not None:
            if not isinstance(value, Loaded):
                values.append((value, None))
                size += 200
            else:
                sections, more = None, 0
                if not self._single and _may_be_small(value):
                    sections, more = _small(value)
                    more += len(getattr(value.source, "data", b""))
                values.append((replace(value, sections=None), sections))  # type: ignore[arg-type]
                size += 500 + more
                if sections is None:  # it may be asked for: nothing may move on before
                    self._document = value
                    return "values", values, "wait"
            if self._single or size >= MESSAGE_BYTES or time.monotonic() > until:
                return "values", values, "wait" if self._single else "ahead"
        if self._error is not None:
            return "values", values, "ahead"
        return ("values", values, "end") if values else ("end",)

    def _following(self, may_wait: bool) -> Loaded | Skipped | None:
        try:
            return next(self._values, None)
        except Exception as error:
            if not may_wait:
                raise
            self._error = error
            return None

    def _more(self) -> tuple[Any, ...]:
        gathered: list[tuple[Section, Picture | bool | None]] = []
        size, until = 0, time.monotonic() + _MESSAGE_SECONDS
        for section in self._sections:
            picture: Picture | bool | None = section.picture
            if section.picture is not None and section.picture is self._picture:
                picture = True
            elif section.picture is not None:
                self._picture = section.picture
                size += len(section.picture.data) + 3 * math.prod(section.picture.image.size)
            gathered.append((replace(section, picture=None), picture))
            size += len(section.text) + 100 * len(section.text_boxes)
            if size >= MESSAGE_BYTES or time.monotonic() > until:
                return "sections", gathered, False
        return "sections", gathered, True

    def _look(self, data: bytes, limits: Limits) -> tuple[Any, ...]:
        from rag_owl.media import decode_picture

        decode_picture(data, limits)
        return ("end",)


def _may_be_small(document: Loaded) -> bool:
    """Not pages and films, whose sections take long to make. A file that a row gives is there only
    until the next row is asked for."""
    quick = document.media_type.startswith(("text/", "image/"))
    return quick and (document.row is None or not isinstance(document.source, Path))


def _small(document: Loaded) -> tuple[list[Section] | None, int]:
    """All sections and their size, if they are few; no more of others is read than shows that."""
    sections: list[Section] = []
    size = 0
    try:
        for section in document.sections():
            if section.picture is not None:
                size += len(section.picture.data) + 3 * math.prod(section.picture.image.size)
            size += len(section.text) + 100 * (1 + len(section.text_boxes))
            sections.append(section)
            if size > _ROW_BYTES and len(sections) > 1:
                return None, 0
    except (UnreadableMedia, MemoryError):  # it is said when they are asked for
        return None, 0
    return sections, size
