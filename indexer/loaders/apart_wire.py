"""What passes between this process and a decoder's: whole messages over a socket.

A message from a decoder is read with a list of the few classes that it may hold: whoever takes a
decoder over with a crafted file does not get hold of this process by what it sends.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import socket
import struct
import time
from dataclasses import is_dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 2**30  # of one message
_COUNT = struct.Struct("<I")
_MODULES = ("rag_owl.types", "rag_owl.indexer.loaders.values")  # of the values that may come


class Broken(Exception):
    """The other end is gone, or what came from it is no message."""


class Channel:
    """One end of a socket pair. Not for two threads at once."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: object, deadline: float | None = None) -> None:
        """Raises `Broken`, and `TimeoutError` after the deadline (of `time.monotonic`)."""
        buffers: list[pickle.PickleBuffer] = []
        written = io.BytesIO()
        _Pickler(written, protocol=5, buffer_callback=buffers.append).dump(message)
        parts: list[memoryview] = [written.getbuffer(), *(each.raw() for each in buffers)]
        head = struct.pack(f"<I{len(parts)}Q", len(parts), *(part.nbytes for part in parts))
        try:
            for part in (memoryview(head), *parts):
                self._end.settimeout(_left(deadline))
                self._end.sendall(part)
        except TimeoutError:
            raise
        except OSError as error:
            raise Broken("the other end is gone") from error

    def receive(self, deadline: float | None = None, trusted: bool = False) -> Any:
        """The next message. Raises as `send` does. `trusted`: it may hold any class at all."""
        (count,) = _COUNT.unpack(self._exactly(_COUNT.size, deadline))
        if not 1 <= count <= 10_000:
            raise Broken("what came is no message")
        sizes = struct.unpack(f"<{count}Q", self._exactly(8 * count, deadline))
        if sum(sizes) > MOST_BYTES:
            raise Broken(f"a message of {sum(sizes):,} bytes came, more than {MOST_BYTES:,}")
        first, *rest = (self._exactly(size, deadline) for size in sizes)
        reader = pickle.Unpickler if trusted else _Unpickler
        try:
            return reader(io.BytesIO(first), buffers=rest).load()
        except MemoryError:
            raise
        except Exception as error:  # whatever the bytes of a taken-over process can cause
            raise Broken(f"what came is no message ({error})") from error

    def _exactly(self, count: int, deadline: float | None) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        at = 0
        while at < count:
            try:
                self._end.settimeout(_left(deadline))
                read = self._end.recv_into(view[at:])
            except TimeoutError:
                raise
            except OSError as error:
                raise Broken("the other end is gone") from error
            if not read:
                raise Broken("the other end is gone")
            at += read
        return data

    def close(self) -> None:
        self._end.close()


def _left(deadline: float | None) -> float | None:
    # A socket's timeout of 0 would mean "do not block", which is another error.
    return None if deadline is None else max(deadline - time.monotonic(), 1e-3)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if type(value).__module__.startswith("PIL."):
            rgb = value if value.mode == "RGB" else value.convert("RGB")
            return _image, (rgb.size, pickle.PickleBuffer(rgb.tobytes()))
        if isinstance(value, PurePath):
            return _path, (os.fspath(value),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ((__name__, "_image"), (__name__, "_path")):
            return globals()[name]
        if module in _MODULES and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and is_dataclass(found) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"a decoder may not send {module}.{name}")


def _image(size: tuple[int, int], data: bytearray) -> Image:
    from PIL import Image as pillow  # noqa: N813

    return pillow.frombuffer("RGB", size, data, "raw", "RGB", 0, 1)


def _path(path: str) -> Path:
    return Path(path)
