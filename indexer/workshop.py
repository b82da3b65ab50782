"""What jobs that make vectors work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Engine

from rag_owl import db
from rag_owl.errors import ModelNotFound
from rag_owl.indexer.loaders.apart_pool import Pool
from rag_owl.indexer.queries import Embedders
from rag_owl.indexer.segment_store import SegmentStore
from rag_owl.indexer.split import SPLITTER_VERSION
from rag_owl.media import Limits
from rag_owl.ports import BlobStore
from rag_owl.settings import Quota
from rag_owl.store import collections, generations
from rag_owl.store.claims import Claim
from rag_owl.store.collections import Generation


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every ingest job needs."""

    engine: Engine
    segments: SegmentStore
    blobs: BlobStore
    limits: Limits
    batch_size: int  # texts embedded at once
    decoders: Pool
    embedders: Callable[[Generation | None], tuple[Embedders, Generation]]
    """The embedders of a generation; without one, those for new collections and what they are."""
    leave_out: Sequence[Path] = ()  # folders that are never ingested: our own
    quota_of: Callable[[str], Quota] = lambda _: Quota()
    remember_picture: Callable[[str], object] | None = None
    """Has the answering model look at a stored picture now, so that no question waits for it."""

    def open_generation(self, claim: Claim) -> tuple[Generation, Embedders]:
        """A collection's live one and its embedders; the first is made as the settings say."""
        while True:
            with db.reading(self.engine) as session:
                generation = collections.live_generation(session, claim.collection_key)
            try:
                embedders, wanted = self.embedders(generation)
            except ModelNotFound as error:
                if generation is None:
                    raise
                name = claim.collection
                raise ModelNotFound(
                    f"nothing can be added to {name}: {error}; `rag-owl reindex {name}` makes its "
                    "vectors anew"
                ) from error
            if generation is None:
                with db.writing(self.engine) as session:
                    generation = generations.create_first(
                        session, claim.collection_key, replace(wanted, splitter=SPLITTER_VERSION)
                    )
                if generation.text_embedder != wanted.text_embedder or (
                    generation.picture_embedder != wanted.picture_embedder
                ):
                    continue  # another process was faster, with other settings
            return generation, embedders
