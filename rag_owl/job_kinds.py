"""What jobs do: one function for each kind of job, in the table `KINDS`.

To add a kind: write a function `(owl, claim, stopping) -> bool` and put it into the table. It

- works until the job is done (True), or until `stopping()` says so or the job was cancelled (False:
  where it was not cancelled, it is called again later, maybe in another process);
- goes on from what the database says was done before: a killed job is called again with
  `claim.interrupted`;
- begins every transaction that changes something with `store.claims.advance(session, claim, …)`:
  it counts, beats the heart, returns whether the job is to be cancelled, and raises `Conflict`
  where another worker has taken the job over. Let that pass: the runner knows what to do with it.
  An activation without it can be made by a worker that was suspended and lost its job;
- counts with `found`, `done` and `failed` (ingest: `added`, `updated`, `unchanged`, `skipped`) what
  it was given, has done, and could not do; `store.claims.add_skipped` says why;
- raises a `RagOwlError` to fail: its message is what the user reads.

A job is begun with `store.jobs.create(session, collection_key, kind, parameters)` and
`owl.work_soon()`; parameters are plain JSON, of which the same ask for the same job.

Jobs of one lane are worked one after the other, those of different lanes at the same time. On
PostgreSQL each worker works one of each lane; ingests may all run at once, also into one
collection, the other lanes' jobs of one collection one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from rag_owl import db
from rag_owl.errors import DataFolderError, UnreadableMedia
from rag_owl.store import claims, jobs
from rag_owl.store.claims import Claim
from rag_owl.types import Skipped

if TYPE_CHECKING:
    from rag_owl.system import System

log = logging.getLogger(__name__)

Lane: TypeAlias = Literal["ingest", "upkeep", "delete", "backup"]
LANES: tuple[Lane, ...] = ("ingest", "upkeep", "delete", "backup")


@dataclass(frozen=True, slots=True)
class Kind:
    run: Callable[[System, Claim, Callable[[], bool]], bool]
    lane: Lane


def ingest(owl: System, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Read files into a collection. parameters: `paths`, or those of `uploads.parameters`."""
    from rag_owl import holds, uploads
    from rag_owl.indexer.pipeline import Ingest

    uploads.fetch(owl.folder, claim.parameters, owl.storage.objects)
    finished = Ingest(owl.workshop(), claim, stopping).run()
    if finished and "upload" in claim.parameters:
        with db.reading(owl.engine) as session:
            deadly = jobs.deadly(session, claim.job_id)
        if deadly:  # a failed job's upload is kept for a day, a done one's is gone
            raise UnreadableMedia(
                f"{deadly[0]}{f' and {len(deadly) - 1} more' if len(deadly) > 1 else ''}: "
                f"{jobs.DEADLY}. All else is in; retry the job to have it read again"
            )
        # While deleted files are removed, that is over in a moment; while a backup copies, the
        # upload stays and goes when uploads are swept.
        with holds.soon_removing_files(owl.engine) as may:
            if may:
                uploads.remove(owl.folder, claim.parameters, owl.storage.objects)
    return finished


def reindex(owl: System, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Other vectors for a collection. parameters: as `rag_owl.reindexing` makes them."""
    from rag_owl.indexer.reindex import Reindex, Reindexing

    parts = Reindexing(
        owl.workshop(),
        owl.models.reindexed,
        owl.models.embedders_of,
        owl.pinned,
        owl.models.remember_picture,
        owl.settings.k,
    )
    return Reindex(parts, claim, stopping).run()


def merge(owl: System, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Few large segments instead of many small ones, without the dead. Counts generations."""
    from rag_owl.indexer import upkeep

    return upkeep.merge(owl.engine, owl.segments, claim, stopping)


def verify(owl: System, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Compare every stored byte with its checksum. Counts files; `skipped` names damaged ones."""
    from rag_owl.indexer import upkeep

    return upkeep.verify(owl.engine, owl.segments, owl.blobs, claim, stopping)


def delete(owl: System, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """What a deletion leaves, or (`expire`) what is too old. parameters: of `rag_owl.retention`."""
    from rag_owl import operations, retention

    return retention.work(operations.cleaner(owl), claim, stopping)


def backup(owl: System, claim: Claim, stopping: Callable[[], bool]) -> bool:
    """Everything into one file of the folder `backup_folder`, named by the job. Counts files."""
    from rag_owl import operations
    from rag_owl.backup import Stopped
    from rag_owl.errors import InvalidInput

    if owl.settings.backup_folder is None:
        raise InvalidInput("there is no place for backups: set RAG_OWL_BACKUP_FOLDER")
    target = owl.settings.backup_folder.expanduser().absolute() / f"owl-{claim.job_id}.backup"
    if target.exists():  # it was written, and then the process was killed
        return True
    with db.writing(owl.engine) as session:
        claims.restart_scan(session, claim)
    said = [0, 0]

    def watch(found: int, done: int) -> bool:
        try:
            with db.writing(owl.engine) as session:
                stop = claims.advance(session, claim, found=found - said[0], done=done - said[1])
        except DataFolderError as error:  # locked: the copying need not wait for that
            log.warning("a backup's progress is not told: %s", error)
            return stopping()
        said[:] = found, done
        return stop or stopping()

    try:
        report = operations.backup(owl, target, watch)
    except Stopped:
        return False
    with db.writing(owl.engine) as session:
        copied, lacking = report.blobs + report.segments, len(report.lacking)
        found, done = copied + lacking - said[0], copied - said[1]
        claims.advance(session, claim, found=found, done=done, failed=lacking)
        reason = "is missing or damaged here; see `rag-owl doctor --deep`"
        claims.add_skipped(session, claim, [Skipped(name, reason) for name in report.lacking])
    return True


def lane_of(kind: str) -> Lane:
    """Also of a kind that only a newer version knows: working it says so."""
    return KINDS[kind].lane if kind in KINDS else "upkeep"


KINDS: dict[str, Kind] = {
    "ingest": Kind(ingest, "ingest"),
    "reindex": Kind(reindex, "upkeep"),
    "merge": Kind(merge, "upkeep"),
    "verify": Kind(verify, "upkeep"),
    "delete": Kind(delete, "delete"),
    "expire": Kind(delete, "delete"),
    # Not behind deletions, which may take their time: `rag_owl.holds` keeps them apart.
    "backup": Kind(backup, "backup"),
}
