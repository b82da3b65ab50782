"""Files that arrive over the network: on the disk and hashed before anybody is told so.

An upload is a folder below the data folder's `uploads/`. It exists from its first byte; what its
job has read is in the blobs, and the folder goes. What was never made a job's (the client went
away, the process was killed), and that of jobs which failed or were cancelled a day ago, is removed
by `sweep`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
import unicodedata
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine

from rag_owl import db, paths
from rag_owl.blobs import sync_folder
from rag_owl.errors import CorruptData, DataFolderError, InvalidInput
from rag_owl.object_store import ObjectStore
from rag_owl.store import jobs

FOLDER = "uploads"
ORIGIN = "upload:"  # before the name: other bytes of that name are a new revision
_LONGEST_NAME = 200  # bytes of UTF-8: file systems take 255
_ABANDONED = 24 * 3_600.0  # seconds after which what is no job's is removed
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Received:
    name: str  # made safe
    sha256: str
    size: int  # bytes


def safe_name(given: str) -> str:
    """A client's file name as one that can stand in a folder of ours and be shown.

    Only what comes after the last `/` or `\\`; no control character, no NUL, no dot in front (such
    files are left out when a folder is read); no longer than file systems take, its suffix kept.
    """
    name = re.split(r"[/\\]", given)[-1]
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    # Controls, and what turns the direction of text around (a name could look like another).
    name = "".join(char for char in name if unicodedata.category(char) not in ("Cc", "Cf", "Cs"))
    name = name.strip().lstrip(". ")
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix.encode()) > 20:
        stem, suffix = name, ""
    suffix = f".{suffix}" if suffix else ""
    room = _LONGEST_NAME - len(suffix.encode())
    stem = stem.encode()[:room].decode("utf-8", "ignore")
    return (stem + suffix) or "unnamed"


class Upload:
    """One upload while it arrives. In a `with`: unless `keep` was called, nothing stays of it."""

    def __init__(self, data_folder: Path, objects: ObjectStore | None = None) -> None:
        """objects: what other machines share with this one, so that any may work the job.

        Raises `DataFolderError` when nothing can be written.
        """
        self._objects = objects
        self.id = uuid.uuid4().hex
        self.folder = data_folder / FOLDER / self.id
        self.received: list[Received] = []
        self._open: IO[bytes] | None = None
        self._name = ""
        self._digest = hashlib.sha256()
        self._size = 0
        self._kept = False
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def begin(self, name: str) -> None:
        """The next file. Raises `InvalidInput` for a name that was there already."""
        safe = safe_name(name)
        if any(each.name == safe for each in self.received):
            raise InvalidInput(f"two files are called {safe!r}; give each name once", field="files")
        try:
            self._open = (self.folder / safe).open("xb")
        except FileExistsError:  # where the file system sees no difference between a and A
            raise InvalidInput(
                f"two files are called {safe!r}; give each name once", field="files"
            ) from None
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._name, self._digest, self._size = safe, hashlib.sha256(), 0

    def write(self, block: bytes) -> None:
        """The next bytes of the file. Raises `DataFolderError` when the disk is full."""
        assert self._open is not None
        self._digest.update(block)
        self._size += len(block)
        try:
            self._open.write(block)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def end(self) -> Received:
        """The file is complete, and on the disk."""
        assert self._open is not None
        try:
            with self._open as file:
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._open = None
        done = Received(self._name, self._digest.hexdigest(), self._size)
        self.received.append(done)
        return done

    def keep(self) -> None:
        """All files are complete: from now on they survive a power cut.

        Raises `DataFolderError`, `StorageUnavailable`.
        """
        try:
            sync_folder(self.folder)
            sync_folder(self.folder.parent)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        if self._objects is not None:
            for each in self.received:
                self._objects.put_file(f"{FOLDER}/{self.id}/{each.name}", self.folder / each.name)
        self._kept = True

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.close()
        if not self._kept or not self.received:
            shutil.rmtree(self.folder, ignore_errors=True)


def parameters(
    upload: Upload, metadata: Mapping[str, Any], origins: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What an ingest job over the upload is to do.

    metadata: laid over that of every document in it. origins: by name, of files that are the next
    revision of a certain document.
    """
    return {
        "paths": [paths.dump(upload.folder)],
        "upload": upload.id,
        "metadata": dict(metadata),
        "origins": dict(origins or {}),
        "checksums": {each.name: each.sha256 for each in upload.received},
    }


