"""A backup into an empty place: another folder, another machine, another kind of database.

The file is treated as a stranger's. Nothing of it becomes a path: names are hexadecimal digits, or
upload names that are made safe again. Everything is built beside its place, within one transaction;
when the last checksum was compared it takes its place, else nothing is left. It is not unpacked, so
it cannot grow. Files that its jobs would read, on a disk that is not theirs, are forgotten.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, delete, insert, inspect, select
from sqlalchemy.orm import Session

from rag_owl import db, restored, schema, uploads
from rag_owl.archive import FORMAT, PRODUCT, Member, Reader
from rag_owl.backup import Keys
from rag_owl.blobs import sync_folder
from rag_owl.errors import Conflict, DataFolderError, InvalidInput
from rag_owl.ports import BlobStore
from rag_owl.restored import RestoredVectors
from rag_owl.rows import (
    SCHEMA,
    CollectionRow,
    GenerationRow,
    InstallationRow,
    KeyRow,
    SegmentRow,
)
from rag_owl.store import blob_uses, collections, tables

_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """How files get into a data folder, or into the object store that belongs to it."""

    open_blobs: Callable[[Path], BlobStore]  # raises `Conflict` where there are some already
    write_segment: Callable[[Session, Path, RestoredVectors], None]
    """Raises `InvalidInput` for numbers that are no vectors."""
    mark: Callable[[Path, str], None]  # say which database the files belong to


@dataclass(frozen=True, slots=True)
class RestoreReport:
    folder: str
    created_at: float  # when the backup was made, in seconds since the epoch
    version: str  # of the rag_owl that made it
    collections: tuple[str, ...]
    documents: int
    rows: int
    blobs: int
    segments: int
    keys: int  # that open the service again, unless they expired or were revoked
    embedders: tuple[str, ...]  # which questions and documents will load
    lacking: tuple[str, ...] = ()  # `blob …`, `segment …`, `upload …`: not in the backup either
    reindexed: tuple[str, ...] = ()  # collections whose lacking vectors a waiting job makes again


def read_backup(
    file: Path,
    folder: Path,
    database: str,
    files: Place,
    with_keys: bool = True,
) -> RestoreReport:
    """Restore a file into a folder and a database that hold nothing yet.

    with_keys: False leaves the service's keys out.
    Raises `Conflict` for a place that is not empty, `InvalidInput` for what is no backup or one of
    a newer version, `CorruptData` for a damaged one, `DataFolderError` when the disk is full.
    """
    folder = Path(os.path.abspath(folder))
    _check_empty(folder)
    check_backup(file)  # before anything is built; what is read below is compared once more
    size = file.stat().st_size
    try:
        with file.open("rb") as source, ExitStack() as stack:
            place = stack.enter_context(_beside(folder))
            if shutil.disk_usage(place).free < size:
                raise DataFolderError(f"{folder} needs {size:,} bytes of free space; make space")
            inside = database == f"sqlite:///{folder / 'rag_owl.db'}"
            url = f"sqlite:///{place / 'rag_owl.db'}" if inside else database
            reader = Reader(source, str(file))
            run = _Restore(reader, place, folder, files, files.open_blobs(place), with_keys)
            engine = db.connect(url)
            stack.callback(engine.dispose)
            if inside:
                with _one_transaction(engine) as connection:
                    report = run.run(connection)
                engine.dispose()
                _take_place(place, folder)
            else:
                taken = False
                try:
                    with _one_transaction(engine) as connection:
                        report = run.run(connection)
                        _take_place(place, folder)
                        taken = True
                except BaseException:
                    if taken:  # the files are there, and the database did not commit
                        shutil.rmtree(folder, ignore_errors=True)
                    raise
    except OSError as error:
        raise DataFolderError(
            f"cannot restore {file} into {folder}: {error.strerror or error}. "
            "Nothing is left of it; make space or name another place"
        ) from error
    return report


def check_backup(file: Path) -> Mapping[str, Any]:
    """Compare every checksum of a backup and restore nothing; what its end says of it.

    Raises as `read_backup` does.
    """
    with _reading(file) as source:
        reader = Reader(source, str(file))
        for member in reader.members():
            while member.read(_READ):
                pass
    return reader.end


@contextmanager
def _reading(file: Path) -> Iterator[IO[bytes]]:
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror or error}") from error


def _check_empty(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise Conflict(f"{folder} is no folder; name an empty or a new one with --data")
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(
            f"{folder} is not empty; a backup is restored beside what there is, never over it. "
            "Name an empty or a new folder with --data"
        )


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.with_name(f".{folder.name[:100]}.restoring-{secrets.token_hex(4)}")
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)  # unless it has taken its place


def _take_place(place: Path, folder: Path) -> None:
    shutil.rmtree(place / "scratch", ignore_errors=True)
    os.rename(place, folder)  # over an empty folder, but over no other
    sync_folder(folder.parent)


@contextmanager
def _one_transaction(engine: Engine) -> Iterator[Connection]:
    with engine.execution_options(writes=True).begin() as connection:
        yield connection


@dataclass
class _Restore:
    reader: Reader
    place: Path  # where the data folder is built
    folder: Path  # where it will be
    files: Place
    blobs: BlobStore
    with_keys: bool
    manifest: Mapping[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    stored: int = 0  # blobs
    uploads: set[str] = field(default_factory=set)
    identity: str = ""

    def run(self, connection: Connection) -> RestoreReport:
        scratch = self.place / "scratch"
        scratch.mkdir()
        with Keys(scratch) as wanted:
            self._read(connection, wanted)
            lacking = [f"blob {key}" for key in wanted.all()]
        self._finish_rows(connection)
        with Session(connection) as session:
            lacking += restored.neutralize_jobs(session, self.place, self.folder, self.uploads)
            write = partial(self.files.write_segment, session, self.place)
            try:
                segments, lost, not_whole = restored.write_segments(session, scratch, write)
            except InvalidInput as error:
                raise self.reader.damaged(str(error)) from error
            lacking += lost
            reindexed = restored.make_whole(session, not_whole)
            report = self._report(session, segments, lacking, reindexed)
            session.flush()
        self.files.mark(self.place, self.identity)  # after all that could be refused
        return report

    # --- reading --------------------------------------------------------------------------------

    def _read(self, connection: Connection, wanted: Keys) -> None:
        loader: tables.Loader | None = None
        for member in self.reader.members():
            if member.kind == "manifest":
                self._begin(member, connection)
                loader = tables.Loader(connection)
            elif member.kind == "rows":
                assert loader is not None  # the manifest comes first
                self._rows(member, loader, wanted)
            elif member.kind == "upload":
                self._upload(member)
            elif member.kind == "vectors":
                self._store(member, self.place / "scratch" / ".".join(member.parts))
            else:
                self._blob(member, wanted)
        assert loader is not None
        try:
            given = self.manifest.get("sequences")
            loader.set_sequences(given if isinstance(given, dict) else {})
        except InvalidInput as error:
            raise self.reader.damaged(str(error)) from error

    def _begin(self, member: Member, connection: Connection) -> None:
        found = member.json()
        if not isinstance(found, dict) or found.get("product") != PRODUCT:
            raise InvalidInput(f"{self.reader.path} is no backup of rag_owl")
        wanted, known = found.get("schema"), schema.known()
        if found.get("format") != FORMAT or not isinstance(wanted, str) or wanted not in known:
            raise InvalidInput(
                f"{self.reader.path} was made by rag_owl {found.get('version')!r:.40}, which this "
                "version does not know; restore it with that one or a newer one"
            )
        self.manifest = found
        if inspect(connection).get_table_names():
            where = connection.engine.url.render_as_string(hide_password=True)
            raise Conflict(f"{where} is not empty; give an empty database to restore into")
        schema.upgrade(connection, wanted)

    def _rows(self, member: Member, loader: tables.Loader, wanted: Keys) -> None:
        table, _, digest = member.parts
        data = member.whole()
        if hashlib.sha256(data).hexdigest() != digest:
            raise self.reader.damaged(f"{member.name} does not have its checksum")
        rows = [self.reader.parse(member.name, line) for line in data.splitlines()]
        try:
            if table == KeyRow.__tablename__ and not self.with_keys:
                return
            loader.add(table, rows)
            for row in rows:
                _check_names(table, row)
                wanted.add(blob_uses.of_row(table, row))
        except (InvalidInput, AttributeError, TypeError, KeyError) as error:
            raise self.reader.damaged(str(error) or f"{member.name} cannot be") from error
        self.rows[table] = self.rows.get(table, 0) + len(rows)

    def _upload(self, member: Member) -> None:
        upload, number, kind = member.parts
        folder = self.place / uploads.FOLDER / upload
        folder.mkdir(parents=True, exist_ok=True)
        arriving = self.place / "scratch" / f"{upload}.{number}"
        if kind == "data":
            self._store(member, arriving)
            return
        said = member.json()
        name = said.get("name") if isinstance(said, dict) else None
        if not isinstance(name, str) or uploads.safe_name(name) != name or not arriving.is_file():
            raise self.reader.damaged(f"{member.name} names no uploaded file")
        if (folder / name).exists():
            raise self.reader.damaged(f"{member.name} names a file a second time")
        os.rename(arriving, folder / name)
        self.uploads.add(upload)

    def _store(self, member: Member, target: Path) -> None:
        with target.open("xb") as file:
            while block := member.read(_READ):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    def _blob(self, member: Member, wanted: Keys) -> None:
        (key,) = member.parts
        stored = self.blobs.put(member)  # type: ignore[arg-type]
        if stored != key:
            raise self.reader.damaged(f"{member.name} does not have its checksum")
        wanted.discard(key)
        self.stored += 1

    # --- finishing ------------------------------------------------------------------------------

    def _finish_rows(self, connection: Connection) -> None:
        schema.upgrade(connection, SCHEMA)
        identity = uuid.uuid4().hex  # another database than the one that the backup is of
        connection.execute(delete(InstallationRow))
        connection.execute(insert(InstallationRow).values(id=identity))
        self.identity = identity
        (self.place / "segments").mkdir(exist_ok=True)
        with Session(connection) as session:
            tables.index_words(session)

    def _report(
        self, session: Session, segments: int, lacking: list[str], reindexed: list[str]
    ) -> RestoreReport:
        generations = session.scalars(select(GenerationRow).where(GenerationRow.state == "live"))
        embedders = {e for row in generations for e in (row.text_embedder, row.picture_embedder)}
        names = session.scalars(select(CollectionRow.name).order_by(CollectionRow.name)).all()
        created = self.manifest.get("created_at")
        return RestoreReport(
            folder=str(self.folder),
            created_at=float(created) if isinstance(created, int | float) else 0.0,
            version=str(self.manifest.get("version"))[:40],
            collections=tuple(n for n in names if not collections.DELETED.fullmatch(n)),
            documents=self.rows.get("documents", 0),
            rows=sum(self.rows.values()),
            blobs=self.stored,
            segments=segments,
            keys=self.rows.get(KeyRow.__tablename__, 0),
            embedders=tuple(sorted(embedders)),
            lacking=tuple(lacking),
            reindexed=tuple(reindexed),
        )


def _check_names(table: str, row: Mapping[str, Any]) -> None:
    """Raises `InvalidInput` for what would become a path or an address and is none of ours."""
    if table == CollectionRow.__tablename__:
        collections.check_stored_name(row["name"])
    elif table == SegmentRow.__tablename__ and not (
        _ID.fullmatch(row["id"]) and row["channel"] in ("text", "picture")
    ):
        raise InvalidInput(f"{row['id']!r:.100} is no segment")


_ID = re.compile(r"[0-9a-f]{32}")
