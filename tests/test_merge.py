"""Merging beside others who change the same collection, on a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from rag_owl import RagOwl, db
from rag_owl.indexer.merge import drop_dead
from rag_owl.indexer.segment import SegmentManifest
from rag_owl.store import collections, generations, segments
from rag_owl.store.collections import Generation
from tests.test_reindex import LIGHT


@pytest.fixture
def owl(tmp_path: Path, postgres_url: str) -> Iterator[RagOwl]:
    """Of two documents one was deleted, and nobody works jobs: its vector waits for a merge."""
    data = tmp_path / "data"
    for name in ("fox", "hare"):
        (tmp_path / f"{name}.txt").write_text(f"The {name} sleeps in the barn.")
    with RagOwl.open(data, database_url=postgres_url, **LIGHT) as made:
        made.ingest("c", [tmp_path / "fox.txt", tmp_path / "hare.txt"])
    with RagOwl.open(data, database_url=postgres_url, work_jobs=False, **LIGHT) as opened:
        opened.delete_document("c", next(opened.documents("c")).id)
        yield opened


def live(owl: RagOwl) -> Generation:
    with db.reading(owl.engine) as session:
        found = collections.live_generation(session, collections.get(session, "c").key)
    assert found is not None
    return found


def retire(owl: RagOwl, generation: Generation) -> None:
    with db.writing(owl.engine) as session:
        generations.lock(session, collections.get(session, "c").key)
        generations.retire(session, [generation.key])


def active(owl: RagOwl, generation: Generation) -> list[str]:
    with db.reading(owl.engine) as session:
        return [each.id for each in segments.active(session, generation.key)]


def waits_for_a_lock(owl: RagOwl) -> bool:
    with owl.engine.connect() as connection:
        ask = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return connection.scalar(text(ask + " AND datname = current_database()")) is not None


def test_a_merge_that_ends_while_its_generation_is_retired(owl: RagOwl) -> None:
    """Whoever retires waits for the merge, and then sees what it has made."""
    generation = live(owl)
    (before,) = active(owl, generation)
    with db.writing(owl.engine) as session:  # of the live one the merge says that it has changed
        generations.set_state(session, generation.key, "kept")
    retiring = threading.Thread(target=retire, args=(owl, generation))
    merging = threading.current_thread()

    def just_before_its_end(_: object) -> None:
        if threading.current_thread() is merging and not retiring.ident:
            retiring.start()
            while retiring.is_alive() and not waits_for_a_lock(owl):
                retiring.join(0.01)

    event.listen(owl.engine, "commit", just_before_its_end)
    drop_dead(owl.engine, owl.segments, 1)
    event.remove(owl.engine, "commit", just_before_its_end)
    retiring.join(60)
    with db.reading(owl.engine) as session:
        made = segments.known(session) - {before}
    assert len(made) == 1  # it was merged
    assert active(owl, generation) == []


def test_a_merge_whose_generation_was_retired_meanwhile_leaves_no_file(
    owl: RagOwl, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation, write = live(owl), owl.segments.merge
    written = []

    def and_then_retire(name: str, *given: Any, **more: Any) -> SegmentManifest:
        manifest = write(name, *given, **more)
        written.append(name)
        retire(owl, generation)
        return manifest

    monkeypatch.setattr(owl.segments, "merge", and_then_retire)
    drop_dead(owl.engine, owl.segments, 1)
    assert len(written) == 1
    assert active(owl, generation) == []
    assert not set(written) & set(owl.segments.names())
