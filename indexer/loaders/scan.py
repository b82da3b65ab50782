"""From what the user names to the files in it, in an order that is the same every time."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders.files import explained
from rag_owl.indexer.loaders.values import Input
from rag_owl.subtitles import SUBTITLE_SUFFIXES
from rag_owl.types import Skipped

PICTURE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"])
TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm")  # the first that exists is paired
_VIDEOS = """
.3gp .asf .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv
"""
VIDEO_SUFFIXES = frozenset(_VIDEOS.split())


def scan(
    paths: Sequence[Path], *, follow_links: bool = False, leave_out: Sequence[Path] = ()
) -> Iterator[Input | Skipped]:
    """Every file of `paths` and of the folders in them, one folder in memory at a time.

    Names are relative to the folder given (a file: its own name); should two of them give the same
    name, the later one gets its folder's name in front. Within folders, what begins with a dot
    is left out. Links are followed to files within the folder given; others, and links
    to folders, only with `follow_links`. A picture and a text of the same stem in one folder become
    one `Input` (two pictures of a stem: the first in order has the text), as do a film and its
    subtitles.

    `leave_out` are rag_owl's own folders and files: each is reported once, under whatever name it
    is met. What lies below one of them is read only when it is given itself.
    """
    taken: dict[str, Path] = {}
    own = _Own(leave_out)
    files = [path for path in paths if not _is_folder(path) and not own.holds(path)]
    pairs = {pair.path: pair for pair in _pair_given(files)}
    companions = {pair.companion for pair in pairs.values()}
    for path in paths:
        found: Iterable[Input | Skipped]
        if own.holds(path):
            found = own.reported(path, printable(str(path)))
        elif _is_folder(path):
            found = _Walk(path, follow_links, own).files()
        elif path in companions:
            continue
        else:
            found = _given_file(path, pairs)
        for entry in found:
            if isinstance(entry, Skipped) or len(paths) == 1:
                yield entry
            elif (unique := _unique(entry, path, taken)) is not None:
                yield unique


class _Own:
    """The files and folders to leave out, known by what they are and not by how they are called."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._identities = {identity for path in paths if (identity := _identity(path))}
        self._reported: set[tuple[int, int]] = set()

    def holds(self, entry: Path | os.DirEntry[str]) -> bool:
        return bool(self._identities) and _identity(entry) in self._identities

    def reported(self, entry: Path | os.DirEntry[str], name: str) -> Iterator[Skipped]:
        identity = _identity(entry)
        if identity is not None and identity not in self._reported:
            self._reported.add(identity)
            yield Skipped(name, _OWN)


_OWN = "it is rag_owl's own data folder; to ingest a file or folder in it, give that itself"


