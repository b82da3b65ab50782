"""Backups, for who holds a key with the scope `admin` over everything."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from rag_owl import db
from rag_owl.api import schemas, wire
from rag_owl.api.deps import MayAdmin, Options, Owl, Who
from rag_owl.api.errors import Problem
from rag_owl.api.responses import problems
from rag_owl.store import jobs

router = APIRouter(prefix="/v1/backups", tags=["backups"], dependencies=[MayAdmin])


@router.post("", response_model=schemas.Job, status_code=202, responses=problems(409))
def begin_backup(owl: Owl, settings: Options, who: Who) -> dict[str, Any]:
    """A job writes all that there is to `owl-<job id>.backup`, in the folder of the setting
    `backup_folder` on the machine that works it."""
    if who.collections is not None:
        raise Problem(403, "a backup holds everything, and this key is for certain collections")
    if settings.backup_folder is None:
        raise Problem(409, "there is no place for backups: set RAG_OWL_BACKUP_FOLDER")
    with db.writing(owl.engine) as session:
        job_id, _ = jobs.create(session, None, "backup", {}, who.key_id)
    owl.work_soon()
    return wire.job(owl.job(job_id), owl.folder)
