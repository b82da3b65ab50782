"""What is in a zip or a tar: its members in order, each as a stream, within limits.

Nothing is ever written under a name that an archive gives, so no name can lead anywhere.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO, Protocol

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.scan import printable
from rag_owl.media import Limits

MAX_NAME_BYTES = 1_000  # PostgreSQL indexes no more than some 2,700
FREE_BYTES = 64 * 2**20  # no bomb, however small what they come from
_FREE_MEMBERS = 4  # so many times that from all members of an archive
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError
)  # fmt: skip
_OFFICE = "it is an office document, which cannot be read: save it as PDF"


@dataclass(frozen=True, slots=True)
class Member:
    """An entry that is neither a folder nor hidden. `fault`: why it is not read."""

    index: int  # among all entries
    name: str  # printable
    fault: str = ""


class Archive(Protocol):
    """An opened archive."""

    def members(self) -> list[Member]: ...

    def streams(self) -> Iterator[tuple[Member, IO[bytes] | None]]:
        """The members again, each with its content, to be read before the next is asked for.

        None: it has a fault. Reading a stream raises `UnreadableMedia` where that is damaged, and
        `Bomb` where nothing more of the archive can be read; so does going on.
        """
        ...


class Bomb(UnreadableMedia):
    """What comes out is out of all proportion: nothing more is read."""


@contextmanager
def opened(file: WatchedFile, media_type: str, limits: Limits) -> Iterator[Archive]:
    """Raises `UnreadableMedia` when it is no archive, an office file, or damaged at its start."""
    with file.open() as stream:
        if media_type == "application/zip":
            with unpacking("the zip archive is damaged: make it again"):
                _check_directory(stream, file.size, limits)
                archive = zipfile.ZipFile(stream)
            yield _Zip(archive, file.size, limits)
        else:
            yield _Tar(stream, media_type, file.size, limits)


@contextmanager
def unpacking(reason: str) -> Iterator[None]:
    try:
        yield
    except UnreadableMedia:
        raise
    except NotImplementedError as error:
        raise UnreadableMedia(f"it is packed in a way that is not known here ({error})") from error
    except RuntimeError as error:  # zipfile's, for a member that needs a password
        raise UnreadableMedia("it cannot be unpacked: it may need a password") from error
    except _BROKEN as error:
        raise UnreadableMedia(reason) from error


def name_fault(name: str) -> str:
    """Why a member of this name is not read, or ""."""
    parts = name.replace("\\", "/").split("/")
    if not name.strip("/") or "\0" in name:
        return "its name is empty or holds a NUL: pack it again under another"
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        return "its name leads out of the archive: pack it again under another"
    if len(printable(name).encode()) > MAX_NAME_BYTES:
        return f"its name is longer than {MAX_NAME_BYTES:,} bytes: shorten it"
    return ""


def is_hidden(name: str) -> bool:
    """As in folders, what begins with a dot; and what macOS adds to every zip."""
    if name_fault(name):
        return False  # what is wrong with it is said
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts[:1] or any(p.startswith(".") for p in parts)


def shown(name: str) -> str:
    """A name as it is reported: one line, no longer than a name may be."""
    name = printable(name)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    return f"{name[:100]}…"


class _Room:
    """How many bytes may still come out of an archive, or of one of its members."""

    def __init__(
        self, size: int, limits: Limits, full: type[UnreadableMedia], free: int = 1
    ) -> None:
        """size: bytes that they come from. full: what is raised when they are too many."""
        wanted = max(free * FREE_BYTES, limits.max_archive_ratio * size)
        self.left = min(limits.max_archive_bytes, wanted)
        self._full = full

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise self._full(
                "it unpacks to far more than it is worth (a bomb, or a file of zeros): what is "
                "left of it is not read"
            )


class _Unpacked(io.RawIOBase):
    """A stream of unpacked bytes that stops when they are too many for what they come from."""

    def __init__(self, packed: Any, reason: str, *rooms: _Room) -> None:
        self._packed, self._reason, self._rooms = packed, reason, rooms

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        with unpacking(self._reason):
            # read() would lose what comes just before a damaged place.
            data = self._packed.read1(len(buffer))
        for room in self._rooms:
            room.take(len(data))
        buffer[: len(data)] = data
        return len(data)


# --- zip ------------------------------------------------------------------------------------------

DAMAGED = "it is damaged in its archive: pack it again"
_DIRECTORY_ENTRY = 46  # bytes, with the shortest name


def _check_directory(stream: BinaryIO, size: int, limits: Limits) -> None:
    """The table of contents is read as a whole by zipfile: not if it is out of all proportion."""
    stream.seek(max(0, size - 65_557))
    tail = stream.read()
    at = tail.rfind(b"PK\5\6")
    entries = int.from_bytes(tail[at + 10 : at + 12], "little")
    length = int.from_bytes(tail[at + 12 : at + 16], "little")
    if (at64 := tail.rfind(b"PK\6\6")) >= 0:
        entries = int.from_bytes(tail[at64 + 32 : at64 + 40], "little")
        length = int.from_bytes(tail[at64 + 40 : at64 + 48], "little")
    if at >= 0:
        _check_count(max(entries, length // (_DIRECTORY_ENTRY + MAX_NAME_BYTES)), limits)
    stream.seek(0)


def _check_count(entries: int, limits: Limits) -> None:
    if entries > limits.max_archive_members:
        raise UnreadableMedia(
            f"the archive holds over {limits.max_archive_members:,} files, more than the limit: "
            "split it"
        )


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, size: int, limits: Limits) -> None:
        self._archive, self._size, self._limits = archive, size, limits
        infos = archive.infolist()
        _check_count(len(infos), limits)
        names = {info.filename for info in infos[:3]} | {"[Content_Types].xml"}
        if "mimetype" in names or archive.NameToInfo.get("[Content_Types].xml"):
            raise UnreadableMedia(_OFFICE)
        self._infos = [i for i in infos if not i.is_dir() and not is_hidden(i.filename)]

    def members(self) -> list[Member]:
        found: set[str] = set()
        members = []
        for index, info in enumerate(self._infos):
            name = shown(info.filename)
            fault = self._fault(info) or (_TWICE if info.filename in found else "")
            found.add(info.filename)
            members.append(Member(index, name, fault))
        return members

    def _fault(self, info: zipfile.ZipInfo) -> str:
        mode = info.external_attr >> 16
        if fault := name_fault(info.orig_filename):
            return fault
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            return _LINK
        if info.flag_bits & 1:
            return "it is protected by a password: pack it again without one"
        return ""

    def streams(self) -> Iterator[tuple[Member, IO[bytes] | None]]:
        total = 0
        # Of all members together too: they may be many, or lie in each other.
        room = _Room(self._size, self._limits, Bomb, _FREE_MEMBERS)
        for member, info in zip(self.members(), self._infos, strict=True):
            if member.fault:
                yield member, None
                continue
            total += info.file_size
            if total > self._limits.max_archive_bytes:
                raise Bomb(_too_large(self._limits))
            yield member, io.BufferedReader(_Member(self._archive, info, room, self._limits))


class _Member(io.RawIOBase):
    """A zip's member, opened when it is first read: a damaged one costs only itself."""

    def __init__(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, room: _Room, limits: Limits
    ) -> None:
        self._archive, self._info, self._room, self._limits = archive, info, room, limits
        self._stream: _Unpacked | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._stream is None:
            with unpacking(DAMAGED):
                packed = self._archive.open(self._info)
            # The others are packed apart from it: if it is a bomb, they may be none.
            own = _Room(self._info.compress_size, self._limits, UnreadableMedia)
            self._stream = _Unpacked(packed, DAMAGED, own, self._room)
        return self._stream.readinto(buffer)


