"""Vectors as plain numbers, for backups: an index's own format is neither portable nor harmless."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sqlalchemy.orm import Session

from rag_owl.backup import Vectors
from rag_owl.indexer.batch import segment_facts
from rag_owl.indexer.milvus import PREFIX
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.restored import RestoredVectors
from rag_owl.rows import GenerationRow
from rag_owl.store import collections


def export_vectors(store: SegmentStore, segment: str) -> Vectors | None:
    """None for what is in Milvus, which has backups of its own. Raises `CorruptData` where the
    segment is missing or damaged, or changes while it is read."""
    if segment.startswith(PREFIX):
        return None
    opened = store.verify(segment)

    def blocks() -> Iterator[bytes]:
        for _, vectors in opened.vectors():
            yield vectors.astype("<f4").tobytes()

    ids = opened.ids.astype("<i8").tobytes()
    return Vectors(len(opened), opened.manifest.dimension, ids, blocks())


def import_vectors(session: Session, store: SegmentStore, restored: RestoredVectors) -> None:
    """Raises `InvalidInput` for numbers that are no vectors, or keys that come twice."""
    generation = collections.from_row(session.get_one(GenerationRow, restored.generation))
    store.write(
        restored.segment,
        np.fromfile(restored.ids, "<i8"),
        np.memmap(restored.vectors, "<f4", "r", shape=(restored.count, restored.dimension)),
        index_type=restored.index_type,
        manifest=segment_facts(generation, restored.channel),
    )
