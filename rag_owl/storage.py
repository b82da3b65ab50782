"""Where an open data folder keeps its files and vectors: in the folder, a store, or Milvus."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, select

from rag_owl import db
from rag_owl.blobs import FolderBlobs
from rag_owl.errors import InvalidSettings
from rag_owl.file_cache import FileCache
from rag_owl.indexer.milvus import Milvus
from rag_owl.indexer.segment_store import RemoteSegmentStore, SegmentStore
from rag_owl.indexer.vector_store import VectorStore
from rag_owl.object_store import ObjectStore
from rag_owl.remote_blobs import RemoteBlobs
from rag_owl.rows import InstallationRow
from rag_owl.settings import Settings


@dataclass(frozen=True, slots=True)
class Storage:
    blobs: FolderBlobs | RemoteBlobs
    segments: SegmentStore
    objects: ObjectStore | None  # what several machines share; None: only this folder
    milvus: Milvus

    @classmethod
    def of(cls, settings: Settings, folder: Path, engine: Engine | None = None) -> Storage:
        """Nothing is reached yet. Without the database's engine, Milvus is never reached.

        Raises `InvalidSettings`.
        """

        @cache
        def installation() -> str:
            if engine is None:
                raise InvalidSettings("vectors in Milvus are not there while a backup is restored")
            with db.reading(engine) as session:
                return session.scalars(select(InstallationRow.id)).one()

        milvus = Milvus(settings.milvus_url, os.environ.get("MILVUS_TOKEN"), installation)
        objects: ObjectStore | None = None
        blobs: FolderBlobs | RemoteBlobs = FolderBlobs(folder / "blobs")
        files = SegmentStore(folder / "segments")
        if settings.storage_url is not None:
            objects = ObjectStore(settings.storage_url)
            copies = FileCache(folder / "cache", settings.cache_bytes)
            blobs, files = RemoteBlobs(objects, copies), RemoteSegmentStore(objects, copies)
        return cls(blobs, VectorStore(files, milvus), objects, milvus)

    def close(self) -> None:
        self.milvus.close()
