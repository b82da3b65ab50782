"""The file of a backup: a plain tar archive that is written and read as a stream.

Its members have the names of `_NAMES` and no others, each kind in ascending order; they are files
and nothing else, uncompressed. The last is `end.json` with the number of members and the sha256 of
every byte before it, so that a cut or altered file is known for certain. `tar` lists and unpacks
it; it is read here with nothing of tar but the 512 bytes of a plain header, because longer names,
links, sparse files and the like are what archives attack with.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rag_owl.errors import CorruptData, InvalidInput

FORMAT = 1
PRODUCT = "rag_owl backup"
MOST_JSON = 64 << 20  # bytes of a member that is read into memory at once
_BLOCK = 512
_COPY = 1 << 20
_NAMES = {
    "manifest": re.compile(r"manifest\.json"),
    "rows": re.compile(r"tables/([a-z_]{1,40})/(\d{9})\.([0-9a-f]{64})\.jsonl"),
    "upload": re.compile(r"uploads/([0-9a-f]{32})/(\d{9})\.(json|data)"),
    "vectors": re.compile(r"segments/([0-9a-f]{32})\.(ids|vectors)"),
    "blob": re.compile(r"blobs/([0-9a-f]{64})"),
    "end": re.compile(r"end\.json"),
}
_ORDER = list(_NAMES)


class Writer:
    """Adds members to a file that is open for writing; in the order of `_NAMES`."""

    def __init__(self, file: IO[bytes], look: Callable[[], None] = lambda: None) -> None:
        """look: called again and again; what it raises ends the writing."""
        self._file = file
        self._look = look
        self._digest = hashlib.sha256()
        self.members = 0
        self.size = 0

    def add(self, name: str, data: bytes) -> None:
        self._begin(name, len(data))
        self._write(data)
        self._pad(len(data))

    def add_json(self, name: str, value: Any) -> None:
        self.add(name, json.dumps(value, ensure_ascii=False).encode())

    def add_rows(self, table: str, number: int, data: bytes) -> None:
        """Raises `InvalidInput` for what no reader would take into its memory."""
        if len(data) > MOST_JSON:
            raise InvalidInput(f"a row of the table {table} has {len(data):,} bytes; too many")
        digest = hashlib.sha256(data).hexdigest()
        self.add(f"tables/{table}/{number:09}.{digest}.jsonl", data)

    def add_blocks(self, name: str, blocks: Iterable[bytes], size: int) -> None:
        """Raises `CorruptData` where they are not of that size together."""
        self._begin(name, size)
        left = size
        for block in blocks:
            left -= len(block)
            if left < 0:
                break
            self._write(block)
        if left:
            raise CorruptData(f"{name} changed while it was copied; try again")
        self._pad(size)

    def add_file(self, name: str, path: Path) -> None:
        """Raises `CorruptData` where it changes meanwhile."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.add_blocks(name, iter(lambda: file.read(_COPY), b""), size)

    def end(self, facts: Mapping[str, Any]) -> None:
        """Nothing comes after it."""
        self.add_json(
            "end.json", {**facts, "members": self.members, "sha256": self._digest.hexdigest()}
        )
        self._write(bytes(2 * _BLOCK))

    def _begin(self, name: str, size: int) -> None:
        header = tarfile.TarInfo(name)
        header.size, header.mode = size, 0o600
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        self.members += 1

    def _pad(self, size: int) -> None:
        self._write(bytes(-size % _BLOCK))

    def _write(self, data: bytes) -> None:
        self._look()
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)


@dataclass(frozen=True, slots=True)
class Member:
    kind: str  # a key of `_NAMES`
    parts: tuple[str, ...]  # what its name says
    name: str
    size: int
    _reader: Reader

    def read(self, size: int = -1) -> bytes:
        """The next bytes of it; none at its end. Without a size all that is left."""
        return self._reader.read(size)

    def json(self) -> Any:
        """Raises `CorruptData`."""
        return self._reader.parse(self.name, self.whole())

    def whole(self) -> bytes:
        """All of a member that is meant to be small. Raises `CorruptData` where it is not."""
        if self.size > MOST_JSON:
            raise self._reader.damaged(f"{self.name} has {self.size:,} bytes")
        return self.read()


class Reader:
    """Reads a backup's members in order. Nothing of it may count before `members` has ended."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file = file
        self.path = path
        self._digest = hashlib.sha256()
        self._left = 0  # bytes of the member at hand
        self._padding = 0
        self._count = 0
        self.end: dict[str, Any] = {}

    def members(self) -> Iterator[Member]:
        """Raises `InvalidInput` for what is no backup, `CorruptData` for a damaged one."""
        last: tuple[int, str] = (-1, "")
        while True:
            self._skip()
            before = self._digest.hexdigest()
            member = self._header()
            place = (_ORDER.index(member.kind), member.name)
            if (member.kind == "manifest") != (self._count == 0):
                raise self._no_backup()
            # Tables follow each other as rows refer to rows, but no member comes twice.
            if place[0] < last[0] or (
                place[0] == last[0] and member.kind != "rows" and place[1] <= last[1]
            ):
                raise self.damaged(f"{member.name} stands in a wrong place")
            last = place
            if member.kind == "end":
                self._finish(member, before)
                return
            self._count += 1
            yield member

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._exactly(wanted)
        self._left -= wanted
        return data

    def parse(self, name: str, data: bytes) -> Any:
        try:
            # NaN and the like, which no database takes as JSON, become null.
            return json.loads(data, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"{name} does not read as JSON") from error

    def damaged(self, what: str) -> CorruptData:
        return CorruptData(
            f"the backup {self.path} is damaged: {what}; nothing was restored from it. "
            "Copy it again from where it came, or use another"
        )

    def _no_backup(self) -> InvalidInput:
        return InvalidInput(f"{self.path} is no backup of rag_owl; give a file of `rag-owl backup`")

    def _header(self) -> Member:
        block = self._exactly(_BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            if not self._count:
                raise self._no_backup() from error
            raise self.damaged("it is cut off or altered") from error
        if header.type != tarfile.REGTYPE or header.size < 0:
            raise (
                self.damaged("it holds what is no plain file")
                if self._count
                else (self._no_backup())
            )
        for kind, pattern in _NAMES.items():
            if found := pattern.fullmatch(header.name):
                self._left, self._padding = header.size, -header.size % _BLOCK
                return Member(kind, found.groups(), header.name, header.size, self)
        if not self._count:
            raise self._no_backup()
        raise self.damaged(f"it holds {header.name[:100]!r}, which no backup does")

    def _finish(self, member: Member, digest: str) -> None:
        facts = member.json()
        if not isinstance(facts, dict):
            raise self.damaged("its end does not read as one")
        if facts.get("members") != self._count or facts.get("sha256") != digest:
            raise self.damaged("its bytes are not those that were written")
        self._skip()
        if self._exactly(2 * _BLOCK).strip(b"\0") or self._file.read(1):
            raise self.damaged("something comes after its end")
        self.end = facts

    def _skip(self) -> None:
        while self._left:
            self.read(_COPY)
        if self._exactly(self._padding).strip(b"\0"):
            raise self.damaged("it is altered")
        self._padding = 0

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            if not self._count:
                raise self._no_backup()
            raise self.damaged("it is cut off")
        self._digest.update(data)
        return data
