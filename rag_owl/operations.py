"""What is done to a whole data folder: backup and restore, repair, and the removal of files.

Functions of an opened system; those that users call are methods of `RagOwl`, described there.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from rag_owl import db, holds, retention, uploads
from rag_owl.backup import BackupReport, Watch, write_backup
from rag_owl.indexer import merge
from rag_owl.indexer.loaders.apart_pool import sweep
from rag_owl.indexer.repair import rebuild_damaged
from rag_owl.ports import BlobStore
from rag_owl.restore import Place, RestoreReport, read_backup
from rag_owl.restored import RestoredVectors
from rag_owl.schema import check_store_is_free, mark_files
from rag_owl.settings import Settings
from rag_owl.storage import Storage
from rag_owl.store import blob_uses, collections
from rag_owl.system import System
from rag_owl.work_lock import exclusively

_ORPHAN_SECONDS = 3_600.0


def backup(owl: System, file: Path, watch: Watch) -> BackupReport:
    from rag_owl.indexer.vectors import export_vectors

    return write_backup(
        owl.engine,
        owl.folder,
        owl.blobs,
        file,
        partial(export_vectors, owl.segments),
        lambda job: uploads.fetch(owl.folder, job, owl.storage.objects),
        watch,
    )


def restore(chosen: Settings, file: Path, with_keys: bool) -> RestoreReport:
    from rag_owl.indexer.vectors import import_vectors

    def open_blobs(folder: Path) -> BlobStore:
        storage = Storage.of(chosen, folder)
        if storage.objects is not None:
            check_store_is_free(storage.objects)
        return storage.blobs

    def write_segment(session: Session, folder: Path, vectors: RestoredVectors) -> None:
        import_vectors(session, Storage.of(chosen, folder).segments, vectors)

    def mark(folder: Path, identity: str) -> None:
        objects = Storage.of(chosen, folder).objects
        uploads.share(folder, objects)
        mark_files(folder, objects, identity)

    return read_backup(
        file,
        chosen.data.expanduser().resolve(),
        chosen.database,
        Place(open_blobs, write_segment, mark),
        with_keys,
    )


def cleaner(owl: System) -> retention.Cleaner:
    """What a `delete` job works with."""
    from rag_owl.model.owl3.feature_objects import FeatureObjects

    objects = owl.storage.objects
    shared = FeatureObjects(objects) if objects is not None else None

    def forget(key: str) -> None:
        retention.forget_caches(owl.folder, key)
        if shared is not None:
            shared.delete(key[:2], f"{key}.")

    return retention.Cleaner(
        owl.engine,
        owl.folder,
        owl.blobs,
        forget,
        partial(merge.drop_dead, owl.engine, owl.segments),
        partial(merge.remove_retired_now, owl.engine, owl.segments),
        lambda parameters: uploads.remove(owl.folder, parameters, owl.storage.objects),
        owl.settings.keep_answers_days,
        owl.settings.keep_pictures_days,
    )


def repair(owl: System) -> int:
    with exclusively(owl.folder, 10, owl.engine):
        with db.reading(owl.engine) as session:
            keys = [
                collections.get(session, info.name).key for info in collections.list_all(session)
            ]
        return sum(
            rebuild_damaged(
                owl.engine, owl.segments, owl.blobs, owl.limits, owl.models.embedders_of, key
            )
            for key in keys
        )


def repair_files(owl: System) -> tuple[set[str], dict[str, str]]:
    from rag_owl.indexer import rebuild

    lost = rebuild.find_lost(owl.engine, owl.blobs)
    again = set[str]()
    if lost:
        again = rebuild.rebuild(owl.engine, owl.blobs, owl.limits, owl.decoders, lost)
    stay = {
        key: f"{what}; {rebuild.who_needs(owl.engine, key, what)}"
        for key, what in lost.items()
        if key not in again
    }
    return again, stay


def remove_orphans(owl: System) -> int:
    with (
        exclusively(owl.folder, 10, owl.engine),
        holds.keeping_files(owl.engine, seconds=10),
    ):
        removed = merge.remove_orphans(owl.engine, owl.segments)
        removed += sweep(owl.folder / "decoding")
        removed += uploads.sweep(owl.engine, owl.folder, owl.storage.objects)
        with db.reading(owl.engine) as session:
            used = blob_uses.used(session)
        return removed + owl.blobs.remove_unused(used, time.time() - _ORPHAN_SECONDS)
