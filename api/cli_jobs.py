"""`rag-owl jobs`, and what other commands say of a job that they waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from rag_owl.api.options import AsJson, Data, print_json
from rag_owl.errors import DataFolderBusy, DataFolderError, InvalidInput, NotFound, RagOwlError

if TYPE_CHECKING:
    from rag_owl.client import RagOwl
    from rag_owl.types import Job

out = Console(soft_wrap=True)


def jobs(
    job: Annotated[str | None, typer.Argument(help="One job's id; without, the newest.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop that job.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Let that job go on, or again.")] = False,
    begin: Annotated[
        str | None, typer.Option("--begin", help="Begin a job: merge or verify.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="Of it alone, for --begin.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show jobs: what was added, what was skipped and why, how fast and until when."""
    from rag_owl.api import show, wire
    from rag_owl.client import RagOwl

    # All of it before anything is done: what is refused has changed nothing.
    if cancel and job is None:
        raise InvalidInput("--cancel needs the job's id")
    if retry and (job is None or cancel):
        raise InvalidInput("--retry needs the job's id, and no --cancel")
    if begin is not None and (job is not None or begin not in ("merge", "verify")):
        raise InvalidInput("--begin takes merge or verify, and no job's id")
    if collection is not None and begin is None:
        raise InvalidInput("--collection is of --begin; without it all jobs are shown")
    if job is not None:
        known("job", job)
    # Who only looks works no job: it would be left again in the next moment.
    with RagOwl.open(data, work_jobs=cancel or retry or begin is not None) as owl:
        if job is not None and cancel:
            owl.cancel_job(job)
        if job is not None and retry:
            job = owl.retry_job(job).id
        if begin is not None:
            kind: Literal["merge", "verify"] = "merge" if begin == "merge" else "verify"
            job = owl.wait_for_job(owl.begin_upkeep(kind, collection).id).id
        with _idle(owl) as idle:
            found = [owl.job(job)] if job is not None else owl.jobs()
    if as_json:
        listed = [wire.job(each) for each in found]
        print_json(listed[0] if job is not None else listed)
    else:
        for each in found:
            show.job(out, each, idle)
        for skipped in found[0].skipped[10:] if job is not None else ():
            name, reason = show.one_line(skipped.name), show.one_line(skipped.reason)
            out.print(f"  [yellow]skipped[/] {escape(name)}: {escape(reason)}")
    if begin is not None:
        _fail_unless_well(found[0])


@contextmanager
def _idle(owl: RagOwl) -> Iterator[bool]:
    """Whether nobody works the folder's jobs, and nobody begins to meanwhile.

    On PostgreSQL nobody can say that here: False.
    """
    from rag_owl.work_lock import acquire

    lock = None
    if owl.engine.dialect.name == "sqlite":
        with suppress(DataFolderBusy, DataFolderError):
            lock = acquire(owl.folder, 0)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def fail_unless_done(job: Job) -> None:
    if job.state != "done":
        raise RagOwlError(f"job {job.id} {job.state}: {job.error or 'it was cancelled'}")


def _fail_unless_well(job: Job) -> None:
    fail_unless_done(job)
    if job.failed and job.kind == "verify":
        raise RagOwlError(
            f"{job.failed} files are missing or damaged; `rag-owl doctor --deep` makes again what "
            "can be, and says what cannot"
        )
    if job.failed:
        raise RagOwlError(f"job {job.id} is done, but {job.failed} failed")


def known(kind: str, given: str) -> str:
    """An id as it was given. Raises `NotFound` for what no database can look up."""
    from rag_owl.store.names import is_storable

    if not is_storable(given):
        raise NotFound(f"no {kind} {given!r}")
    return given
