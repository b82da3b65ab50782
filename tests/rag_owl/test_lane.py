"""The bounded queue in front of the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from rag_owl.errors import Busy, Cancelled
from rag_owl.lane import Lane, Ticket

PATIENCE = 30  # seconds until a test that hangs is given up


@pytest.fixture
def lane() -> Iterator[Lane]:
    with Lane("test", waiting=2) as opened:
        yield opened


class Door:
    """Work that is inside once it has begun, and comes out when it is let out."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self._open = threading.Event()

    def __call__(self, ticket: Ticket[str]) -> str:
        self.inside.set()
        assert self._open.wait(PATIENCE)
        ticket.check()
        return "done"

    def open(self) -> None:
        self._open.set()


def occupied(lane: Lane) -> tuple[Door, Ticket[str]]:
    door = Door()
    ticket = lane.submit(door)
    assert door.inside.wait(PATIENCE)
    return door, ticket


def test_work_is_done_in_order_by_one_thread(lane: Lane) -> None:
    door, first = occupied(lane)
    done: list[tuple[int, str]] = []
    later = [
        lane.submit(lambda _, at=at: done.append((at, threading.current_thread().name)))  # type: ignore[misc]
        for at in range(2)
    ]
    assert (lane.running, lane.waiting) == (1, 2)
    door.open()
    assert first.future.result(PATIENCE) == "done"
    for ticket in later:
        ticket.future.result(PATIENCE)
    assert done == [(0, "test-0"), (1, "test-0")]


def test_a_full_queue_says_so_at_once_and_when_to_come_again(lane: Lane) -> None:
    door, _ = occupied(lane)
    waiting = [lane.submit(lambda _: None) for _ in range(2)]
    with pytest.raises(Busy, match="2 questions are waiting") as caught:
        lane.submit(lambda _: None)
    assert 1 <= caught.value.retry_after <= 120
    waiting[0].cancel()  # who leaves frees the place
    lane.submit(lambda _: None)
    door.open()


def test_without_a_queue_a_free_thread_still_takes_work() -> None:
    with Lane("test", waiting=0) as lane:
        assert lane.run(lambda _: 7) == 7
        door, _ = occupied(lane)
        with pytest.raises(Busy):
            lane.submit(lambda _: 7)
        door.open()


def test_cancelled_work_that_waits_is_never_begun(lane: Lane) -> None:
    door, _ = occupied(lane)
    begun: list[int] = []
    ticket = lane.submit(lambda _: begun.append(1))
    ticket.cancel()
    with pytest.raises(Cancelled):
        ticket.future.result(PATIENCE)
    door.open()
    lane.run(lambda _: None)
    assert not begun


def test_cancelled_work_that_runs_stops_at_its_next_check(lane: Lane) -> None:
    door, ticket = occupied(lane)
    ticket.cancel()
    door.open()
    with pytest.raises(Cancelled):
        ticket.future.result(PATIENCE)
    assert lane.run(lambda _: 7) == 7


def test_an_exception_is_the_results_and_the_lane_lives_on(lane: Lane) -> None:
    with pytest.raises(ZeroDivisionError):
        lane.run(lambda _: 1 // 0)
    assert lane.run(lambda _: 7) == 7


def test_closing_finishes_what_is_there_and_takes_nothing_more() -> None:
    lane = Lane("test", waiting=2)
    door, ticket = occupied(lane)
    waiting = lane.submit(lambda _: 7)
    closing = threading.Thread(target=lane.close, args=(PATIENCE,))
    closing.start()
    while not lane._closing:
        time.sleep(0.001)
    with pytest.raises(Busy, match="shutting down"):
        lane.submit(lambda _: None)
    door.open()
    closing.join(PATIENCE)
    assert ticket.future.result(0) == "done"
    assert waiting.future.result(0) == 7


def test_closing_within_a_limit_cancels_the_rest() -> None:
    lane = Lane("test", waiting=2)
    door, ticket = occupied(lane)
    waiting = lane.submit(lambda _: 7)

    def open_once_cancelled() -> None:
        until = time.monotonic() + PATIENCE
        while not ticket.cancelled and time.monotonic() < until:
            time.sleep(0.001)
        door.open()

    opening = threading.Thread(target=open_once_cancelled)
    opening.start()
    lane.close(0)
    opening.join()
    with pytest.raises(Cancelled):
        ticket.future.result(PATIENCE)
    with pytest.raises(Cancelled):
        waiting.future.result(PATIENCE)
