"""Where an open data folder keeps its files: in the folder itself, or in an object store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rag_owl.blobs import FolderBlobs
from rag_owl.file_cache import FileCache
from rag_owl.indexer.segment_store import RemoteSegmentStore, SegmentStore
from rag_owl.object_store import ObjectStore
from rag_owl.remote_blobs import RemoteBlobs
from rag_owl.settings import Settings


@dataclass(frozen=True, slots=True)
class Storage:
    blobs: FolderBlobs | RemoteBlobs
    segments: SegmentStore
    objects: ObjectStore | None  # what several machines share; None: only this folder

    @classmethod
    def of(cls, settings: Settings, folder: Path) -> Storage:
        """Nothing is reached yet. Raises `InvalidSettings`."""
        if settings.storage_url is None:
            return cls(FolderBlobs(folder / "blobs"), SegmentStore(folder / "segments"), None)
        objects = ObjectStore(settings.storage_url)
        cache = FileCache(folder / "cache", settings.cache_bytes)
        return cls(RemoteBlobs(objects, cache), RemoteSegmentStore(objects, cache), objects)
