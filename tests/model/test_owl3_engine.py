"""Many threads, one model: requests share a batch and each gets what it gets alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rag_owl.errors import InvalidInput, ModelError, OutOfMemory
from rag_owl.model.owl3.engine import Engine
from rag_owl.model.owl3.generate import Request, run
from rag_owl.model.owl3.sampling import Sampling
from rag_owl.model.owl3.sizes import random_model

torch.set_num_threads(1)  # tiny models lose more to threads than they gain
MODEL = random_model("tiny", seed=4)
PIXELS = torch.randn(6, 3, 70, 70, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(MODEL, max_rows=3)
    yield engine
    engine.close()


def request(seed: int, **more) -> Request:
    with torch.no_grad():
        memory = MODEL.remember(PIXELS[seed % 4 : seed % 4 + 2])
    more.setdefault("sampling", Sampling(max_new_tokens=4 + seed))
    return Request(list(range(seed, 30 + 2 * seed)), memory, [3, 11], **more)


def alone(seed: int) -> list[int]:
    one = request(seed)
    run(MODEL, [one])
    return one.tokens


def test_more_requests_than_rows_from_many_threads(engine: Engine):
    with ThreadPoolExecutor(8) as threads:
        ended = list(threads.map(lambda seed: engine.run(request(seed)).tokens, range(10)))
    assert ended == [alone(seed) for seed in range(10)]


def test_a_late_request_joins_a_running_batch(engine: Engine):
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def hold(token: int) -> None:
        if not begun.is_set():
            begun.set()
            go_on.wait(60)

    long = engine.submit(request(1, on_token=hold, sampling=Sampling(max_new_tokens=60)))
    long.add_done_callback(lambda _: order.append("long"))
    begun.wait(60)
    short = engine.submit(request(0))
    short.add_done_callback(lambda _: order.append("short"))
    go_on.set()
    assert short.result(300).tokens == alone(0)
    assert len(long.result(300).tokens) == 60
    engine.call(lambda: None)  # what a result calls comes after it
    assert order == ["short", "long"]


def test_a_request_that_fails_fails_alone(engine: Engine):
    good = engine.submit(request(3))
    with pytest.raises(InvalidInput):
        engine.run(Request([1, 2, 999_999]))

    def gone(token: int) -> None:
        raise ConnectionError("the listener went away")

    with pytest.raises(ConnectionError):
        engine.run(request(2, on_token=gone))
    assert good.result(300).tokens == alone(3)


def test_without_room_the_largest_goes(monkeypatch):
    """The device refuses one step; what fits goes on and is not changed by it."""
    engine = Engine(MODEL, max_rows=3)
    held, refused = threading.Event(), []
    small = request(1, sampling=Sampling(max_new_tokens=12), on_token=lambda _: held.wait(60))
    large = request(9, sampling=Sampling(max_new_tokens=12))
    step = engine._batch.step

    def full():
        if len(engine._batch.requests) == 2 and not refused:
            refused.append(True)
            raise OutOfMemory("no memory")
        return step()

    monkeypatch.setattr(engine._batch, "step", full)
    first, second = engine.submit(small), engine.submit(large)
    held.set()
    with pytest.raises(OutOfMemory):
        second.result(300)
    wanted = request(1, sampling=Sampling(max_new_tokens=12))
    run(MODEL, [wanted])
    assert first.result(300).tokens == wanted.tokens
    engine.close()


def test_other_work_runs_between_steps(engine: Engine):
    running = engine.submit(request(1, sampling=Sampling(max_new_tokens=40)))
    names = {engine.call(lambda: threading.current_thread().name) for _ in range(3)}
    assert names == {"owl3-engine"}
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0)
    assert len(running.result(300).tokens) == 40


def test_a_cancelled_request(engine: Engine):
    heard: list[int] = []
    cancelled = engine.run(request(5, on_token=heard.append, cancel=lambda: len(heard) >= 2))
    assert cancelled.ending == "cancelled"
    assert len(heard) == 2


def test_closing_fails_what_is_under_way():
    engine = Engine(MODEL)
    begun, go_on = threading.Event(), threading.Event()

    def hold(token: int) -> None:
        begun.set()
        go_on.wait(60)

    future = engine.submit(request(1, on_token=hold, sampling=Sampling(max_new_tokens=500)))
    begun.wait(60)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._closed.is_set():
        pass
    go_on.set()
    closing.join(60)
    with pytest.raises(ModelError, match="closed"):
        future.result(60)
    with pytest.raises(ModelError, match="closed"):
        engine.submit(request(1))
    engine.close()  # again: nothing
