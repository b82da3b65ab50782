"""What restored rows mean in another place: jobs that read files, and segments made of files."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from rag_owl import paths, uploads
from rag_owl.errors import InvalidInput
from rag_owl.rows import GenerationRow, JobInputRow, JobRow, SegmentRow, SkippedRow
from rag_owl.store import collections, jobs

_COUNTERS = (
    *("found", "added", "updated", "unchanged", "skipped", "items", "done", "failed"),
    *("claimed_handled", "interruptions"),
)
_KEPT_KINDS = ("delete", "merge", "verify", "expire")  # which read nothing but what is stored


@dataclass(frozen=True, slots=True)
class RestoredVectors:
    """One segment's, as files of plain numbers: int64 ids, float32 vectors row by row."""

    segment: str
    generation: int
    channel: str
    index_type: str
    count: int
    dimension: int
    ids: Path
    vectors: Path


def neutralize_jobs(
    session: Session, place: Path, folder: Path, restored: Collection[str]
) -> list[str]:
    """No job goes on reading paths of another machine; uploads are read where they are now.

    place: where the uploads that were restored are, to be moved to the folder. Those that are not
    among them are returned, as `upload …`.
    """
    lacking = list[str]()
    now = time.time()
    going_on = set[str]()
    for job in session.scalars(select(JobRow).execution_options(yield_per=1_000)):
        job.worker = job.heartbeat_at = job.claimed_at = None
        unfinished = job.state in ("queued", "running")
        upload = str(job.parameters.get("upload", ""))
        if upload and upload in restored:
            where = paths.dump(folder / uploads.FOLDER / upload)
            # Checksums name files: ours, and not what the backup says that they are called.
            known = uploads.checksums(place / uploads.FOLDER / upload)
            job.parameters = {**job.parameters, "paths": [where], "checksums": known}
            job.state = "queued" if unfinished else job.state
            # It goes on where it was, or what was deleted since would come again.
            if job.scanned and _move_inputs(session, job.id, folder, upload, known):
                going_on.add(job.id)
                continue
            job.scanned = False
            if unfinished:
                for counter in _COUNTERS:
                    setattr(job, counter, 0)
                session.execute(delete(SkippedRow).where(SkippedRow.job_id == job.id))
            continue
        if job.kind in _KEPT_KINDS:
            job.state = "queued" if unfinished else job.state
            continue
        job.parameters = {"paths": []} if job.kind == "ingest" else {}
        if unfinished:
            if upload:
                lacking.append(f"upload {upload}")
            job.state, job.finished_at = "cancelled", now
            job.error = "it was not finished when the backup was made; begin it again"
    session.execute(delete(JobInputRow).where(JobInputRow.job_id.not_in(going_on)))
    session.flush()
    return lacking


def _move_inputs(
    session: Session, job_id: str, folder: Path, upload: str, known: Mapping[str, str]
) -> bool:
    """A job's inputs are read from the upload's folder here; False: one is not among its files."""
    where = folder / uploads.FOLDER / upload
    moved, left = list[tuple[JobInputRow, Path, Path | None]](), dict(known)
    for row in session.scalars(select(JobInputRow).where(JobInputRow.job_id == job_id)):
        path = where / paths.load(row.path).name
        companion = where / paths.load(row.companion).name if row.companion else None
        files = {path.name, *([companion.name] if companion else ())}
        if not files <= left.keys():
            return False
        for name in files:  # each is read once, whatever the backup says
            del left[name]
        moved.append((row, path, companion))
    for row, path, companion in moved:
        row.path = paths.dump(path)
        row.companion = paths.dump(companion) if companion else None
    return True


def write_segments(
    session: Session, scratch: Path, write: Callable[[RestoredVectors], None]
) -> tuple[int, list[str], set[int]]:
    """Indexes are made here, out of plain numbers: an index's own format is not for strangers.

    scratch: the folder of the numbers. Returns how many were written, those that are lacking, as
    `segment …`, and the keys of collections whose live generation lacks some. Raises `InvalidInput`
    for numbers that are no vectors, as `write` does.
    """
    lacking, not_whole = list[str](), set[int]()
    written = 0
    generations = {row.key: row for row in session.scalars(select(GenerationRow))}
    for row in session.scalars(select(SegmentRow).order_by(SegmentRow.id)):
        generation = generations[row.generation_key]
        ids, vectors = scratch / f"{row.id}.ids", scratch / f"{row.id}.vectors"
        if not (ids.is_file() and vectors.is_file()):
            lacking.append(f"segment {row.id}")
            if row.active and generation.state == "live":
                not_whole.add(generation.collection_key)
            continue
        dimension = (
            generation.text_dimension if row.channel == "text" else generation.picture_dimension
        )
        sizes = (8 * row.count, 4 * row.count * dimension)
        if (ids.stat().st_size, vectors.stat().st_size) != sizes or not row.count:
            raise InvalidInput(f"the segment {row.id} is not of its size")
        write(
            RestoredVectors(
                row.id,
                row.generation_key,
                row.channel,
                row.index_type,
                row.count,
                dimension,
                ids,
                vectors,
            )
        )
        for path in (ids, vectors):
            path.unlink()
        written += 1
    return written, lacking, not_whole


def make_whole(session: Session, collection_keys: Iterable[int]) -> list[str]:
    """Begin what makes lost vectors again; the collections' names.

    Of damaged segments, or of Milvus, which has copies of its own.
    """
    names = list[str]()
    for key in sorted(collection_keys):
        (collection,) = collections.of_keys(session, [key])
        if not collections.DELETED.fullmatch(collection.name):
            jobs.create(session, key, "reindex", {"action": "build"})
            names.append(collection.name)
    return names
