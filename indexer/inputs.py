"""What a job is to read: found before anything is read, so that its progress can be told."""

from __future__ import annotations

from collections.abc import Callable

from rag_owl import db, paths, uploads
from rag_owl.indexer.loaders import scan
from rag_owl.indexer.workshop import Workshop
from rag_owl.store import claims, job_inputs
from rag_owl.store.claims import Claim
from rag_owl.store.job_inputs import JobInput
from rag_owl.types import Skipped

_AT_ONCE = 1_000  # stored in one transaction


def find_inputs(shop: Workshop, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Store what the job's paths lead to; False when the job is to stop."""
    with db.writing(shop.engine) as session:
        claims.restart_scan(session, claim)
    found: list[JobInput] = []
    skipped: list[Skipped] = []
    position = 0

    def store() -> None:
        with db.writing(shop.engine) as session:
            job_inputs.add(session, claim, found)
            claims.add_skipped(session, claim, skipped)
            claims.advance(session, claim, found=len(found) + len(skipped), skipped=len(skipped))
        found.clear()
        skipped.clear()

    given = [paths.load(path) for path in claim.parameters["paths"]]
    follow = claim.parameters.get("follow_links", False)
    for each in scan(given, follow_links=follow, leave_out=shop.leave_out):
        if stopping():
            return False
        if isinstance(each, Skipped):
            skipped.append(each)
        else:
            path = paths.dump(each.path.resolve())
            companion = paths.dump(each.companion) if each.companion else None
            origin = uploads.origin_of(claim.parameters, each.name)
            found.append(
                JobInput(position, each.name, path, companion, each.companion_name, origin=origin)
            )
            position += 1
        if len(found) + len(skipped) >= _AT_ONCE:
            store()
    store()
    with db.writing(shop.engine) as session:
        claims.mark_scanned(session, claim)
    return True