def origin_of(job: Mapping[str, Any], name: str) -> str | None:
    """Where a file of the job's upload comes from; None: the job reads no upload."""
    if "upload" not in job:
        return None
    found: str = job.get("origins", {}).get(name, ORIGIN + name)
    return found


def fetch(data_folder: Path, job: Mapping[str, Any], objects: ObjectStore | None) -> None:
    """Have the job's upload here, where another machine received it.

    Raises `DataFolderError`, `CorruptData`, `StorageUnavailable`.
    """
    upload = str(job.get("upload", ""))
    folder = data_folder / FOLDER / upload
    if objects is None or not _ID.fullmatch(upload) or folder.is_dir():
        return
    if job["paths"] != [paths.dump(folder)]:
        raise DataFolderError(
            f"the upload was received at {job['paths'][0]}, and the data folder here is "
            f"{data_folder}; give the data folder the same path on every machine"
        )
    arriving = folder.with_name(f".{upload}-{uuid.uuid4().hex}")
    try:
        arriving.mkdir(parents=True)
        for name, sha256 in job["checksums"].items():
            objects.get_file(f"{FOLDER}/{upload}/{name}", arriving / name)
            with (arriving / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise CorruptData(
                        f"{objects.url} gives other bytes of {name} than were uploaded; upload "
                        "it again"
                    )
        with suppress(OSError):  # another process was faster
            arriving.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def share(data_folder: Path, objects: ObjectStore | None) -> None:
    """Have all uploads that are here where the other machines see them. Raises as `keep` does."""
    if objects is not None:
        for path in (data_folder / FOLDER).glob("*/*"):
            objects.put_file(f"{FOLDER}/{path.parent.name}/{path.name}", path)


def checksums(folder: Path) -> dict[str, str]:
    """By the name of each file of an upload."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def remove(data_folder: Path, job: Mapping[str, Any], objects: ObjectStore | None = None) -> None:
    """The job's upload was read wholly: its bytes are blobs now."""
    upload = str(job.get("upload", ""))
    if _ID.fullmatch(upload):
        shutil.rmtree(data_folder / FOLDER / upload, ignore_errors=True)
        if objects is not None:
            for entry in objects.entries(f"{FOLDER}/{upload}"):
                objects.delete(entry.name)


def sweep(engine: Engine, data_folder: Path, objects: ObjectStore | None = None) -> int:
    """Remove what no job will read any more; how many uploads that were."""
    folder = data_folder / FOLDER
    if not folder.is_dir() and objects is None:
        return 0
    with db.reading(engine) as session:
        wanted = jobs.uploads_in_use(session)
    removed = 0
    if objects is not None:
        for found in objects.entries(FOLDER):
            if found.name.split("/")[1] not in wanted and objects.age(found.modified) > _ABANDONED:
                objects.delete(found.name)
                removed += 1
    if not folder.is_dir():
        return removed
    for entry in os.scandir(folder):
        if entry.name in wanted or not _ID.fullmatch(entry.name):
            continue
        if _last_change(entry) < time.time() - _ABANDONED:
            shutil.rmtree(entry.path, ignore_errors=True)
            removed += 1
    return removed


def _last_change(folder: os.DirEntry[str]) -> float:
    """Seconds since the epoch; a large file may arrive for longer than a day."""
    found = [folder.stat().st_mtime]
    with contextlib.suppress(OSError):  # it went meanwhile
        found += [entry.stat().st_mtime for entry in os.scandir(folder.path)]
    return max(found)


def _unwritable(folder: Path, error: OSError) -> DataFolderError:
    return DataFolderError(
        f"cannot write to {folder}: {error.strerror or error}; make space or check permissions"
    )
