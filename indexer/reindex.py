"""Reindexing: a generation is built beside the one that is searched, compared with it, and takes
its place in one transaction.

A job of the kind `reindex` does one of: `build` (and, unless it is held back, `switch`), `switch`,
`rollback`, `drop`. Whatever it is interrupted by, it goes on from what the database says: which
generations there are, which of them is live, and which vectors they have.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rag_owl import db
from rag_owl.errors import Conflict, RagOwlError
from rag_owl.indexer.compare import MOST_QUESTIONS, Comparison, Retrieve, compare, questions_of
from rag_owl.indexer.fill import GivenUp, Lack, fill, lack_of
from rag_owl.indexer.merge import merge_segments_of, remove_retired
from rag_owl.indexer.queries import Embedders
from rag_owl.indexer.split import SPLITTER_VERSION
from rag_owl.indexer.workshop import Workshop
from rag_owl.store import asked, claims, collections, generations, items, jobs, segments
from rag_owl.store.claims import Claim
from rag_owl.store.collections import Generation
from rag_owl.types import Skipped

NICE = 10  # questions first
_PATIENT_ROUNDS = 3  # of catching up, before ingestion is asked to wait
_CLOSING_SECONDS = 30.0
_PICTURES_PER_STEP = 16  # that an answerer looks at before it says how far it has come


@dataclass(frozen=True, slots=True)
class Reindexing:
    """What a reindex needs beside an ingest's workshop."""

    shop: Workshop
    wanted: Callable[[Generation | None, Mapping[str, Any]], Generation]
    """What a live generation becomes by the parameters `text_embedder`, `picture_embedder` and
    `index_type`; without one, what they say for a new collection. Raises `ModelError`."""
    embedders_of: Callable[[Generation], Embedders]
    pinned: Callable[[str, Generation], Retrieve]
    """Searches one generation of a collection, as it is now."""
    remember: Callable[[str], Callable[[str], bool] | None]
    """How the answerer of that name looks at a stored picture; None: it remembers none."""
    k: int  # items that a question retrieves


