"""A backup of everything in one file, made while everything else goes on.

What is in it: every row of the database as of one moment, every file that those rows refer to, the
vectors, and uploads that a job has yet to read. What is not: caches, and index structures, which
are made again. The format is `rag_owl.archive`'s, so SQLite and PostgreSQL can be exchanged.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine

from rag_owl import __version__, db, holds, uploads
from rag_owl.archive import FORMAT, PRODUCT, Writer
from rag_owl.blobs import sync_folder
from rag_owl.errors import Conflict, DataFolderError, RagOwlError
from rag_owl.ports import BlobStore
from rag_owl.rows import SCHEMA
from rag_owl.store import blob_uses, jobs, tables

_LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Vectors:
    """Those of one segment: int64 ids and float32 vectors, little end first, row by row."""

    count: int
    dimension: int
    ids: bytes
    blocks: Iterator[bytes]


Export = Callable[[str], Vectors | None]
"""A segment's vectors by its id; None: another system keeps them. Raises `CorruptData` where they
are damaged."""


Watch = Callable[[int, int], bool]
"""Told (how many files there are, how many are in it); whether to stop."""


class Stopped(Exception):
    """The backup was asked to stop; nothing is left of it."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    file: str
    size: int  # bytes
    rows: int
    documents: int
    blobs: int
    segments: int
    lacking: tuple[str, ...] = ()
    """What should be in it and is missing or damaged here: `blob …`, `segment …`, `upload …`."""
    elsewhere: tuple[str, ...] = ()
    """Segments whose vectors another system keeps, and which a restore computes anew."""


def write_backup(
    engine: Engine,
    folder: Path,
    blobs: BlobStore,
    target: Path,
    export: Export,
    fetch: Callable[[Mapping[str, Any]], None],
    watch: Watch = lambda found, done: False,
) -> BackupReport:
    """Write everything to a file that does not exist yet; it is whole, or it is not there.

    folder: the data folder. fetch: has a job's upload in it, by the job's parameters. watch: called
    every half second. Raises `Stopped` where that says so, `Conflict` where the file exists,
    `DataFolderError` when it cannot be written (a full disk), `DataFolderBusy` while another backup
    is being made.
    """
    target = Path(os.path.abspath(target))
    _check_free(target)
    try:
        watched = _Watched(watch)
        with (
            holds.keeping_files(engine, look=watched.look),
            _arriving(target) as (file, scratch),
        ):
            writer = Writer(file, watched.look)
            run = _Backup(engine, folder, blobs, export, fetch, target, writer, scratch, watched)
            return run.write()
    except OSError as error:
        raise DataFolderError(
            f"cannot write the backup {target}: {error.strerror or error}. "
            "Nothing is left of it; make space or name another place"
        ) from error


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise Conflict(f"{target} exists; a backup replaces nothing, so give a new name")


