"""`rag-owl doctor`: what is installed, what works, and whether the data folder is sound."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sqlalchemy import text
from sqlalchemy.orm import Session

from rag_owl import __version__, db
from rag_owl.client import RagOwl
from rag_owl.errors import RagOwlError
from rag_owl.indexer.embed import load_text_embedder
from rag_owl.ports import PictureEmbedder
from rag_owl.rows import SCHEMA
from rag_owl.store import collections, segments
from rag_owl.store.segments import SegmentInfo

_PACKAGES = (
    "torch", "transformers", "sentence-transformers", "faiss-cpu", "faiss-gpu", "sqlalchemy",
    "alembic", "pillow", "pypdfium2", "decord", "psycopg", "pymilvus",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    well: bool
    detail: str


def examine(owl: RagOwl, deep: bool = False) -> Iterator[Finding]:
    """One finding after the other; `deep` reads every segment and blob and compares checksums."""
    yield Finding("rag-owl", True, f"{__version__}, Python {platform.python_version()}")
    yield from _packages()
    yield _try("device", _device)
    yield _try(
        f"text embedder {owl.settings.text_embedder}",
        lambda: _embeds_text(owl.settings.text_embedder),
    )
    yield _try(
        f"picture embedder {owl.settings.picture_embedder}",
        lambda: _embeds_pictures(owl.models.picture_embedder(owl.settings.picture_embedder)),
    )
    yield _try(
        f"answering model {owl.settings.model}",
        lambda: owl.models.answerer().name,
    )
    yield _try("database", lambda: _database(owl))
    if deep:  # first the files: segments are made again from pictures
        yield from _files(owl)
    yield from _segments(owl, deep)
    if deep:
        yield _try("orphans", lambda: f"{owl.remove_orphans()} files that nothing needs removed")


def _try(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except RagOwlError as error:
        return Finding(what, False, str(error))


def _packages() -> Iterator[Finding]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    yield Finding("packages", True, ", ".join(f"{n} {v}" for n, v in found.items()))
    if "faiss-cpu" in found and "faiss-gpu" in found:
        yield Finding(
            "faiss",
            False,
            "faiss-cpu and faiss-gpu are both installed and overwrite each other; "
            "uninstall both, then install one",
        )


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return f"CPU, {torch.get_num_threads()} threads"


def _embeds_text(name: str) -> str:
    embedder = load_text_embedder(name)
    embedder.embed_query("Does it load?")
    return f"loads and embeds ({embedder.dimension} dimensions)"


def _embeds_pictures(embedder: PictureEmbedder) -> str:
    from PIL import Image

    embedder.embed_pictures([Image.new("RGB", (64, 64), "red")])
    reads = "reads text too" if embedder.reads_text else "pictures only"
    return f"loads and embeds ({embedder.dimension} dimensions, {reads})"


def _database(owl: RagOwl) -> str:
    with db.reading(owl.engine) as session:
        if owl.engine.dialect.name == "sqlite":
            problems = session.execute(text("PRAGMA quick_check(5)")).scalars().all()
            if problems != ["ok"]:
                raise RagOwlError(f"SQLite finds: {'; '.join(problems)}; restore a backup")
        infos = collections.list_all(session)
    documents = sum(info.documents for info in infos)
    where = owl.engine.url.render_as_string(hide_password=True)
    return f"{where}, schema {SCHEMA}, {len(infos)} collections, {documents} documents"


def _segments(owl: RagOwl, deep: bool) -> Iterator[Finding]:
    with db.reading(owl.engine) as session:
        active = _active(session)
    damaged = 0
    if deep:
        try:
            if rebuilt := owl.repair():
                yield Finding("segments", True, f"{rebuilt} damaged ones were made again")
        except RagOwlError as error:
            yield Finding("segments", False, str(error))
        with db.reading(owl.engine) as session:
            active = _active(session)
    for info in active:
        try:
            check = owl.segments.verify if deep else owl.segments.open
            check(info.id)
        except RagOwlError as error:
            damaged += 1
            yield Finding(f"segment {info.id}", False, str(error))
    if not damaged:
        checked = "checksums compared" if deep else "opened; --deep compares checksums"
        yield Finding("segments", True, f"{len(active)} ({checked})")


def _active(session: Session) -> list[SegmentInfo]:
    return [
        info
        for collection in collections.list_all(session)
        if (key := collections.get(session, collection.name).key)
        and (generation := collections.live_generation(session, key))
        for info in segments.active(session, generation.key)
    ]


def _files(owl: RagOwl) -> Iterator[Finding]:
    again, lost = owl.repair_files()
    if again:
        yield Finding("files", True, f"{len(again)} pictures were made again from their documents")
    for key, what in lost.items():
        yield Finding(f"blob {key}", False, what)
    if not lost:
        yield Finding("files", True, f"{sum(1 for _ in owl.blobs.list_keys())}, checksums compared")