class Reindex:
    """One run of one job."""

    def __init__(self, parts: Reindexing, claim: Claim, stopping: Callable[[], bool]) -> None:
        self._parts = parts
        self._shop = parts.shop
        self._claim = claim
        self._stopping = stopping
        self._given_up = GivenUp()
        self._pictures = self._looked_at = 0  # of an answerer's: all of them, and those done

    def run(self) -> bool:
        """Work until the job is finished (True) or asked to stop (False: it will be resumed)."""
        _step_back()
        remove_retired(self._shop.engine, self._shop.segments)
        with db.writing(self._shop.engine) as session:
            claims.restart_scan(session, self._claim)  # counted anew, also what was skipped
        parameters = self._claim.parameters
        action = parameters["action"]
        if action == "drop":
            return self._drop(parameters["generations"])
        if action in ("switch", "rollback"):
            return self._take_up(parameters["generation"])
        return self._build(parameters)

    def _build(self, parameters: Mapping[str, Any]) -> bool:
        if (answerer := parameters.get("answerer")) and not self._remember(answerer):
            return False
        key = self._claim.collection_key
        with db.reading(self._shop.engine) as session:
            live = collections.live_generation(session, key)
        wanted = self._parts.wanted(live, parameters)
        if live is None:
            with db.writing(self._shop.engine) as session:
                claims.advance(session, self._claim)
                generations.create_first(session, key, replace(wanted, splitter=SPLITTER_VERSION))
                collections.touch(session, key)
        elif not wanted.same_as(live):
            generation = self._begin(wanted)
            return self._complete(generation, live, switch=not parameters.get("hold", False))
        else:
            return self._make_whole(live)
        return True

    def _make_whole(self, live: Generation) -> bool:
        """Nothing is to change; but vectors may be lost: of a damaged file, or not in a backup."""
        key = self._claim.collection_key
        if not lack_of(self._shop, key, live, self._given_up).count:
            return True
        try:
            return self._complete(live, live, switch=False, again=True)
        finally:
            with db.writing(self._shop.engine) as session:
                claims.advance(session, self._claim)
                collections.touch(session, key)

    def _begin(self, wanted: Generation) -> Generation:
        """What is there of it already, or a new one; of others that were begun nothing is left."""
        key = self._claim.collection_key
        with db.writing(self._shop.engine) as session:
            claims.advance(session, self._claim)
            generations.lock(session, key)
            there = generations.of_state(session, key, "building", "ready", "kept")
            same = [each for each in there if each.same_as(wanted)]
            begun = generations.of_state(session, key, "building", "ready")
            generations.retire(
                session, [each.key for each in begun if not same or each.key != same[0].key]
            )
            if same:
                return same[0]
            return collections.create_generation(session, key, wanted, "building")

    def _take_up(self, key: int) -> bool:
        """Make a generation live that was complete before: what is newer than it is added first."""
        with db.reading(self._shop.engine) as session:
            state = generations.state_of(session, key)
            live = collections.live_generation(session, self._claim.collection_key)
            here = generations.of_state(
                session, self._claim.collection_key, "building", "ready", "kept"
            )
        if state == "live":
            return True  # by an interrupted run
        found = next((each for each in here if each.key == key), None)
        if found is None or live is None:
            raise Conflict("what was to be searched was dropped meanwhile; reindex again")
        self._parts.embedders_of(found)  # without them no question could be answered any more
        return self._complete(found, live, switch=True, again=True)

    def _complete(
        self, generation: Generation, live: Generation, switch: bool, again: bool = False
    ) -> bool:
        """Fill, compare, switch; False when the job is to stop.

        again: it was searched or compared before; only what it lacks is added.
        """
        compared, rounds = again, 0
        embedders: Embedders | None = None
        try:
            while True:
                lack = self._look(generation)
                if lack.count:
                    rounds += 1
                    if rounds > _PATIENT_ROUNDS and switch:
                        self._close(generation, _CLOSING_SECONDS)
                    embedders = embedders or self._parts.embedders_of(generation)
                    if not self._fill(generation, live, embedders, lack):
                        return False
                elif not compared:
                    self._announce(generation)
                    self._compare(generation, live)
                    compared = True
                elif not switch or self._switch(generation, lack):
                    return True
        finally:
            if rounds > _PATIENT_ROUNDS:
                self._close(generation, None)

    def _look(self, generation: Generation) -> Lack:
        lack = lack_of(self._shop, self._claim.collection_key, generation, self._given_up)
        skipped = sum(len(keys) for keys in self._given_up.keys.values())
        self._count(
            self._pictures + lack.total, self._looked_at + lack.total - lack.count - skipped
        )
        return lack

    def _fill(
        self, generation: Generation, live: Generation, embedders: Embedders, lack: Lack
    ) -> bool:
        def after_batch(added: int) -> bool:
            skipped, self._given_up.skipped = self._given_up.skipped, []
            with db.writing(self._shop.engine) as session:
                stop = claims.advance(
                    session, self._claim, done=added, skipped=len(skipped), items=added
                )
                claims.add_skipped(session, self._claim, skipped)
            merge_segments_of(self._shop.engine, self._shop.segments, generation)
            return not stop and not self._stopping()

        filled = fill(
            self._shop, self._claim, generation, live, embedders, lack, self._given_up, after_batch
        )
        if filled:
            merge_segments_of(self._shop.engine, self._shop.segments, generation, final=True)
        return filled

    def _announce(self, generation: Generation) -> None:
        """Every process that searches the collection loads the models before they are needed."""
        with db.writing(self._shop.engine) as session:
            claims.advance(session, self._claim)
            # One that was kept waits to be switched to again, as one that was just built does.
            if generations.state_of(session, generation.key) in ("building", "kept"):
                generations.set_state(session, generation.key, "ready")
                collections.touch(session, self._claim.collection_key)

    def _compare(self, generation: Generation, live: Generation) -> None:
        name, key = self._claim.collection, self._claim.collection_key
        with db.reading(self._shop.engine) as session:
            questions, basis = asked.sample(session, name, key, MOST_QUESTIONS), "questions"
            # Asked pictures are not kept for ever.
            questions = [q for q in questions if all(map(self._shop.blobs.exists, q.pictures))]
            if not questions:
                sample = items.sample(session, key, generation.splitter, MOST_QUESTIONS)
                questions, basis = questions_of(name, sample, self._parts.k), "items"
        try:
            now, then = (self._parts.pinned(name, each) for each in (live, generation))
            found = compare(now, then, questions, basis)
        except RagOwlError as error:  # such as an embedder of the old one that is gone
            found = Comparison(basis, 0, len(questions), note=str(error))
        with db.writing(self._shop.engine) as session:
            claims.advance(session, self._claim)
            generations.set_comparison(session, generation.key, found.as_json())

    def _switch(self, generation: Generation, lack: Lack) -> bool:
        """In one transaction; False where something was added or deleted since `lack`."""
        key = self._claim.collection_key
        with db.writing(self._shop.engine) as session:
            claims.advance(session, self._claim)
            if generations.lock(session, key) != lack.version:
                return False
            for channel, held in lack.held.items():
                dead = segments.tombstones(session, generation.key, channel)
                # Of what was deleted before it had a vector here.
                stray = sorted(set(dead) - set(held.tolist()))
                segments.clear_tombstones(session, generation.key, channel, stray)
            generations.switch(session, key, generation.key)
            collections.touch(session, key)
        return True

    def _close(self, generation: Generation, seconds: float | None) -> None:
        until = None if seconds is None else time.time() + seconds
        with db.writing(self._shop.engine) as session:
            generations.close_until(session, generation.key, until)

    def _drop(self, keys: list[int]) -> bool:
        with db.writing(self._shop.engine) as session:
            claims.advance(session, self._claim)
            generations.lock(session, self._claim.collection_key)
            here = generations.of_state(
                session, self._claim.collection_key, "building", "ready", "kept"
            )
            dropped = [each.key for each in here if each.key in keys]
            generations.retire(session, dropped)
            claims.advance(session, self._claim, found=len(dropped), done=len(dropped))
        remove_retired(self._shop.engine, self._shop.segments)
        return True

    def _remember(self, answerer: str) -> bool:
        """Have an answering model look at every picture now, so that no question waits for it."""
        look = self._parts.remember(answerer)
        if look is None:
            return True
        key, last = self._claim.collection_key, ""
        with db.reading(self._shop.engine) as session:
            self._pictures = items.count_pictures(session, key)
            counted = min(jobs.get(session, self._claim.job_id).done, self._pictures)
        # Those of an interrupted run are there at once, and no progress: a picture that ends the
        # process each time must not look like some.
        self._count(self._pictures, counted)
        seen = 0
        while True:
            with db.reading(self._shop.engine) as session:
                pictures = items.pictures_after(session, key, last, _PICTURES_PER_STEP)
            if not pictures:
                break
            skipped = []
            for picture in pictures:
                try:
                    look(picture)
                except (RagOwlError, OSError) as error:
                    skipped.append(Skipped(f"picture {picture[:12]}", str(error)))
            last = pictures[-1]
            with db.writing(self._shop.engine) as session:
                self._looked_at += len(pictures) - len(skipped)
                more = max(0, self._looked_at - counted)
                stop = claims.advance(session, self._claim, done=more, skipped=len(skipped))
                claims.add_skipped(session, self._claim, skipped)
            counted += more
            seen += len(pictures)
            if stop or self._stopping():
                return False
        self._pictures = seen  # some may have come or gone meanwhile
        self._count(self._pictures, self._looked_at)
        return True

    def _count(self, found: int, done: int) -> None:
        """Absolute numbers: how much was there already, after an interruption as well."""
        with db.writing(self._shop.engine) as session:
            now = jobs.get(session, self._claim.job_id)
            claims.advance(session, self._claim, found=found - now.found, done=done - now.done)


def _step_back() -> None:
    """This thread, and those that it starts, leave the processor to whoever asks."""
    if sys.platform != "linux":  # elsewhere it would be the whole process
        return
    me = threading.get_native_id()
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, me) < NICE:
            os.setpriority(os.PRIO_PROCESS, me, NICE)
