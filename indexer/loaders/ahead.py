"""A generator that works ahead of whoever reads it, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Ahead(Generic[T]):
    def __init__(self, values: Iterator[T], count: int) -> None:
        self._values = values
        self._made: queue.Queue[T | _End] = queue.Queue(count)
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._work, name="rag-owl-ahead", daemon=True)

    def read(self) -> Generator[T, None, None]:
        self._thread.start()
        try:
            while not isinstance(value := self._made.get(), _End):
                yield value
            if value.error is not None:
                raise value.error
        finally:
            self._unwanted.set()
            self._thread.join()

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            for value in self._values:
                if not self._give(value):
                    break
        except BaseException as caught:
            error = caught
        finally:
            close = getattr(self._values, "close", None)
            if close is not None:  # here: what it holds may belong to this thread
                close()
        self._give(_End(error))

    def _give(self, value: T | _End) -> bool:
        """False when nobody reads any more."""
        while not self._unwanted.is_set():
            try:
                self._made.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def ahead(values: Iterator[T], count: int) -> Generator[T, None, None]:
    """The same values, up to `count` of them made before they are asked for.

    It pays where making them spends its time outside Python, as decoding does. What `values` raises
    is raised at its place; when it is closed early, no more values are made.
    """
    return _Ahead(values, count).read()
