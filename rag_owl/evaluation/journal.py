"""A run on the disk: one line of JSON per result, only ever appended, so that a kill costs nothing.

A line is on the disk (fsync) before the next question is asked. A line that a kill tore is cut off
at the next start; its question is asked again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from rag_owl.errors import Conflict, CorruptData, DataFolderError

FILE = "answers.jsonl"


class Journal:
    """The results of one run in a folder. One process at a time; use it in a `with`.

    about: what must be the same when it goes on (the dataset's digest, the collection, …), the
    first line. Raises `Conflict` where the folder holds another run, or another process works on
    it; `CorruptData` for lines that are no results; `DataFolderError` when it cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], file: str = FILE) -> None:
        self.folder = folder
        self.path = folder / file
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / f".{file}.lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise Conflict(f"another process evaluates into {folder}; wait for it") from error
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            self.rows = self._open(dict(about))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, about: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            # Not "a+": what a kill tore has to be cut off.
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            rows = read(self.path)
            os.ftruncate(self._file, _whole_lines(self.path))
            os.lseek(self._file, 0, os.SEEK_END)
            if not rows:
                self.append({"run": about})
                _sync_folder(self.folder)
                return []
            known = rows[0].get("run")
            if known != about:
                what = _differs(known, about)
                raise Conflict(
                    f"{self.folder} holds another evaluation ({what}); name another folder with "
                    "--out, or delete this one"
                )
        except BaseException:
            os.close(self._file)
            raise
        return rows[1:]

    def append(self, row: Mapping[str, Any]) -> None:
        """Raises `DataFolderError` when the disk is full; what stood there before stays whole."""
        line = json.dumps(row).encode("ascii") + b"\n"
        at = os.lseek(self._file, 0, os.SEEK_END)
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, at)
            raise _unwritable(self.folder, error) from error

    def close(self) -> None:
        os.close(self._file)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines, the one about the run first. Raises `CorruptData`."""
    rows: list[dict[str, Any]] = []
    data = path.read_bytes()
    for number, line in enumerate(data[: _whole_lines(path)].splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorruptData(f"{path}, line {number}: no JSON; delete the folder") from error
        if not isinstance(row, dict) or (number == 1) != ("run" in row):
            raise CorruptData(f"{path}, line {number}: no result of an evaluation")
        rows.append(row)
    return rows


def write_whole(path: Path, text: str) -> None:
    """A file that is the old one or the new one, never half of it. Raises `DataFolderError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataFolderError(f"cannot write {path}: {error.strerror or error}") from error


def _whole_lines(path: Path) -> int:
    """Bytes up to the last end of a line."""
    return path.read_bytes().rfind(b"\n") + 1


def _differs(known: Any, about: Mapping[str, Any]) -> str:
    if not isinstance(known, dict):
        return "of another kind"
    names = [name for name in {**known, **about} if known.get(name) != about.get(name)]
    return ", ".join(
        f"{name}: {known.get(name)!r} there, {about.get(name)!r} now" for name in names
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(folder: Path, error: OSError) -> DataFolderError:
    return DataFolderError(
        f"cannot write to {folder}: {error.strerror or error}; name another folder with --out"
    )
