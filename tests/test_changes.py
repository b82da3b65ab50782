"""Files that move, swap, grow and vanish between and during ingests: nothing lost or double."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag_owl import RagOwl
from rag_owl.errors import Conflict, DataFolderError
from rag_owl.indexer import merge, pipeline
from rag_owl.store.segments import SegmentInfo
from rag_owl.types import Job
from tests.consistency import problems
from tests.resting import rest_after

pytestmark = pytest.mark.usefixtures("on_each_database")
on_sqlite = pytest.mark.parametrize("on_each_database", ["sqlite"], indirect=True)


@pytest.fixture
def owl(tmp_path: Path) -> Iterator[RagOwl]:
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def contents(owl: RagOwl) -> dict[str, str]:
    """name -> text of every document that can be found."""
    hits = owl.search("c", "text", k=400)
    return {hit.item.document_name: hit.item.text or "" for hit in hits}


def assert_sound(owl: RagOwl, job: Job) -> None:
    assert job.state == "done", job.error
    assert job.found == job.handled
    assert problems(owl.folder) == []


def write(folder: Path, **texts: str) -> None:
    for stem, text in texts.items():
        (folder / f"{stem}.txt").write_text(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": "text one"}, {"b": "text one", "a": "text two"}),  # renamed, another in its place
        ({"a": "text one", "b": "text two"}, {"a": "text two", "b": "text one"}),  # swapped
        (
            {"a": "text one", "b": "text two", "c": "text three"},
            {"a": "text three", "b": "text one", "c": "text two"},  # rotated
        ),
        (
            {"a": "text one", "b": "text two"},
            {"a": "text two", "b": "text three", "c": "text one"},
        ),
    ],
)
def test_files_that_change_places(
    owl: RagOwl, files: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    write(files, **before)
    owl.ingest("c", [files])
    for path in files.iterdir():
        path.unlink()
    write(files, **after)
    assert_sound(owl, owl.ingest("c", [files]))
    wanted = {f"{stem}.txt": text for stem, text in after.items()}
    assert contents(owl) == wanted
    again = owl.ingest("c", [files])
    assert (again.unchanged, again.added + again.updated) == (len(after), 0)


Change = Callable[[list[str]], list[str]]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: ["a new text", *rows],
        lambda rows: rows[::-1],
        lambda rows: rows[3:] + rows[:3],
        lambda rows: [*rows[:4], "a new text", *rows[5:]],
        lambda rows: random.Random(1).sample(rows, len(rows)),
    ],
    ids=["insert first", "reverse", "rotate", "replace one", "shuffle"],
)
@pytest.mark.parametrize("batch", [3, 1_000], ids=["small batches", "one batch"])
def test_rows_that_move_in_their_file(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch, change: Change, batch: int
) -> None:
    monkeypatch.setattr(pipeline, "_MOST_ENTRIES", batch)
    path = files / "rows.jsonl"

    def store(rows: list[str]) -> Job:
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        return owl.ingest("c", [path])

    rows = [f"text of row {at} and thing{at}" for at in range(10)]
    store(rows)
    changed = change(rows)
    assert_sound(owl, store(changed))
    assert contents(owl) == {f"rows.jsonl#{at}": row for at, row in enumerate(changed, 1)}
    again = store(changed)
    assert (again.unchanged, again.added + again.updated) == (len(changed), 0)


def long_text(word: str, passages: int) -> str:
    return "\n\n".join(
        f"Passage {at} is about {word} text and about {word}{at}. " + "It says no more. " * 45
        for at in range(passages)
    )


def merge_often(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(pipeline, "FIRST_BATCH", batch)
    monkeypatch.setattr(pipeline, "LARGEST_BATCH", batch)
    monkeypatch.setattr(merge, "MOST_SEGMENTS", 2)


def test_a_long_revision_keeps_its_vectors_through_merges(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_often(monkeypatch, batch=8)
    write(files, long=long_text("owl", 30))
    owl.ingest("c", [files])
    write(files, long=long_text("bat", 90))
    job = owl.ingest("c", [files])
    assert_sound(owl, job)
    assert job.updated == 1
    assert "bat89" in (owl.search("c", "bat89")[0].item.text or "")


@on_sqlite
def test_segments_that_were_merged_go_while_the_job_still_runs(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_often(monkeypatch, batch=4)
    monkeypatch.setattr(merge, "_READERS_NEED", 0.0)
    flush, seen = pipeline.Ingest._flush, list[int]()

    def flush_and_count(ingest: pipeline.Ingest) -> bool:
        seen.append(len(list((owl.folder / "segments").iterdir())))
        return flush(ingest)

    monkeypatch.setattr(pipeline.Ingest, "_flush", flush_and_count)
    write(files, long=long_text("owl", 120))
    assert_sound(owl, owl.ingest("c", [files]))
    assert len(seen) > 20
    assert max(seen) < 10


@pytest.mark.parametrize("collected", [False, True])
def test_what_is_deleted_while_it_is_ingested_stays_deleted(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch, collected: bool
) -> None:
    go_on = rest_after(monkeypatch, 1, 64)
    write(files, long=long_text("owl", 200))
    job_id = owl.ingest("c", [files], wait=False).id
    while not (begun := list(owl.documents("c"))):
        time.sleep(0.01)
    # Where its bytes are gone as well, the batch is made once more from the file.
    owl.delete_document("c", begun[0].id, wait=collected)
    go_on.set()
    job = owl.wait_for_job(job_id)
    assert_sound(owl, job)
    assert "deleted while" in job.skipped[0].reason
    assert list(owl.documents("c")) == []
    assert_sound(owl, owl.ingest("c", [files]))  # and may be ingested again
    assert len(list(owl.documents("c"))) == 1


def test_a_half_read_revision_is_not_finished_under_another_name(
    owl: RagOwl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files, a="a short text")
    owl.ingest("c", [files])
    go_on = rest_after(monkeypatch, 1, 64)
    write(files, a=long_text("owl", 1_500))
    job_id = owl.ingest("c", [files], wait=False).id
    while owl.job(job_id).items == 0:
        time.sleep(0.01)
    owl.cancel_job(job_id)
    go_on.set()
    assert owl.wait_for_job(job_id).state == "cancelled"
    assert contents(owl) == {"a.txt": "a short text"}
    write(files, a="a short text", b=long_text("owl", 1_500))
    assert_sound(owl, owl.ingest("c", [files]))
    assert {d.name: d.revision for d in owl.documents("c")} == {"a.txt": 1, "b.txt": 1}


@on_sqlite
def test_merging_is_not_stopped_by_one_small_segment() -> None:
    def chosen(*counts: int) -> list[int]:
        infos = [SegmentInfo(str(at), "text", "flat", n) for at, n in enumerate(counts)]
        return [info.count for info in merge._choose(infos)]

    assert chosen(1, 64, 128, 256, 512, 1024, 1024) == [64, 128, 256, 512, 1024, 1024]
    assert chosen(10, 10, 100_000) == [10, 10]
    assert chosen(1) == [1]
    assert chosen() == []


def test_a_long_job_rewrites_vectors_seldom_and_in_segments_of_bounded_size() -> None:
    most, rewritten, segments = 100_000, 0, [SegmentInfo("0", "text", "flat", 1_000)]
    for at in range(1, 1_000):
        segments.append(SegmentInfo(str(at), "text", "flat", 1_000))
        unfinished = [each for each in segments if 2 * each.count <= most]
        if len(unfinished) > merge.MOST_SEGMENTS:
            chosen = merge._choose_quickly(unfinished, most)
            together = sum(each.count for each in chosen)
            assert together <= most
            segments = [each for each in segments if each not in chosen]
            segments.append(SegmentInfo(f"m{at}", "text", "ivf", together))
            rewritten += together
    assert rewritten < 4 * 1_000_000
    assert merge._choose([each for each in segments if 2 * each.count > most], most) == []


def test_the_data_folder_is_not_ingested_into_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("a text about lions")
    with RagOwl.open(text_embedder="hashing") as owl:
        for _ in range(2):
            job = owl.ingest("c", ["."])
            assert [skipped.name for skipped in job.skipped] == ["owl-data"]
        assert [document.name for document in owl.documents("c")] == ["note.txt"]


def test_documents_are_listed_once_though_one_is_deleted_on_the_way(
    owl: RagOwl, files: Path
) -> None:
    rows = "".join(json.dumps({"text": f"text {at}"}) + "\n" for at in range(250))
    (files / "rows.jsonl").write_text(rows)
    owl.ingest("c", [files])
    seen = []
    for document in owl.documents("c"):
        seen.append(document.id)
        if len(seen) == 100:
            owl.delete_document("c", document.id)
    assert len(seen) == len(set(seen)) == 250


def test_who_waits_for_a_job_is_told_when_the_folder_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest_after(monkeypatch, items=1, batch=8)
    path = tmp_path / "long.txt"
    path.write_text(long_text("owl", 200))
    owl = RagOwl.open(tmp_path / "data", text_embedder="hashing")
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            owl.ingest("c", [path])
        except Conflict as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    while not owl.jobs():
        time.sleep(0.01)
    owl.close()
    waiter.join(timeout=300)
    assert not waiter.is_alive()
    assert "the next opening resumes it" in str(raised[0])


@on_sqlite
def test_a_lock_that_cannot_be_taken_is_said(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a text")
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as owl:
        (tmp_path / "data" / "work.lock").unlink(missing_ok=True)
        (tmp_path / "data" / "work.lock").mkdir()
        with pytest.raises(DataFolderError, match="cannot lock"):
            owl.ingest("c", [tmp_path / "note.txt"])
