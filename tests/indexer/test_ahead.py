"""Working ahead in a thread: the same values, the same errors, and an end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rag_owl.indexer.loaders.ahead import ahead


def test_the_same_values_come_in_order() -> None:
    assert list(ahead(iter(range(1_000)), 3)) == list(range(1_000))
    assert list(ahead(iter([]), 3)) == []


def test_it_works_ahead_but_not_further_than_told() -> None:
    made: list[int] = []
    enough = threading.Event()

    def values() -> Iterator[int]:
        for value in range(100):
            made.append(value)
            if value == 5:
                enough.set()
            yield value

    reading = ahead(values(), 4)
    assert next(reading) == 0
    assert enough.wait(60)  # four in the queue, and one that waits for room
    assert len(made) <= 7
    assert list(reading) == list(range(1, 100))


def test_an_error_comes_after_the_values_before_it() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    reading = ahead(values(), 4)
    assert next(reading) == 1
    with pytest.raises(ValueError, match="the second"):
        next(reading)


def test_who_stops_reading_stops_the_work() -> None:
    closed = threading.Event()

    def values() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    threads = threading.active_count()
    reading = ahead(values(), 2)
    next(reading)
    reading.close()
    assert closed.is_set()
    assert threading.active_count() <= threads
