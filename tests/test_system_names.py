"""Names that want to lead elsewhere, or to look like others, through the whole system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rag_owl import RagOwl
from rag_owl.errors import InvalidInput
from rag_owl.types import Skipped

pytestmark = pytest.mark.usefixtures("on_each_database")


def test_odd_names_are_ingested_and_shown_for_what_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    names = {
        "x" * 251 + ".txt": "x" * 251 + ".txt",  # the longest that file systems take
        "..txt.txt": None,  # hidden
        "a..b.txt": "a..b.txt",
        "مرحبا.txt": "مرحبا.txt",
        "a\u202etxt.exe": "a\\u202etxt.exe",
        "b\u200f.txt": "b\\u200f.txt",
        "two\nlines.txt": "two\\nlines.txt",
        os.fsdecode(b"caf\xe9.txt"): "caf\\xe9.txt",
        "-rf.txt": "-rf.txt",
        "file:..%2fx.txt": "file:..%2fx.txt",
        "<b>[1]&amp;.txt": "<b>[1]&amp;.txt",
    }
    for at, name in enumerate(names):
        (folder / name).write_text(f"Text number {at}.")
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as owl:
        job = owl.ingest("names", [folder / ".." / "folder", tmp_path / ("y" * 300)])
        assert job.state == "done"
        shown = {document.name for document in owl.documents("names")}
        assert shown == {name for name in names.values() if name}
        assert [each.name[-300:] for each in job.skipped] == ["y" * 300]
        assert "too long" in job.skipped[0].reason
        for path in ("nul\0l", "nul\0/../../etc/passwd"):
            with pytest.raises(InvalidInput, match="no path"):
                owl.ingest("names", [path])


def test_links_out_of_a_folder_are_followed_when_that_is_asked_for(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("The secret.")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("The text.")
    (folder / "out.txt").symlink_to(outside / "secret.txt")
    (folder / "up").symlink_to(Path("..") / "outside")
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as owl:
        job = owl.ingest("links", [folder])
        assert {each.name for each in job.skipped} == {"out.txt", "up"}
        assert all(isinstance(e, Skipped) and "link" in e.reason for e in job.skipped)
        assert [document.name for document in owl.documents("links")] == ["a.txt"]
        job = owl.ingest("links", [folder], follow_links=True)
        assert (job.state, job.skipped) == ("done", [])
        assert "secret" in owl.search("links", "secret")[0].item.text  # type: ignore[operator]
