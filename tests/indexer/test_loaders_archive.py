"""Zip and tar: every file in them a document, and nothing that gets out of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rag_owl.indexer.loaders import Input, Loaded, SkippedRow, archive_files, read
from rag_owl.indexer.loaders import archive as archive_loader
from rag_owl.indexer.split import split
from rag_owl.media import Limits
from rag_owl.types import Skipped
from tests.films import write_film

Pack = Callable[[Path, list[tuple[str, bytes]]], Path]


def picture(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


def pack_zip(folder: Path, files: list[tuple[str, bytes]]) -> Path:
    path = folder / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def packing_tar(suffix: str, mode: str) -> Pack:
    def pack(folder: Path, files: list[tuple[str, bytes]]) -> Path:
        path = folder / f"all{suffix}"
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    return pack


PACKS: dict[str, Pack] = {
    "zip": pack_zip,
    "tar": packing_tar(".tar", "w"),
    "tar.gz": packing_tar(".tar.gz", "w:gz"),
    "tar.bz2": packing_tar(".tar.bz2", "w:bz2"),
    "tar.xz": packing_tar(".tar.xz", "w:xz"),
}


@pytest.fixture(params=PACKS)
def pack(request: pytest.FixtureRequest) -> Pack:
    return PACKS[request.param]


def load(path: Path, start_row: int = 0, limits: Limits | None = None) -> list[Loaded | Skipped]:
    return list(read(Input(path.name, path), start_row=start_row, limits=limits or Limits()))


def texts(found: list[Loaded | Skipped]) -> dict[str, str | None]:
    return {
        each.name.partition("/")[2]: next(split(each)).text
        for each in found
        if isinstance(each, Loaded)
    }


def reasons(found: list[Loaded | Skipped]) -> dict[str, str]:
    return {e.name.partition("/")[2]: e.reason for e in found if isinstance(e, Skipped)}


ROWS = b'{"text": "Row one.", "id": "a"}\n{broken\n{"text": "Row three."}\n'
FILES = [
    ("notes/owl.txt", b"The owl is grey."),
    ("notes/.hidden", b"no"),
    ("__MACOSX/notes/owl.txt", b"no"),
    ("rows.jsonl", ROWS),
    ("red.png", picture()),
    ("page.html", b"<!doctype html><p>A page.</p>"),
]


def test_every_file_is_a_document(tmp_path: Path, pack: Pack) -> None:
    path = pack(tmp_path, FILES)
    found = load(path)
    assert texts(found) == {
        "notes/owl.txt": "The owl is grey.",
        "rows.jsonl#a": "Row one.",
        "rows.jsonl#3": "Row three.",
        "red.png": None,
        "page.html": "A page.",
    }
    assert list(reasons(found)) == ["rows.jsonl line 2"]
    rows = [each.row for each in found if isinstance(each, Loaded | SkippedRow)]
    assert rows == list(range(6))
    first = found[0]
    assert isinstance(first, Loaded)
    assert first.sha256 == hashlib.sha256(FILES[0][1]).hexdigest()
    assert first.source is not None
    with first.source.open("rb") as file:
        assert file.read() == FILES[0][1]


def test_reading_goes_on_at_every_row(tmp_path: Path, pack: Pack) -> None:
    files = [*FILES, ("pair.png", picture("blue")), ("x.txt", b"Between."), ("pair.txt", b"Blue.")]
    path = pack(tmp_path, files)
    whole = [(e.name, e.row) for e in load(path) if isinstance(e, Loaded | SkippedRow)]
    for start in range(11):
        rest = [(e.name, e.row) for e in load(path, start) if isinstance(e, Loaded | SkippedRow)]
        assert rest == [(name, row) for name, row in whole if row is not None and row >= start]


def test_a_picture_and_its_text_are_one_document_in_either_order(
    tmp_path: Path, pack: Pack
) -> None:
    path = pack(
        tmp_path,
        [
            ("a/japan.png", picture()),
            ("a/other.txt", b"Other."),
            ("a/japan.txt", b"Tokyo."),
            ("b/peru.txt", b"Lima."),
            ("b/peru.png", picture("blue")),
            ("c/peru.txt", b"Alone."),
        ],
    )
    found = load(path)
    assert not reasons(found)
    assert texts(found) == {
        "a/other.txt": "Other.",
        "a/japan.png": "Tokyo.",
        "b/peru.png": "Lima.",
        "c/peru.txt": "Alone.",
    }
    pair = next(e for e in found if e.name.endswith("japan.png"))
    assert isinstance(pair, Loaded)
    assert next(split(pair)).picture is not None
    assert pair.source_sha256 == hashlib.sha256(b"Tokyo.").hexdigest()


def test_halves_of_pairs_are_read_alone_where_the_other_is_broken(
    tmp_path: Path, pack: Pack
) -> None:
    broken = picture()[:50]
    files = [
        ("a.png", broken),
        ("a.txt", b"First text."),
        ("b.txt", b""),
        ("b.png", picture()),
        ("c.png", picture("blue")),
        ("c.txt", bytes(range(256))),
        ("d.png", b""),
        ("d.txt", b"Last text."),
    ]
    found = load(pack(tmp_path, files))
    assert texts(found) == {
        "a.txt": "First text.", "b.png": None, "c.png": None, "d.txt": "Last text."
    }  # fmt: skip
    assert set(reasons(found)) == {"a.png", "b.txt", "c.txt", "d.png"}


def test_a_film_is_read_from_a_private_place_that_is_removed(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    film = write_film(tmp_path / "f.mp4", 3).read_bytes()
    titles = b"1\n00:00:01,000 --> 00:00:02,000\nIn the film.\n"
    path = pack(tmp_path, [("f.srt", titles), ("f.mp4", film), ("g.txt", b"After it.")])
    seen = []
    for each in read(Input(path.name, path)):
        assert isinstance(each, Loaded)
        if each.media_type == "video/mp4":
            assert isinstance(each.source, Path)
            assert each.source.is_relative_to(private)
            assert each.source.parent.stat().st_mode & 0o077 == 0
            with each.source.open("rb") as file:
                assert file.read() == film
        seen.append((each.name, "".join(item.text or "" for item in split(each))))
    assert seen == [(f"{path.name}/f.mp4", "In the film."), (f"{path.name}/g.txt", "After it.")]
    assert list(private.iterdir()) == []
    stream = read(Input(path.name, path))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert list(private.iterdir()) == []


def test_large_members_are_read_from_the_disk(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_loader, "HELD_BYTES", 100_000)
    text = b"".join(b"Sentence number %d. " % at for at in range(20_000))
    path = pack(tmp_path, [("long.txt", text), ("b.txt", b"Short.")])
    for each in read(Input(path.name, path)):
        assert isinstance(each, Loaded)
        if each.name.endswith("long.txt"):
            assert isinstance(each.source, Path)
            assert sum(len(item.text or "") for item in split(each)) > 0.99 * len(text) - 1_000


EVIL = [
    "../up.txt",
    "a/../../up.txt",
    "/etc/passwd",
    "..\\up.txt",
    "C:/x.txt",
    "C:\\x",
    "x" * 1_001,
]


def test_names_that_lead_out_are_skipped_with_a_reason(tmp_path: Path, pack: Pack) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    path = pack(below, [(name, b"Evil.") for name in EVIL] + [("good.txt", b"Good.")])
    before = sorted(tmp_path.rglob("*"))
    found = load(path)
    assert texts(found) == {"good.txt": "Good."}
    assert len(found) == len(EVIL) + 1
    assert all("name" in reason for reason in reasons(found).values())
    assert all(len(each.name.encode()) < 2_000 for each in found)
    assert sorted(tmp_path.rglob("*")) == before


def test_odd_names_stay_readable(tmp_path: Path, pack: Pack) -> None:
    names = ["x" * 300 + ".txt", "مرحبا.txt", "a\u202etxt.exe", "two\nlines.txt", "🦉 owl.txt"]
    found = load(pack(tmp_path, [(name, f"Text {at}.".encode()) for at, name in enumerate(names)]))
    assert list(texts(found).values()) == [f"Text {at}." for at in range(len(names))]
    for each in found:
        assert "\n" not in each.name
        assert "\u202e" not in each.name


def test_of_two_files_of_one_name_the_first_is_read(tmp_path: Path, pack: Pack) -> None:
    with warnings.catch_warnings(action="ignore"):  # of zipfile
        path = pack(tmp_path, [("a.txt", b"First."), ("a.txt", b"Second.")])
    found = load(path)
    assert texts(found) == {"a.txt": "First."}
    assert "two files of this name" in reasons(found)["a.txt"]


def test_links_and_devices_in_archives_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("Secret.")
    path = tmp_path / "all.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in (
            ("soft", tarfile.SYMTYPE, "../secret.txt"),
            ("hard", tarfile.LNKTYPE, str(tmp_path / "secret.txt")),
            ("device", tarfile.CHRTYPE, ""),
            ("pipe", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    found = load(path)
    assert set(reasons(found)) == {"soft", "hard", "device", "pipe"}
    zipped = tmp_path / "all.zip"
    with zipfile.ZipFile(zipped, "w") as archive_:
        link = zipfile.ZipInfo("soft")
        link.external_attr = 0o120777 << 16
        archive_.writestr(link, "../secret.txt")
    found = load(zipped)
    assert "link" in reasons(found)["soft"]
    assert not texts(found)


def test_archives_in_archives_and_office_documents_are_refused(tmp_path: Path, pack: Pack) -> None:
    inner = pack_zip(tmp_path, [("a.txt", b"Inner.")]).read_bytes()
    found = load(pack(tmp_path, [("in.zip", inner), ("b.txt", b"Outer.")]))
    assert texts(found) == {"b.txt": "Outer."}
    assert "in an archive" in reasons(found)["in.zip"]
    for names in (["x/1", "x/2", "x/3", "[Content_Types].xml"], ["mimetype", "content.xml"]):
        office = pack_zip(tmp_path, [(name, b"text") for name in names])
        (skipped,) = load(office)
        assert isinstance(skipped, Skipped)
        assert "office document" in skipped.reason


def test_bombs_are_stopped_by_ratio(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_files, "FREE_BYTES", 3 * 2**20)
    zeros = bytes(8 * 2**20)
    path = pack(tmp_path, [("a.txt", b"Before."), ("zeros", zeros), ("b.txt", b"After.")])
    if path.stat().st_size > 10**6:
        return  # it is not packed
    found = load(path)
    assert texts(found)["a.txt"] == "Before."
    assert any("bomb" in reason for reason in reasons(found).values())
    if pack is pack_zip:  # its members are packed one by one
        assert texts(found)["b.txt"] == "After."


def test_members_of_a_zip_are_a_bomb_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_files, "FREE_BYTES", 2**20)
    path = pack_zip(tmp_path, [(f"{at}.txt", b"Word. " * 160_000) for at in range(8)])
    assert path.stat().st_size * Limits().max_archive_ratio < 5 * 2**20
    found = load(path)
    assert 4 <= len(texts(found)) < 8
    last = found[-1]
    assert isinstance(last, Skipped)
    assert "bomb" in last.reason


def sparse_tar(path: Path, size: int) -> Path:
    """A file of `size` bytes of which only the first block lies in the archive, then another."""
    header = tarfile.TarInfo("holes.txt")
    header.size, header.type = 512, tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (0, 512)  # where the only piece stands
    block[483:495] = b"%011o\0" % size
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
    after = tarfile.TarInfo("b.txt")
    after.size = 6
    path.write_bytes(
        bytes(block) + b"Text. " * 85 + b"  " + after.tobuf() + b"After.".ljust(512, b"\0")
        + bytes(1024)
    )  # fmt: skip
    return path


def test_holes_in_files_of_a_tar_are_no_way_to_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load(sparse_tar(tmp_path / "small.tar", 2_000))
    assert sorted(texts(found)) == ["b.txt", "holes.txt"]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(archive_files, "FREE_BYTES", 20 * 2**20)
    found = load(sparse_tar(tmp_path / "bomb.tar", 4 * 2**30))
    assert texts(found) == {"b.txt": "After."}
    assert "bomb" in reasons(found)["holes.txt"]


def test_a_member_that_claims_more_than_can_come_is_not_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
        info = tarfile.TarInfo("b.txt")
        info.size = 10**14  # tarfile would read on for hours
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(2_048))  # type: ignore[union-attr]
    found = load(path)
    assert not texts(found)
    last = found[-1]
    assert isinstance(last, Skipped)
    assert "cut off" in last.reason


def test_archives_are_held_to_size_and_count(tmp_path: Path, pack: Pack) -> None:
    path = pack(tmp_path, [(f"{at}.txt", b"Text." * 1_000) for at in range(10)])
    (skipped,) = load(path, limits=Limits(max_archive_members=9))
    assert isinstance(skipped, Skipped)
    assert "over 9 files" in skipped.reason
    found = load(path, limits=Limits(max_archive_bytes=30_000))
    assert len(texts(found)) < 7
    assert any("more than" in reason for reason in reasons(found).values())
    found = load(path, limits=Limits(max_bytes=4_000))
    assert not texts(found)


def test_a_zip_that_only_claims_to_be_small_costs_little(tmp_path: Path) -> None:
    path = pack_zip(tmp_path, [("a.txt", b"Before."), ("zeros", bytes(2**20))])
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # the unpacked size, where it is said
        place = data.rindex(magic) + at
        data[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    found = load(path)
    assert texts(found) == {"a.txt": "Before."}
    assert "damaged" in reasons(found)["zeros"]


def test_members_with_a_password_are_named(tmp_path: Path) -> None:
    path = pack_zip(tmp_path, [("a.txt", b"Plain."), ("b.txt", b"Secret.")])
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.rindex(magic) + at] |= 1
    path.write_bytes(data)
    found = load(path)
    assert texts(found) == {"a.txt": "Plain."}
    assert "password" in reasons(found)["b.txt"]


def test_a_damaged_member_costs_only_itself(tmp_path: Path) -> None:
    noise = os.urandom(50_000).hex().encode()
    path = pack_zip(tmp_path, [("a.txt", b"Before."), ("b.txt", noise), ("c.txt", b"After.")])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    found = load(path)
    assert texts(found) == {"a.txt": "Before.", "c.txt": "After."}
    assert "damaged" in reasons(found)["b.txt"]


def test_an_archive_that_is_cut_off_gives_what_comes_before(tmp_path: Path, pack: Pack) -> None:
    noise = os.urandom(100_000).hex().encode()
    path = pack(tmp_path, [("a.txt", b"Before."), ("b.txt", noise), ("c.txt", noise)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    found = load(path)
    assert any("get it again" in e.reason or "damaged" in e.reason
               for e in found if isinstance(e, Skipped))  # fmt: skip
    if pack not in (pack_zip, PACKS["tar.bz2"]):  # without its end nothing is known of a zip
        assert texts(found)["a.txt"] == "Before."


def test_what_is_no_archive_inside(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"Only a text. " * 1_000))
    (skipped,) = load(path)
    assert isinstance(skipped, Skipped)
    assert "no tar archive" in skipped.reason
    path.write_bytes(b"PK\3\4" + bytes(100))
    (skipped,) = load(path)
    assert isinstance(skipped, Skipped)
    assert "damaged" in skipped.reason
    (skipped,) = load(pack_zip(tmp_path, []))
    assert isinstance(skipped, Skipped)
    assert "holds no files" in skipped.reason


def test_rows_of_a_file_in_an_archive_cannot_look_outside(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    rows = [
        {"text": "A.", "image": name} for name in ("secret.png", "../secret.png", "/etc/passwd")
    ]
    path = pack(tmp_path, [("rows.jsonl", "\n".join(json.dumps(row) for row in rows).encode())])
    found = load(path)
    assert len(reasons(found)) == 1 or len(reasons(found)) == 3
    assert all(next(split(e)).picture is None for e in found if isinstance(e, Loaded))
