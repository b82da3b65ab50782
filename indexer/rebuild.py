"""Lost pictures made again from the files that they were cut out of: pages, frames, figures."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import Engine, select

from rag_owl import db
from rag_owl.blobs import FolderBlobs
from rag_owl.errors import CorruptData, NotFound, RagOwlError
from rag_owl.indexer.loaders import Input, Loaded
from rag_owl.indexer.loaders.apart import read_apart
from rag_owl.indexer.loaders.apart_pool import Pool
from rag_owl.indexer.split import split
from rag_owl.media import Limits
from rag_owl.remote_blobs import RemoteBlobs
from rag_owl.rows import AnswerRow, CollectionRow, DocumentRow, ItemRow, RevisionRow
from rag_owl.store import blob_uses, condemned

Blobs: TypeAlias = FolderBlobs | RemoteBlobs
_NAMED = 3  # documents in one message
MISSING, DAMAGED = "is missing", "is damaged"


def find_lost(engine: Engine, blobs: Blobs) -> dict[str, str]:
    """Blobs that are needed and are missing or damaged, with what is wrong of each.

    A damaged one that nothing needs is deleted.
    """
    with db.reading(engine) as session:
        used = blob_uses.used(session)
    lost = {}
    left = set(used)
    for key in blobs.list_keys():
        try:
            digest = bytes.fromhex(key)
        except ValueError:  # no file of ours
            continue
        left.discard(digest)
        wrong = _what_is_wrong(blobs, key)
        if wrong is not None and digest in used:
            lost[key] = wrong
        elif wrong == DAMAGED:
            blobs.delete(key)
    return lost | {digest.hex(): MISSING for digest in left}


def _what_is_wrong(blobs: Blobs, key: str) -> str | None:
    try:
        if isinstance(blobs, RemoteBlobs):  # what the store has, not the copy that lies here
            blobs.verify(key)
            return None
        with blobs.path(key).open("rb") as file:
            return None if hashlib.file_digest(file, "sha256").hexdigest() == key else DAMAGED
    except CorruptData:
        return DAMAGED
    except NotFound:
        return MISSING
    except (RagOwlError, OSError) as error:  # it may well be sound
        return f"cannot be read just now ({error})"


def rebuild(
    engine: Engine, blobs: Blobs, limits: Limits, pool: Pool, lost: Collection[str]
) -> set[str]:
    """Read again the documents that lost pictures came from -> the blobs that are there again."""
    again: set[str] = set()
    with db.reading(engine) as session:
        sources = session.execute(
            select(RevisionRow.blob, DocumentRow.name)
            .join(ItemRow, ItemRow.revision_key == RevisionRow.key)
            .join(DocumentRow, DocumentRow.key == RevisionRow.document_key)
            .where(ItemRow.picture.in_(list(lost)), RevisionRow.blob.is_not(None))
            .distinct()
        ).all()
    for source, name in sources:
        if source is None or source in lost or again.issuperset(lost):
            continue
        try:
            again |= _pictures_of(blobs, limits, pool, blobs.path(source), name, set(lost) - again)
        except (RagOwlError, OSError):  # then it stays lost
            continue
    return again


def _pictures_of(
    blobs: Blobs, limits: Limits, pool: Pool, path: Path, name: str, wanted: Collection[str]
) -> set[str]:
    again = set()
    for loaded in read_apart(Input(name, path, None, ""), start_row=0, limits=limits, pool=pool):
        for draft in split(loaded) if isinstance(loaded, Loaded) else ():
            if draft.picture is None:
                continue
            key = hashlib.sha256(draft.picture.data).hexdigest()
            if key in wanted:
                blobs.delete(key)  # a damaged one would be taken for it
                blobs.put(draft.picture.data)
                again.add(key)
    return again


def who_needs(engine: Engine, key: str, lost: str) -> str:
    """What to do about a blob that is lost (as `find_lost` says), in words."""
    with db.reading(engine) as session:
        named = select(CollectionRow.name, DocumentRow.name).select_from(RevisionRow)
        named = named.join(DocumentRow, DocumentRow.key == RevisionRow.document_key)
        named = named.join(CollectionRow, CollectionRow.key == RevisionRow.collection_key)
        items = select(ItemRow.revision_key).where(ItemRow.picture == key)
        rows = session.execute(
            named.where((RevisionRow.blob == key) | RevisionRow.key.in_(items))
            .distinct()
            .limit(_NAMED)
        ).all()
        if rows:
            names = ", ".join(f"{name} in {collection}" for collection, name in rows)
            # What lies there is left: it may be all that there is, and half of it good.
            todo = {MISSING: "ingest again", DAMAGED: "delete and ingest again"}
            return f"{todo.get(lost, 'look for the cause and run this again')}: {names}"
        answers = session.scalars(select(AnswerRow)).partitions(500)
        for part in answers:
            for row in part:
                if key in condemned.of_answer(session, row):
                    return f"the answer {row.id} shows it; nothing can make it again"
    return "nothing needs it any more; run this again"
