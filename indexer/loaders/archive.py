"""Archives: every file in a zip or a tar is a document of its own, `archive.zip/folder/file.txt`.

Members are read one after the other: small ones in memory, films and what is larger from a private
temporary folder, one at a time. A picture and its text, a film and its subtitles are one document
as on the disk; of two that belong together the first is held until the second comes.

Rows count documents: a member is one row, a pair two, a file of rows as many as it has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.archive_files import DAMAGED, Bomb, Member, opened, unpacking
from rag_owl.indexer.loaders.dispatch import ARCHIVES, ROWS, read_file, read_pair
from rag_owl.indexer.loaders.files import BLOCK_BYTES, HeldFile, WatchedFile
from rag_owl.indexer.loaders.scan import companions
from rag_owl.indexer.loaders.values import Loaded, SkippedRow
from rag_owl.media import SNIFF_BYTES, VIDEO_FORMATS, Limits, sniff
from rag_owl.types import Skipped

HELD_BYTES = 16 * 2**20  # of a member in memory
_NESTED = (
    "it is an archive or an office document in an archive, which is not read: unpack it, or save "
    "it as PDF"
)

Values = Generator[Loaded | Skipped, None, int]  # returns how many rows a file of rows has


def load_archive(
    name: str, file: WatchedFile, media_type: str, start_row: int, limits: Limits
) -> Iterator[Loaded | Skipped]:
    """Raises `UnreadableMedia` when it is no archive, and where it cannot be read on."""
    with (
        opened(file, media_type, limits) as archive,
        tempfile.TemporaryDirectory(prefix="rag-owl-") as folder,
    ):
        members = archive.members()
        if not members:
            raise UnreadableMedia("the archive holds no files: remove it")
        partner_of = companions([member.name for member in members if not member.fault])
        partner_of |= {text: picture for picture, text in partner_of.items()}
        reader = _Reader(name, file.path, Path(folder), limits, partner_of)
        row = 0
        for member, stream in archive.streams():
            row = yield from reader.read(member, stream, row, start_row)


@dataclass(slots=True)
class _Reader:
    name: str
    path: Path
    folder: Path  # for what is not held in memory
    limits: Limits
    partner_of: dict[str, str]  # both ways
    held: dict[str, WatchedFile | None] = field(default_factory=dict)
    """First halves of pairs; None: it turned out to be no half."""

    def read(self, member: Member, stream: IO[bytes] | None, row: int, start_row: int) -> Values:
        """The member's documents from `start_row` on; the row of what comes after it."""
        where = f"{self.name}/{member.name}"
        if stream is None:
            return (yield from _numbered(_unread(where, member.fault), row, start_row, 1))
        partner = self.partner_of.get(member.name)
        head = b""
        try:
            with unpacking(DAMAGED):
                head = stream.read(SNIFF_BYTES)
            media_type = sniff(head, where)
            if media_type in ARCHIVES:
                raise UnreadableMedia(_NESTED)
            if partner is None and media_type not in ROWS and row < start_row:
                return row + 1  # it was read before
            file = self._taken(member, head, stream, on_disk=media_type in VIDEO_FORMATS)
        except Bomb:
            raise
        except UnreadableMedia as error:
            return (yield from self._failed(member, str(error), row, start_row))
        kept = False
        try:
            if partner is None:
                values = read_file(where, file, max(0, start_row - row), self.limits)
                return (yield from _numbered(_caught(values, where), row, start_row, 1))
            if partner not in self.held:
                self.held[member.name] = file
                kept = True
                return row
            return (yield from self._both(member.name, file, partner, row, start_row))
        finally:
            if not kept:
                _forget(file)

    def _both(self, name: str, file: WatchedFile, partner: str, row: int, start_row: int) -> Values:
        """The second half has come."""
        other = self.held.pop(partner)
        first, second = (f"{self.name}/{partner}", other), (f"{self.name}/{name}", file)
        try:
            if other is None:
                values = read_file(second[0], file, 0, self.limits)
                return (yield from _numbered(_caught(values, second[0]), row, start_row, 1))
            if companions([partner, name]).get(partner) != name:
                first, second = second, first  # the picture, the film first
            both = self._pair(first, second)
            return (yield from _numbered(both, row, start_row, 2))
        finally:
            if other is not None:
                _forget(other)

    def _pair(
        self, main: tuple[str, WatchedFile | None], text: tuple[str, WatchedFile | None]
    ) -> Values:
        assert main[1] is not None
        assert text[1] is not None
        try:
            yield from read_pair(main[0], main[1], text[0], text[1], self.limits)
        except UnreadableMedia:
            for where, file in ((main[0], main[1]), (text[0], text[1])):
                yield from _caught(read_file(where, file, 0, self.limits), where)
        return 0

    def _failed(self, member: Member, reason: str, row: int, start_row: int) -> Values:
        """A member that cannot be had; its other half, if it waits for it, is read alone."""
        where = f"{self.name}/{member.name}"
        row = yield from _numbered(_unread(where, reason), row, start_row, 1)
        partner = self.partner_of.get(member.name)
        if partner is None:
            return row
        other = self.held.pop(partner, None)
        if other is None:
            self.held[member.name] = None  # the other will not wait
            return row
        try:
            where = f"{self.name}/{partner}"
            values = _caught(read_file(where, other, 0, self.limits), where)
            return (yield from _numbered(values, row, start_row, 1))
        finally:
            _forget(other)

    def _taken(self, member: Member, head: bytes, stream: IO[bytes], on_disk: bool) -> WatchedFile:
        """The whole member. Raises `UnreadableMedia` when it is damaged, empty or too large."""
        data = bytearray(head)
        with unpacking(DAMAGED):
            while not on_disk and len(data) <= HELD_BYTES and (block := stream.read(BLOCK_BYTES)):
                data += block
            on_disk = on_disk or len(data) > HELD_BYTES
        if not on_disk and len(data) <= self.limits.max_bytes:
            return HeldFile.holding(bytes(data), self.path / member.name)
        path = self.folder / str(member.index)
        size = len(data)
        try:
            with path.open("wb") as file:
                file.write(data)
                del data
                while True:
                    with unpacking(DAMAGED):
                        block = stream.read(BLOCK_BYTES)
                    if not block:
                        break
                    size += len(block)
                    if size > self.limits.max_bytes:
                        break  # WatchedFile says so
                    file.write(block)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise UnreadableMedia(
                f"it cannot be unpacked ({error.strerror or error}): make room for temporary files"
            ) from error
        except UnreadableMedia:
            path.unlink(missing_ok=True)
            raise
        if size > self.limits.max_bytes:
            path.unlink()
            raise UnreadableMedia(
                f"it has more than the limit of {self.limits.max_bytes:,} bytes: split it"
            )
        return WatchedFile.of(path, self.limits)