@contextmanager
def _arriving(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A file that takes the target's name when the block ends well, and a place for scratch."""
    prefix = f".{target.name[:100]}.partial-"
    for left in target.parent.glob(f"{re.escape(prefix)}*") if target.parent.is_dir() else ():
        _discard(left)  # of a backup that was killed
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with (folder / "backup").open("xb") as file:
            os.chmod(file.fileno(), 0o600)  # it holds all there is, hashes of keys too
            yield file, folder
            file.flush()
            os.fsync(file.fileno())
        _check_free(target)
        os.rename(folder / "backup", target)
        sync_folder(target.parent)
    finally:
        _discard(folder)


def _discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


class _Watched:
    """Says how far a backup has come, and ends it where it is to stop."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._last = time.monotonic()
        self.found = self.done = 0

    def look(self) -> None:
        """Raises `Stopped`."""
        if time.monotonic() - self._last > _LOOK_EVERY:
            self._last = time.monotonic()
            if self._watch(self.found, self.done):
                raise Stopped


class _Backup:
    def __init__(
        self,
        engine: Engine,
        folder: Path,
        blobs: BlobStore,
        export: Export,
        fetch: Callable[[Mapping[str, Any]], None],
        target: Path,
        writer: Writer,
        scratch: Path,
        watched: _Watched,
    ) -> None:
        self._progress = watched
        self._engine = engine
        self._folder = folder
        self._blobs = blobs
        self._export = export
        self._fetch = fetch
        self._target = target
        self._writer = writer
        self._scratch = scratch
        self._rows: dict[str, int] = {}
        self._segments: list[str] = []
        self._lacking: list[str] = []
        self._elsewhere: list[str] = []

    def write(self) -> BackupReport:
        with Keys(self._scratch) as keys:
            with db.reading(self._engine) as session:
                connection = session.connection()
                self._writer.add_json(
                    "manifest.json",
                    {
                        "product": PRODUCT,
                        "format": FORMAT,
                        "version": __version__,
                        "schema": SCHEMA,
                        "created_at": time.time(),
                        "sequences": tables.sequences(connection),
                    },
                )
                for table, number, data in tables.parts(self._watched(connection, keys)):
                    self._writer.add_rows(table, number, data)
                waiting = {str(each["upload"]): each for each in jobs.upload_parameters(session)}
            self._progress.found = len(waiting) + len(self._segments) + len(keys)
            for upload in sorted(waiting):
                self._add_upload(upload, waiting[upload])
            for segment in sorted(self._segments):
                self._add_segment(segment)
            blobs = sum(self._add_blob(key) for key in keys.all())
        segments = len(self._segments) - len(self._elsewhere)
        segments -= sum(each.startswith("segment ") for each in self._lacking)
        self._writer.end({"rows": self._rows, "lacking": self._lacking})
        return BackupReport(
            str(self._target),
            self._writer.size,
            sum(self._rows.values()),
            self._rows.get("documents", 0),
            blobs,
            segments,
            tuple(self._lacking),
            tuple(self._elsewhere),
        )

    def _watched(self, connection: Any, keys: Keys) -> Iterator[tuple[str, tables.Row]]:
        for table, row in tables.dump(connection):
            self._rows[table] = self._rows.get(table, 0) + 1
            keys.add(blob_uses.of_row(table, row))
            if table == "segments":
                self._segments.append(row["id"])
            yield table, row

    def _add_upload(self, upload: str, parameters: Mapping[str, Any]) -> None:
        self._progress.done += 1
        folder = self._folder / uploads.FOLDER / upload
        try:
            self._fetch(parameters)
            files = sorted(path for path in folder.iterdir() if path.is_file())
            for number, path in enumerate(files):
                name = f"uploads/{upload}/{number:09}"
                self._writer.add_file(f"{name}.data", path)
                self._writer.add_json(f"{name}.json", {"name": path.name})
        except (FileNotFoundError, NotADirectoryError, RagOwlError):
            self._lacking.append(f"upload {upload}")

    def _add_segment(self, segment: str) -> None:
        self._progress.done += 1
        try:
            vectors = self._export(segment)
        except RagOwlError:
            self._lacking.append(f"segment {segment}")
            return
        if vectors is None:
            self._elsewhere.append(segment)
            return
        self._writer.add(f"segments/{segment}.ids", vectors.ids)
        size = 4 * vectors.count * vectors.dimension
        self._writer.add_blocks(f"segments/{segment}.vectors", vectors.blocks, size)

    def _add_blob(self, key: str) -> bool:
        self._progress.done += 1
        try:
            path = self._blobs.path(key)
            if _sha256(path) == key:
                self._writer.add_file(f"blobs/{key}", path)
                return True
        except (RagOwlError, FileNotFoundError):
            pass
        self._lacking.append(f"blob {key}")
        return False


class Keys:
    """A set of blob keys that may be larger than memory, read in order. Use it in a `with`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "keys"

    def __enter__(self) -> Keys:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=OFF")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("CREATE TABLE keys (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._connection.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    def add(self, keys: Iterable[str]) -> None:
        with self._full():
            self._connection.executemany(
                "INSERT OR IGNORE INTO keys VALUES (?)", [(bytes.fromhex(key),) for key in keys]
            )

    def discard(self, key: str) -> None:
        with self._full():
            self._connection.execute("DELETE FROM keys WHERE key = ?", (bytes.fromhex(key),))

    def __len__(self) -> int:
        with closing(self._connection.cursor()) as cursor:
            return int(cursor.execute("SELECT count(*) FROM keys").fetchone()[0])

    def all(self) -> Iterator[str]:
        with closing(self._connection.cursor()) as cursor:
            for (key,) in cursor.execute("SELECT key FROM keys ORDER BY key"):
                yield key.hex()

    @contextmanager
    def _full(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(None, str(error)) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