def _identity(entry: Path | os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        status = entry.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _given_file(path: Path, pairs: Mapping[Path, Input]) -> Iterator[Input | Skipped]:
    name = printable(path.name or str(path))
    try:
        with explained():
            mode = path.stat().st_mode
    except UnreadableMedia as error:
        yield Skipped(printable(str(path)), str(error))
        return
    if stat.S_ISREG(mode):
        yield pairs.get(path, Input(name, path))
    else:
        yield Skipped(name, "it is not a file (a device, pipe or socket): give files or folders")


def _unique(entry: Input, given: Path, taken: dict[str, Path]) -> Input | None:
    path = Path(os.path.abspath(entry.path))
    folder = path.parent if given == entry.path else Path(os.path.abspath(given))
    for name in (entry.name, f"{printable(folder.name)}/{entry.name}", printable(path.as_posix())):
        if name not in taken:
            taken[name] = path
            return Input(name, entry.path, entry.companion, entry.companion_name)
        if taken[name] == path:
            return None  # the same file, given twice
    return None


def _pair_given(files: Sequence[Path]) -> Iterator[Input]:
    folders: dict[Path, list[Path]] = {}
    for path in files:
        folders.setdefault(path.parent, []).append(path)
    for folder, members in folders.items():
        texts = companions([path.name for path in members])
        for picture, text in texts.items():
            yield Input(printable(picture), folder / picture, folder / text, printable(text))


@dataclass(frozen=True, slots=True)
class _Folder:
    prefix: str  # of the names in it
    path: Path
    above: tuple[tuple[int, int], ...]  # device and inode of the folders around it


@dataclass(frozen=True, slots=True)
class _Walk:
    root: Path
    follow_links: bool
    own: _Own

    def files(self) -> Iterator[Input | Skipped]:
        # A stack, not recursion: folders may be nested deeper than Python's.
        open_folders = [self._entries(_Folder("", self.root, ()))]
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
            elif isinstance(entry, _Folder):
                open_folders.append(self._entries(entry))
            else:
                yield entry

    def _entries(self, folder: _Folder) -> Iterator[Input | Skipped | _Folder]:
        try:
            with explained():
                status = folder.path.stat()
                entries = sorted(os.scandir(folder.path), key=lambda entry: os.fsencode(entry.name))
        except UnreadableMedia as error:
            yield Skipped(printable(folder.prefix or str(folder.path)), str(error))
            return
        this = (status.st_dev, status.st_ino)
        if this in folder.above:  # a link in a circle
            return
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        own = {e.name for e in entries if self.own.holds(e) and not self._barred(e)}
        files = [e for e in entries if _is_file(e) and e.name not in own]
        texts = companions([e.name for e in files if not self._barred(e)])
        paired = set(texts.values())
        for entry in entries:
            if entry.name in own:
                yield from self.own.reported(entry, printable(folder.prefix + entry.name))
            elif entry.name not in paired:
                yield self._entry(folder, entry, texts.get(entry.name), (*folder.above, this))

    def _entry(
        self,
        folder: _Folder,
        entry: os.DirEntry[str],
        text: str | None,
        above: tuple[tuple[int, int], ...],
    ) -> Input | Skipped | _Folder:
        path = folder.path / entry.name
        name = printable(folder.prefix + entry.name)
        try:
            with explained():
                mode = entry.stat().st_mode
        except UnreadableMedia as error:
            broken = "the link points to nothing: remove it or restore its target"
            return Skipped(name, broken if entry.is_symlink() else str(error))
        if barred := self._barred(entry):
            return Skipped(name, barred)
        if stat.S_ISDIR(mode):
            return _Folder(f"{folder.prefix}{entry.name}/", path, above)
        if not stat.S_ISREG(mode):
            return Skipped(name, "it is not a file (a device, pipe or socket): remove it")
        if text is None:
            return Input(name, path)
        return Input(name, path, folder.path / text, printable(folder.prefix + text))

    def _barred(self, entry: os.DirEntry[str]) -> str | None:
        if self.follow_links or not entry.is_symlink():
            return None
        target = Path(os.path.realpath(entry.path))
        if not target.is_relative_to(os.path.realpath(self.root)):
            return "it is a link out of the folder: give its target, or ask to follow links"
        if target.is_dir():
            return "it is a link to a folder that is read at its own place"
        return None


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def companions(names: Sequence[str]) -> dict[str, str]:
    """For the names in one folder: picture -> the text of the same stem, film -> its subtitles.

    Of `film.srt`, `film.vtt`, `film.en.srt` the first is the film's; the others are read alone.
    """
    stems: dict[str, dict[str, str]] = {}
    films: dict[str, str] = {}
    titles: dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        kind = suffix.lower()
        if kind in PICTURE_SUFFIXES:
            stems.setdefault(stem, {}).setdefault("picture", name)
        elif kind in TEXT_SUFFIXES:
            stems.setdefault(stem, {}).setdefault(kind, name)
        elif kind in VIDEO_SUFFIXES:
            films.setdefault(stem, name)
        elif kind in SUBTITLE_SUFFIXES:
            titles.setdefault(stem, name)
    for stem in sorted(titles):
        film, language = os.path.splitext(stem)
        if film not in titles and 3 <= len(language) <= 4:  # with its dot
            titles[film] = titles[stem]
    pairs = {films[stem]: titles[stem] for stem in films if stem in titles}
    for found in stems.values():
        text = next((found[kind] for kind in TEXT_SUFFIXES if kind in found), None)
        if text is not None and "picture" in found:
            pairs[found["picture"]] = text
    return pairs


_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(name: str) -> str:
    """A file's name as one line of valid Unicode: what is neither is shown as `\\n`, `\\xe9`.

    So are the characters that change the direction of writing: they make `a[RLO]gpj.exe` look like
    `aexe.jpg`.
    """
    name = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in ("Cc", "Zl", "Zp") or char in _DIRECTIONS
        else char
        for char in name
    )
