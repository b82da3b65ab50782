"""An ingest that rests in the middle, so that what is to happen there does not have to hurry."""

from __future__ import annotations

import threading
import time

import pytest

from rag_owl.indexer import pipeline


def rest_after(monkeypatch: pytest.MonkeyPatch, items: int, batch: int) -> threading.Event:
    """Once so many items are stored, nothing more is until the event is set or the job stops.

    batch: how many items a batch has."""
    go_on, stored = threading.Event(), 0
    flush = pipeline.Ingest._flush

    def flush_and_rest(ingest: pipeline.Ingest) -> bool:
        nonlocal stored
        stored += ingest._batch.items
        more = flush(ingest)
        while stored >= items and not (go_on.is_set() or ingest._stopping()):
            time.sleep(0.01)
        return more and not ingest._stopping()

    monkeypatch.setattr(pipeline, "FIRST_BATCH", batch)
    monkeypatch.setattr(pipeline, "LARGEST_BATCH", batch)
    monkeypatch.setattr(pipeline.Ingest, "_flush", flush_and_rest)
    return go_on