def _forget(file: WatchedFile) -> None:
    if not isinstance(file, HeldFile):
        file.path.unlink(missing_ok=True)


def _unread(where: str, reason: str) -> Values:
    yield Skipped(where, reason)
    return 0


def _caught(values: Values, where: str) -> Values:
    """What is wrong with one member is said of that one."""
    try:
        return (yield from values)
    except UnreadableMedia as error:
        yield Skipped(where, str(error))
    except RecursionError:
        yield Skipped(where, "it is nested too deeply to be read: simplify it")
    except MemoryError:
        yield Skipped(where, "it needs more memory than there is: split it")
    return 0


def _numbered(values: Values, row: int, start_row: int, rows: int) -> Values:
    """`values` with rows of the archive from `row` on, without those before `start_row`.

    rows: of what is no file of rows. The last value has a row. Returns the row after the last.
    """
    last = row - 1  # that was given
    after: int = row
    waiting: Skipped | None = None  # only the last that comes of a row has its number
    while True:
        try:
            value = next(values)
        except StopIteration as end:
            after += max(rows, end.value, last + 1 - row)
            break
        if waiting is not None:
            yield waiting
            waiting = None
        if isinstance(value, SkippedRow):
            last = row + value.row
            yield replace(value, row=last)
        elif isinstance(value, Skipped):
            waiting = value
        else:
            last = last + 1 if value.row is None else row + value.row
            if last >= start_row:
                yield replace(value, row=last)
    if waiting is not None and after > start_row:
        yield SkippedRow(waiting.name, waiting.reason, after - 1)
    return after
