"""Which files are found, in which order, under which names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rag_owl.indexer.loaders import Input, scan
from rag_owl.types import Skipped


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the text of {path.name!a}")
    return folder


def names(*paths: Path, follow_links: bool = False) -> list[str]:
    return [entry.name for entry in scan(paths, follow_links=follow_links)]


def test_folders_are_walked_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    fill(tmp_path, "b.txt", "a/z.txt", "a/.git/config", ".hidden", "a.txt", "c/d/e.md", "B.txt")
    assert names(tmp_path) == ["B.txt", "a/z.txt", "a.txt", "b.txt", "c/d/e.md"]


def test_a_file_goes_by_its_own_name(tmp_path: Path) -> None:
    fill(tmp_path, "sub/a.txt")
    assert list(scan([tmp_path / "sub/a.txt"])) == [Input("a.txt", tmp_path / "sub/a.txt")]


def test_missing_paths_and_strange_files_are_skipped_and_the_rest_goes_on(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe")
    found = list(scan([tmp_path / "no", Path("nul\0l"), tmp_path]))
    assert [(type(entry), entry.name.rpartition("/")[2]) for entry in found] == [
        (Skipped, "no"),
        (Skipped, "nul\\x00l"),
        (Input, "a.txt"),
        (Skipped, "pipe"),
    ]
    assert all(entry.reason for entry in found if isinstance(entry, Skipped))


def test_links_out_of_the_folder_and_to_folders_need_to_be_asked_for(tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside", "secret.txt")
    folder = fill(tmp_path / "folder", "a.txt", "sub/b.txt")
    (folder / "in.txt").symlink_to(folder / "sub/b.txt")
    (folder / "out.txt").symlink_to(outside / "secret.txt")
    (folder / "outside").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "gone.txt").symlink_to(folder / "nothing")
    found = {entry.name: entry for entry in scan([folder])}
    assert {name for name, entry in found.items() if isinstance(entry, Input)} == {
        "a.txt",
        "in.txt",
        "sub/b.txt",
    }
    assert set(found) - {"a.txt", "in.txt", "sub/b.txt"} == {
        "out.txt",
        "outside",
        "loop",
        "gone.txt",
    }
    followed = [e.name for e in scan([folder], follow_links=True) if isinstance(e, Input)]
    assert followed == ["a.txt", "in.txt", "out.txt", "outside/secret.txt", "sub/b.txt"]


def test_a_picture_and_a_text_of_one_stem_are_one_input(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "japan.png",
        "japan.txt",
        "peru.JPG",
        "peru.md",
        "chad.png",
        "mali.txt",
        "x/japan.txt",
    )
    found = {entry.name: entry for entry in scan([tmp_path]) if isinstance(entry, Input)}
    assert list(found) == ["chad.png", "japan.png", "mali.txt", "peru.JPG", "x/japan.txt"]
    assert found["japan.png"].companion == tmp_path / "japan.txt"
    assert found["peru.JPG"].companion_name == "peru.md"
    assert found["chad.png"].companion is None
    given = list(scan(sorted(tmp_path.glob("*.*"), reverse=True)))
    assert {e.name: e.companion for e in given if isinstance(e, Input)} == {
        name: entry.companion for name, entry in found.items() if "/" not in name
    }


def test_of_two_pictures_or_texts_of_one_stem_each_is_read_once(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "a.jpg", "a.txt", "a.md")
    (tmp_path / "b.txt").mkdir()
    fill(tmp_path, "b.png", "b.txt/inside.txt")
    found = [
        (e.name, e.companion and e.companion.name) for e in scan([tmp_path]) if isinstance(e, Input)
    ]
    assert found == [
        ("a.jpg", "a.txt"),
        ("a.md", None),
        ("a.png", None),
        ("b.png", None),
        ("b.txt/inside.txt", None),
    ]


def test_names_with_spaces_emoji_line_breaks_and_undecodable_bytes_survive(tmp_path: Path) -> None:
    fill(tmp_path, "my file.txt", "🦉 owl.txt", "two\nlines.txt", "مرحبا.txt")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    found = names(tmp_path)
    assert set(found) == {
        "my file.txt",
        "🦉 owl.txt",
        "two\\nlines.txt",
        "مرحبا.txt",
        "caf\\xe9.txt",
    }
    for name in found:
        name.encode()
    assert all(e.path.read_text() for e in scan([tmp_path]) if isinstance(e, Input))


def test_the_same_name_in_two_folders_stays_two_documents(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", "a.txt"), fill(tmp_path / "two", "a.txt", "b.txt")
    assert names(one, two) == ["a.txt", "two/a.txt", "b.txt"]
    assert names(one, one, one / "a.txt") == ["a.txt"]


def test_a_folder_nested_deeper_than_the_call_stack(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(700):
            os.mkdir("d")
            os.chdir("d")
        Path("deep.txt").write_text("x")
        os.chdir(here)
        (found,) = names(tmp_path)
        assert found.endswith("/d/deep.txt")
    finally:
        os.chdir(here)
        # shutil.rmtree, and so pytest's own cleaning up, is recursive and would fail
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_skipped(tmp_path: Path) -> None:
    fill(tmp_path, "closed/a.txt", "open.txt")
    (tmp_path / "closed").chmod(0)
    try:
        found = list(scan([tmp_path]))
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert [type(entry) for entry in found] == [Skipped, Input]


def test_its_own_data_folder_is_left_out_and_named_once(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "owl-data/owl.db", "owl-data/sample/peru.txt", "z/owl.txt", "owl.png")
    data = tmp_path / "owl-data"
    (tmp_path / "z/again").symlink_to(data)
    assert "owl-data/owl.db" in names(tmp_path)
    found = list(scan([tmp_path], follow_links=True, leave_out=[tmp_path / "z/../owl-data"]))
    assert [(type(e), e.name) for e in found] == [
        (Input, "a.txt"),
        (Skipped, "owl-data"),
        (Input, "owl.png"),
        (Input, "z/owl.txt"),
    ]
    assert "own data folder" in next(e.reason for e in found if isinstance(e, Skipped))
    (alone,) = scan([data, data / "../owl-data"], leave_out=[data])
    assert alone == Skipped(str(data), next(e.reason for e in found if isinstance(e, Skipped)))
    # What lies in it is read where it is asked for by name.
    inside = list(scan([tmp_path, data / "sample", data / "owl.db"], leave_out=[data]))
    assert [e.name for e in inside if isinstance(e, Input)] == [
        "a.txt", "owl.png", "z/owl.txt", "peru.txt", "owl.db"
    ]  # fmt: skip
    assert list(scan([tmp_path], leave_out=[tmp_path / "no"])) == list(scan([tmp_path]))


def test_a_file_of_its_own_is_no_companion_of_a_picture(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "a.txt")
    own = tmp_path / "a.txt"
    for paths in ([tmp_path], [tmp_path / "a.png", own]):
        found = list(scan(paths, leave_out=[own]))
        assert [type(entry) for entry in found] == [Input, Skipped]
        assert found[0] == Input("a.png", tmp_path / "a.png")
