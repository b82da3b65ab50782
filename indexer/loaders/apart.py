"""`read` in another process: a file that crashes, hangs or bloats its decoder is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.apart_pool import Decoder, DecoderLost, Pool
from rag_owl.indexer.loaders.dispatch import HAVE_ROWS
from rag_owl.indexer.loaders.files import WatchedFile
from rag_owl.indexer.loaders.values import Input, Loaded, Picture, Section, SkippedRow
from rag_owl.media import DEFAULT_LIMITS, Limits, sniff
from rag_owl.types import Skipped

# A file is hashed, and of rows the ones before are passed over, before its first piece comes.
_BYTES_PER_SECOND = 5_000_000
_MOST_LOST = 20  # decoders for one file


def read_apart(
    source: Input, *, start_row: int = 0, limits: Limits = DEFAULT_LIMITS, pool: Pool
) -> Iterator[Loaded | Skipped]:
    """As `rag_owl.indexer.loaders.read`, decoded in a process of its own within `pool.allowance`.

    Where the decoder is lost, the piece at hand comes as `Skipped` with the reason, or is raised as
    `UnreadableMedia` by the document's `sections`; a fresh decoder goes on with the next row.
    A document's `sections` are cheapest before the next document is asked for, and one at a time;
    later they cost reading the file again.
    """
    try:
        size = source.path.stat().st_size
    except (OSError, ValueError):  # `read` says what is wrong with it
        size = 0
    place = _Place(source, start_row, limits, size / _BYTES_PER_SECOND, start_row > 0)
    while True:
        with pool.lend() as decoder:
            reading = _Reading(decoder, place, pool)
            try:
                yield from reading.values()
                return
            except DecoderLost as error:
                reason = str(error)
            finally:
                reading.over = True
        place.lost += 1
        if reading.told:  # by the document's sections: its reader knows
            place.single = False
        elif not place.single and (source.companion or place.rows or _has_rows(source, limits)):
            place.single = True  # it had gone ahead: again, to lose nothing before the bad one
            continue
        elif not (place.rows or _has_rows(source, limits)):
            yield Skipped(source.name, reason)
            return
        else:
            yield SkippedRow(f"{source.name} row {place.row + 1}", reason, place.row)
            place.row, place.given, place.single = place.row + 1, 0, False
        if place.lost >= _MOST_LOST:
            yield Skipped(
                source.name,
                f"the rest of it was not read, because {place.lost} decoders were lost on it: "
                "remove what is damaged in it, or split it",
            )
            return


class _Place:
    """Where the reading of a file is, for whoever goes on with it."""

    def __init__(self, source: Input, row: int, limits: Limits, extra: float, rows: bool) -> None:
        self.source, self.limits = source, limits
        self.row = row  # to begin at
        self.given = 0  # values since then
        self.extra = extra  # seconds for what depends on the file's size
        self.rows = rows  # whether it has any
        self.single = False  # one value at a time
        self.lost = 0  # decoders

    def passed(self, value: Loaded | Skipped) -> None:
        row = value.row if isinstance(value, Loaded | SkippedRow) else None
        if row is None:
            self.given += 1
        else:
            self.row, self.given, self.rows = row + 1, 0, True


class _Reading:
    """One decoder at one file."""

    def __init__(self, decoder: Decoder, place: _Place, pool: Pool) -> None:
        self._decoder, self._place, self._pool = decoder, place, pool
        self._current = 0  # number of the value that was given last
        self.told = False
        self.over = False

    def values(self) -> Iterator[Loaded | Skipped]:
        """Raises `DecoderLost`."""
        decoder, place = self._decoder, self._place
        request: tuple[Any, ...] = (
            "read", place.source, place.row, place.limits, place.given, place.single,
        )  # fmt: skip
        ahead = False
        while True:
            if not ahead:
                if decoder.waiting:  # of sections that nobody wanted to the end
                    decoder.answer()
                decoder.ask(request, place.extra)
            kind, *given = decoder.answer()
            if kind == "end":
                return
            if kind != "values":
                yield Skipped(place.source.name, _said(kind, given))
                return
            request = ("next",)
            values, then = given
            ahead = then == "ahead"
            if ahead:  # it decodes while the caller does its part
                decoder.ask(request, place.extra)
            for value, sections in values:
                place.passed(value)
                self._current += 1
                if isinstance(value, Loaded):
                    yield self._bound(value, sections)
                else:
                    yield value
                if self.told:
                    raise DecoderLost
            if then == "end":
                return

    def _bound(self, value: Loaded, sections: list[Section] | None) -> Loaded:
        if sections is not None:
            return replace(value, sections=lambda: iter(sections))
        number = self._current
        bound = replace(value, sections=lambda: self._sections(bound, number))
        return bound

    def _sections(self, document: Loaded, number: int) -> Iterator[Section]:
        if self.over or number != self._current or self.told:
            yield from self._again(document)
            return
        try:
            yield from self._streamed()
        except DecoderLost as error:
            self.told = True
            raise UnreadableMedia(str(error)) from error

    def _streamed(self) -> Iterator[Section]:
        decoder = self._decoder
        if decoder.waiting:
            decoder.answer()
        decoder.ask(("sections",), self._place.extra)
        picture: Picture | None = None
        while True:
            kind, *given = decoder.answer()
            if kind != "sections":
                raise UnreadableMedia(_said(kind, given))
            gathered, done = given
            if not done:
                decoder.ask(("more",))
            for section, shown in gathered:
                if shown is not True:
                    picture = shown
                yield replace(section, picture=picture)
            if done:
                return

    def _again(self, document: Loaded) -> Iterator[Section]:
        """Of a document that is past: the file is read again up to it."""
        place = self._place
        start = document.row or 0
        for other in read_apart(
            place.source, start_row=start, limits=place.limits, pool=self._pool
        ):
            same = isinstance(other, Loaded) and (other.name, other.sha256, other.row) == (
                document.name, document.sha256, document.row,
            )  # fmt: skip
            if same and isinstance(other, Loaded):
                yield from other.sections()
                return
        raise UnreadableMedia("it changed while it was read: ingest it again")


def _said(kind: str, given: list[Any]) -> str:
    if kind == "failed":
        return f"its reader failed ({given[0]}): the file is damaged; save it again"
    return str(given[0])


def _has_rows(source: Input, limits: Limits) -> bool:
    if source.companion is not None:
        return False
    try:
        media_type = sniff(WatchedFile.of(source.path, limits).head(), source.name)
    except UnreadableMedia:
        return False
    return media_type in HAVE_ROWS
