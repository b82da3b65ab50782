"""JSON lines and CSV: every row a document."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from rag_owl.indexer.loaders import Input, Loaded, SkippedRow, document_text, read
from rag_owl.indexer.loaders.csv_records import _Lines, _records
from rag_owl.indexer.loaders.names import NameSet
from rag_owl.indexer.split import split
from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.types import ImageLocation, Skipped


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def rows(
    path: Path, content: str | bytes, start_row: int = 0, limits: Limits = DEFAULT_LIMITS
) -> list[Loaded | Skipped]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read(Input(path.name, path), start_row=start_row, limits=limits))


def documents(found: list[Loaded | Skipped]) -> dict[str, str]:
    return {e.name: document_text(e.sections()) for e in found if isinstance(e, Loaded)}


def skipped(found: list[Loaded | Skipped]) -> dict[str, str]:
    return {e.name: e.reason for e in found if isinstance(e, Skipped)}


# --- JSON lines --------------------------------------------------------------------------------


def test_a_row_is_a_document_with_its_metadata(tmp_path: Path) -> None:
    row = {"text": "Lima.", "title": "Peru", "id": "pe", "year": 1821, "tags": ["a"], "none": None}
    (loaded,) = rows(tmp_path / "a.jsonl", json.dumps(row))
    assert isinstance(loaded, Loaded)
    assert (loaded.name, loaded.title, loaded.row) == ("a.jsonl#pe", "Peru", 0)
    assert loaded.metadata == {"year": 1821, "tags": ["a"]}
    assert loaded.source is None
    (item,) = split(loaded)
    assert (item.kind, item.text, item.picture) == ("passage", "Lima.", None)


def test_broken_lines_are_skipped_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "one"}',
        b"",
        b'{"text": "two"',
        b'["three"]',
        b'{"text": ["four"]}',
        b"[" * 100_000,
        b'{"text": "sev\xe9n"}',
        b"{}",
        b'{"id": "' + b"9" * 5_000 + b'"}',
        b'{"deep": ' + b'{"a":' * 600 + b"1" + b"}" * 600 + b"}",
        b'{"text": "a lone \\ud800 surrogate and \\u0000", "bad": NaN, "worse": -Infinity}',
        b"\xff\xfe\x00\x81\x02",
        b'{"text": "last"}',
    ]
    found = rows(tmp_path / "a.jsonl", b"\r\n".join(lines))
    assert documents(found) == {
        "a.jsonl#1": "one",
        "a.jsonl#7": "sevén",
        "a.jsonl#11": "a lone \ufffd surrogate and  ",
        "a.jsonl#13": "last",
    }
    assert list(skipped(found)) == [f"a.jsonl line {i}" for i in (3, 4, 5, 6, 8, 9, 10, 12)]
    assert all("\n" not in reason for reason in skipped(found).values())
    assert [e.metadata for e in found if isinstance(e, Loaded)][2] == {}


def test_reading_goes_on_from_a_row(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', "broken", '{"text": "c"}', '{"text": "d"}']
    everything = rows(tmp_path / "a.jsonl", "\n".join(lines))
    first = next(e for e in everything if isinstance(e, Loaded))
    assert first.row is not None
    again = rows(tmp_path / "a.jsonl", "\n".join(lines), start_row=first.row + 1)
    assert documents(again) == {"a.jsonl#3": "c", "a.jsonl#4": "d"}
    assert list(skipped(again)) == ["a.jsonl line 2"]
    table = "text\n" + "a\nb\nc\n"
    assert documents(rows(tmp_path / "a.csv", table, start_row=2)) == {"a.csv#3": "c"}


def test_a_line_over_the_limit_is_skipped(tmp_path: Path) -> None:
    content = '{"text": "a"}\n{"text": "' + "x" * 5_000 + '"}\n{"text": "b"}'
    for encoding in ("utf-8", "utf-16"):
        found = rows(
            tmp_path / "a.jsonl", content.encode(encoding), limits=Limits(max_row_bytes=99)
        )
        assert documents(found) == {"a.jsonl#1": "a", "a.jsonl#3": "b"}
        assert "longer" in skipped(found)["a.jsonl line 2"]


def test_json_lines_in_utf_16(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.jsonl", '{"text": "東京"}\n{"text": "é"}\n'.encode("utf-16"))
    assert documents(found) == {"a.jsonl#1": "東京", "a.jsonl#2": "é"}


def test_rows_are_streamed(tmp_path: Path) -> None:
    content = "".join(json.dumps({"text": f"Row {i} " + "x" * 200}) + "\n" for i in range(20_000))
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    tracemalloc.start()
    count = sum(isinstance(entry, Loaded) for entry in read(Input("a.jsonl", path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < len(content) / 4


def test_the_other_columns_are_the_text_of_a_row_without_text(tmp_path: Path) -> None:
    (loaded,) = rows(tmp_path / "a.jsonl", '{"country": "Peru", "area": 1285216, "sea": true}')
    assert isinstance(loaded, Loaded)
    assert document_text(loaded.sections()) == "country: Peru\narea: 1285216\nsea: true"
    assert loaded.metadata == {"country": "Peru", "area": 1285216, "sea": True}


def test_an_id_given_twice_names_two_documents_wherever_reading_begins(tmp_path: Path) -> None:
    ids = ["x", "x", "x~3", "x", None, "5", 7, None, "x", "\ud800", "\0 \ufffd", "x~9"]
    lines = [json.dumps({"text": f"text {i}", " ID ": each}) for i, each in enumerate(ids)]
    lines += ["broken", '{"id": "x"}', '{"id": "x", "text": "last"}']
    content = "\n".join(lines)
    everything = rows(tmp_path / "a.jsonl", content)
    names = list(documents(everything))
    assert [name.removeprefix("a.jsonl#") for name in names] == [
        "x", "x~2", "x~3", "x~4", "5", "5~6", "7", "8", "x~9", "\ufffd", "\ufffd~11", "x~9~12",
        "x~15",
    ]  # fmt: skip
    for start in range(len(lines)):
        again = rows(tmp_path / "a.jsonl", content, start_row=start)
        expected = [e.name for e in everything if isinstance(e, Loaded) and (e.row or 0) >= start]
        assert list(documents(again)) == expected
    table = "text,id\na,x\nb,x\nc,y\nd,x\n"
    assert list(documents(rows(tmp_path / "a.csv", table))) == [
        "a.csv#x",
        "a.csv#x~2",
        "a.csv#y",
        "a.csv#x~4",
    ]
    assert list(documents(rows(tmp_path / "a.csv", table, start_row=3))) == ["a.csv#x~4"]


def test_names_are_remembered_in_little_memory() -> None:
    tracemalloc.start()
    names = NameSet()
    assert all(names.add(f"name {i}") for i in range(50_000))
    assert not any(names.add(f"name {i}") for i in range(50_000))
    assert len(names) == 50_000
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 25 * 50_000


def test_a_skipped_row_says_where_to_go_on(tmp_path: Path) -> None:
    image = ', "image": "no.png"'
    lines = ["{", '{"text": "b"' + image + "}", '{"id": "c"' + image + "}", '{"text": []}', "{}"]
    found = rows(tmp_path / "a.jsonl", "\n".join(["", *lines]))
    assert [(type(e), getattr(e, "row", None)) for e in found] == [
        (SkippedRow, 1),
        (Skipped, None),  # the picture of the row that follows
        (Loaded, 2),
        (SkippedRow, 3),
        (SkippedRow, 4),
        (SkippedRow, 5),
    ]
    table = 'text,n\na,1,2\nb,2\n"open,3\nc,4\n'
    in_table = rows(tmp_path / "a.csv", table)
    assert [(type(e), getattr(e, "row", None)) for e in in_table] == [
        (SkippedRow, 0),
        (Loaded, 1),
        (SkippedRow, 2),
        (Loaded, 3),
    ]
    for name, content, entries in (
        ("a.jsonl", "\n".join(["", *lines]), found),
        ("a.csv", table, in_table),
    ):
        for i, entry in enumerate(entries):
            if isinstance(entry, SkippedRow):
                again = rows(tmp_path / name, content, start_row=entry.row + 1)
                assert [(e.name, type(e)) for e in again] == [
                    (e.name, type(e)) for e in entries[i + 1 :]
                ]


def test_what_no_database_stores_is_kept_as_text_or_cleaned(tmp_path: Path) -> None:
    digits = "9" * 400
    content = (
        f'{{"text": "a", "huge": 1e999, "low": -1E+400, "many": {digits}, "list": [-{digits}, 1.5],'
        f' "long": {"9" * 40}, "small": 1e-999, "nan": [NaN, Infinity],'
        ' "k\\u0000\\udfff": {"\\ud800": "\\u0000"}, "title": "t\\ud800\\u0000t", "id": "\\udc00"}'
    )
    (loaded,) = rows(tmp_path / "a.jsonl", content)
    assert isinstance(loaded, Loaded)
    assert (loaded.name, loaded.title) == ("a.jsonl#\ufffd", "t\ufffd t")
    assert loaded.metadata == {
        "huge": "1e999",
        "low": "-1E+400",
        "many": digits,
        "list": [f"-{digits}", 1.5],
        "long": int("9" * 40),
        "small": 0.0,
        "nan": [None, None],
        "k \ufffd": {"\ufffd": " "},
    }
    (loaded,) = rows(tmp_path / "a.jsonl", f'{{"n": {"9" * 5_000}}}')
    assert isinstance(loaded, Loaded)
    assert loaded.metadata == {"n": "9" * 5_000}


def test_ids_and_titles_over_the_limit_are_skipped(tmp_path: Path) -> None:
    long = "é" * 501
    found = rows(tmp_path / "a.csv", f"text,id,title\na,{long},t\nb,i,{long}\nc,{long[1:]},t\n")
    assert [type(entry) for entry in found] == [SkippedRow, SkippedRow, Loaded]
    assert '"id" has 1,002 bytes' in skipped(found)["a.csv line 2"]
    assert '"title" has 1,002 bytes' in skipped(found)["a.csv line 3"]


@pytest.mark.parametrize("depth", [95, 99, 150, 450, 900, 10_000])
def test_the_depth_of_values_is_limited_whoever_calls(tmp_path: Path, depth: int) -> None:
    content = '{"text": "a", "deep": ' + '[{"b":' * (depth // 2) + "1" + "}]" * (depth // 2) + "}"

    def called(frames: int) -> list[Loaded | Skipped]:
        return called(frames - 1) if frames else rows(tmp_path / "a.jsonl", content)

    for frames in (0, 300):
        (entry,) = called(frames)
        assert isinstance(entry, Loaded if depth < 100 else SkippedRow)
        assert isinstance(entry, Loaded) or "nested too deep" in entry.reason


def test_a_row_that_memory_does_not_hold_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "x": [' + "[]," * 4_000_000 + '0]}\n{"text": "b"}\n')
    script = """if True:
        import resource, sys
        from pathlib import Path
        from rag_owl.indexer.loaders import Input, read
        import rag_owl.indexer.loaders.rows
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
        for entry in read(Input("a.jsonl", Path(sys.argv[1]))):
            print(type(entry).__name__, entry.row, getattr(entry, "reason", ""))
    """
    found = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert found.stdout.splitlines() == [
        "SkippedRow 0 it needs more memory than there is: split it",
        "Loaded 1 ",
    ], found.stderr


# --- pictures in rows --------------------------------------------------------------------------


def test_pictures_of_rows_come_from_files_and_data_urls(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/red one.png").write_bytes(png())
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    lines = [
        {"text": "A red square.", "image": "images/red one.png"},
        {"text": "A red square.", "image": url},
        {"image": url, "year": 2000},
    ]
    file, data, alone = rows(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert isinstance(file, Loaded)
    assert isinstance(data, Loaded)
    assert isinstance(alone, Loaded)
    assert file.sha256 == data.sha256  # the same text and the same picture
    (item,) = split(file)
    assert (item.kind, item.text) == ("passage", "A red square.")
    assert item.picture is not None
    assert item.picture.data == png()
    assert item.picture.image.getpixel((0, 0)) == (255, 0, 0)
    (item,) = split(alone)
    assert (item.kind, item.text, item.location) == ("picture", None, ImageLocation())
    assert alone.metadata == {"year": 2000}


def test_text_and_picture_both_count_for_the_identity(tmp_path: Path) -> None:
    red, blue = ("data:;base64," + base64.b64encode(png(c)).decode() for c in ("red", "blue"))
    lines = [
        {"text": "a", "image": red},
        {"text": "a", "image": blue},
        {"text": "b", "image": red},
        {"text": "a"},
        {"image": red},
        {"text": "a", "title": "another title", "year": 1},
    ]
    found = rows(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    hashes = [entry.sha256 for entry in found if isinstance(entry, Loaded)]
    assert len(set(hashes[:5])) == 5
    assert hashes[5] == hashes[3]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("no.png", "no such file"),
        ("../outside.png", "outside"),
        ("/etc/passwd", "outside"),
        ("link.png", "outside"),
        ("text.png", "not a picture"),
        ("a\0b.png", "no such|path"),
        ("https://example.org/a.png", "download"),
        ("data:image/png;base64,@@@", "base64"),
        ("data:image/png", '","'),
        ("data:,hello", "not a picture"),
        (["a.png"], "string"),
    ],
)
def test_a_broken_image_leaves_the_text(tmp_path: Path, image: object, why: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "text.png").write_text("no picture")
    content = json.dumps({"text": "kept", "image": image}) + "\n" + json.dumps({"image": image})
    found = rows(folder / "a.jsonl", content)
    reasons = skipped(found)
    assert list(reasons) == ["a.jsonl line 1", "a.jsonl line 2"]
    for reason in reasons.values():
        assert re.search(why, reason)
    expected = {} if isinstance(image, list) else {"a.jsonl#1": "kept"}
    assert documents(found) == expected


# --- CSV ---------------------------------------------------------------------------------------


def test_cells_are_what_they_look_like(tmp_path: Path) -> None:
    cells = "0012,007,12,-1.5e3,01234,TRUE,false,,1234567890123456789012"
    table = f"\ufeffText,id,n,x,zip,ok,no,empty,long\n{cells}\n"
    (loaded,) = rows(tmp_path / "a.csv", table)
    assert isinstance(loaded, Loaded)
    assert loaded.name == "a.csv#007"
    assert document_text(loaded.sections()) == "0012"
    assert loaded.metadata == {
        "n": 12,
        "x": -1500.0,
        "zip": "01234",
        "ok": True,
        "no": False,
        "long": "1234567890123456789012",
    }
    assert loaded.metadata["ok"] is True


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_dialects_and_encodings(tmp_path: Path, delimiter: str, encoding: str) -> None:
    lines = [
        ["text", "year", "note"],
        ['"He said ""hello, Köln"".\r\nA second line; yes."', "1999", "a b, c"],
        ["plain", "2000", "'quoted'"],
    ]
    if delimiter == ",":
        lines[1][2] = '"a b, c"'
    table = "\r\n".join(delimiter.join(cells) for cells in lines)
    found = rows(tmp_path / "a.csv", table.encode(encoding))
    assert documents(found) == {
        "a.csv#1": 'He said "hello, Köln".\nA second line; yes.',
        "a.csv#2": "plain",
    }
    assert [e.metadata for e in found if isinstance(e, Loaded)] == [
        {"year": 1999, "note": "a b, c"},
        {"year": 2000, "note": "'quoted'"},
    ]


def test_a_table_with_one_column(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", "text\nfirst\n\nsecond; with more\n")
    assert documents(found) == {"a.csv#1": "first", "a.csv#2": "second; with more"}


def test_a_quote_that_is_never_closed_swallows_only_its_record(tmp_path: Path) -> None:
    table = 'text,n\na,1\n"open,2\nb,3\nc,4\nd,5,6,7\ne,8\n'
    found = rows(tmp_path / "a.csv", table)
    assert documents(found) == {"a.csv#1": "a", "a.csv#3": "b", "a.csv#4": "c", "a.csv#6": "e"}
    assert list(skipped(found)) == ["a.csv line 3", "a.csv line 6"]
    assert "never closed" in skipped(found)["a.csv line 3"]
    assert "4 cells" in skipped(found)["a.csv line 6"]


def test_quotes_that_are_never_closed_cost_linear_time(tmp_path: Path) -> None:
    class Counting(_Lines):
        handed_out = 0

        def __next__(self) -> str:
            self.handed_out += 1
            return super().__next__()

    handed_out = []
    for count in (2_000, 4_000):  # alone each opens a quotation, after another it closes and opens
        lines = Counting(iter(['a"b,"c\n'] * count), 10_000)
        assert sum(fault != "" for _, _, fault in _records(lines, ",")) == count
        handed_out.append(lines.handed_out)
    assert handed_out[1] < 2.2 * handed_out[0]
    story = "A story of many lines.\n" * 2_000  # a long record keeps its patience for other faults
    found = rows(tmp_path / "a.csv", 'text,n\n"open,1\nb,2\n' * 20 + f'"{story}",3\n')
    assert story in documents(found).values()


def test_a_record_over_the_limit_is_skipped(tmp_path: Path) -> None:
    table = "text,n\na,1\n" + "x" * 500 + ',2\n"' + "many\n" * 100 + '",3\nb,4\n'
    found = rows(tmp_path / "a.csv", table, limits=Limits(max_row_bytes=200))
    texts = list(documents(found).values())
    assert texts[0] == "a"
    assert texts[-1] == "b"
    assert "longer" in skipped(found)["a.csv line 3"]
    assert "longer" in skipped(found)["a.csv line 4"]


def test_a_cell_larger_than_pythons_own_limit(tmp_path: Path) -> None:
    long = "word " * 60_000
    assert documents(rows(tmp_path / "a.csv", f"text,n\n{long},1\n"))["a.csv#1"] == long


def test_columns_without_or_with_the_same_name(tmp_path: Path) -> None:
    (loaded,) = rows(tmp_path / "a.csv", "a,,a\n1,2,3\n")
    assert isinstance(loaded, Loaded)
    assert loaded.metadata == {"a": 1, "column 2": 2, "a 3": 3}
    assert document_text(loaded.sections()) == "a: 1\ncolumn 2: 2\na 3: 3"
    (loaded,) = rows(tmp_path / "a.csv", "a 3,a,a\n1,2,3\n")
    assert isinstance(loaded, Loaded)
    assert loaded.metadata == {"a 3": 1, "a": 2, "a 3 3": 3}
    many = 40_000  # looked up one in another, these would take minutes
    header = ",".join(f"c{i}" for i in range(many))
    (loaded,) = rows(tmp_path / "a.csv", f"{header}\n{'1,' * many}\n")
    assert isinstance(loaded, Loaded)
    assert len(loaded.metadata) == many


def test_the_delimiter_is_told_from_a_sample_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    line = "x" * 200_000 + ",1\n"
    path.write_text("text,n\n" + line * 100)
    tracemalloc.start()
    count = sum(isinstance(entry, Loaded) for entry in read(Input("a.csv", path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100
    assert peak < 12_000_000


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        content = "text,n\n" if name == "a.csv" else "\n \n"
        assert "no rows" in skipped(rows(tmp_path / name, content))[name]
    (entry,) = rows(tmp_path / "a.csv", "")
    assert isinstance(entry, Skipped)
    (entry,) = rows(tmp_path / "a.csv", bytes(range(256)))
    assert isinstance(entry, Skipped)