_LINK = "it is a link or a device: pack the file that is meant"
_TWICE = "the archive holds two files of this name; the first is used"


def _too_large(limits: Limits) -> str:
    return (
        f"the archive unpacks to more than the limit of {limits.max_archive_bytes:,} bytes: what "
        "is left of it is not read; split it"
    )


# --- tar ------------------------------------------------------------------------------------------

_UNPACK: dict[str, Callable[[BinaryIO], Any]] = {
    "application/gzip": lambda stream: gzip.GzipFile(fileobj=stream),
    "application/x-bzip2": bz2.BZ2File,
    "application/x-xz": lzma.LZMAFile,
}


class _Header(tarfile.TarInfo):
    """Notices a damaged header: tarfile takes it for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tarfile_)  # type: ignore[return-value]
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            if tarfile_.offset:
                raise UnreadableMedia(_CUT) from error
            raise


_CUT = "the archive is damaged or cut off here: what comes after is not read; get it again"


class _Tar:
    """Read from front to end each time, as it may be packed as a whole."""

    def __init__(self, file: BinaryIO, media_type: str, size: int, limits: Limits) -> None:
        self._file, self._media_type, self._size, self._limits = file, media_type, size, limits
        self._members: list[Member] = []
        found: set[str] = set()
        try:
            for _, info in self._walk():
                fault = name_fault(info.name)
                if not fault and not info.isreg():
                    fault = _LINK
                if not fault and info.name in found:
                    fault = _TWICE
                found.add(info.name)
                self._members.append(Member(len(self._members), shown(info.name), fault))
                if len(self._members) > self._limits.max_archive_members:
                    break
        except UnreadableMedia:
            if not self._members:
                raise  # else it comes again at the same place, after what is before it
        _check_count(len(self._members), self._limits)

    def members(self) -> list[Member]:
        return self._members

    def _walk(self) -> Iterator[tuple[Any, tarfile.TarInfo]]:
        self._file.seek(0)
        unpack = _UNPACK.get(self._media_type)
        stream: IO[bytes] = self._file
        if unpack is not None:
            stream = unpack(self._file)
        room = _Room(self._size, self._limits, Bomb)
        most = room.left
        reader = _Unpacked(stream, _CUT, room)
        nothing = "it is packed data, but no tar archive: unpack it" if unpack else _CUT
        with unpacking(nothing):  # closed with the file
            archive: Any = tarfile.open(  # noqa: SIM115
                fileobj=reader, mode="r|", bufsize=2**20, tarinfo=_Header
            )
        while True:
            with unpacking(_CUT):
                info = archive.next()
            if info is None:
                return
            archive.members = []  # or each header would be kept
            if archive.offset > most:  # tarfile would look for its end block by block, for days
                while reader.read(2**20):
                    pass  # a bomb says so
                raise UnreadableMedia(_CUT)
            if not info.isdir() and not is_hidden(info.name):
                yield archive, info

    def streams(self) -> Iterator[tuple[Member, IO[bytes] | None]]:
        waiting = iter(self._members)
        room = _Room(self._size, self._limits, Bomb, _FREE_MEMBERS)  # for what holes become
        for archive, info in self._walk():
            member = next(waiting, None)
            if member is None:
                return
            if member.fault:
                yield member, None
                continue
            with unpacking(_CUT):
                stream = archive.extractfile(info)
            if info.issparse():  # its holes take no room in the archive
                own = _Room(archive.offset - info.offset, self._limits, UnreadableMedia)
                stream = io.BufferedReader(_Unpacked(stream, _CUT, own, room))
            yield member, stream
