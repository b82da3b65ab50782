"""The whole system on real files: ingest, search, ask, cite; changed, killed, side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from rag_owl import RagOwl
from rag_owl.errors import InvalidInput, InvalidQuestion, NotFound
from rag_owl.types import PageLocation, TextLocation
from tests import databases
from tests.consistency import problems
from tests.resting import rest_after

OWLS = """Owls of the North

The snowy owl breeds on the tundra. It hunts lemmings by day and by night.

The boreal owl weighs about 120 grams. It nests in old woodpecker holes.
"""
BREAD = """Baking bread

A sourdough needs twelve hours to rise. The oven should be at 230 degrees.
"""


@pytest.fixture
def owl(tmp_path: Path, database_url: str) -> Iterator[RagOwl]:
    """An empty data folder, once on SQLite and once on PostgreSQL."""
    with RagOwl.open(tmp_path / "data", database_url=database_url) as opened:
        yield opened


@pytest.fixture
def light(tmp_path: Path, on_each_database: None) -> Iterator[RagOwl]:
    """As `owl`, but it embeds by hashing: for what does not depend on meaning."""
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as opened:
        yield opened


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "owls.txt").write_text(OWLS)
    (folder / "bread.md").write_text("# " + BREAD)
    rows = [
        {"text": "The eagle owl has orange eyes.", "title": "Eagle owl", "grams": 2700},
        {"text": "The elf owl is the lightest of all owls.", "title": "Elf owl", "grams": 40},
    ]
    lines = [json.dumps(row) for row in rows] + ["{broken"]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    Image.new("RGB", (60, 40), (200, 30, 30)).save(folder / "red.png")
    (folder / "red.txt").write_text("The red card means that a player is sent off.")
    Image.new("RGB", (60, 40), (30, 30, 200)).save(folder / "blue.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    (folder / "empty.txt").write_text("")
    return folder


def test_ingest_search_ask_and_cite(owl: RagOwl, notes: Path) -> None:
    job = owl.ingest("notes", [notes])
    assert (job.state, job.added, job.updated, job.unchanged) == ("done", 6, 0, 0)
    assert sorted(skipped.name for skipped in job.skipped) == [
        "broken.png",
        "empty.txt",
        "rows.jsonl line 3",
    ]
    assert job.handled == job.found

    hits = owl.search("notes", "how heavy is a boreal owl", k=3)
    assert hits[0].item.document_name == "owls.txt"
    assert set(hits[0].channels) == {"text", "words"}

    answer = owl.ask("notes", "How much does the boreal owl weigh?")
    assert not answer.abstained
    assert answer.text.startswith("The boreal owl weighs about 120 grams. [")
    citation = answer.citations[0]
    assert citation.quote == "The boreal owl weighs about 120 grams."
    assert isinstance(citation.location, TextLocation)
    assert OWLS[citation.location.start : citation.location.end] == citation.quote
    assert answer.text[citation.start : citation.end] == citation.quote
    assert citation.support.verdict == "supported"
    assert owl.answer(answer.id) == answer


def test_what_the_collection_does_not_hold_is_not_answered(owl: RagOwl, notes: Path) -> None:
    owl.ingest("notes", [notes])
    answer = owl.ask("notes", "Who painted the Mona Lisa?")
    assert answer.abstained
    assert answer.citations == ()
    assert "[" not in answer.text
    assert owl.answer(answer.id).abstained


def test_a_picture_finds_its_text_after_it_was_changed(owl: RagOwl, notes: Path) -> None:
    owl.ingest("notes", [notes])
    picture = notes.parent / "photo.jpg"
    Image.new("RGB", (200, 140), (190, 40, 35)).save(picture, quality=40)
    hits = owl.search("notes", "", images=[picture], k=2)
    assert hits[0].item.document_name == "red.png"
    assert hits[0].channels == ("picture",)
    answer = owl.ask("notes", "What does this card mean?", images=[picture.read_bytes()])
    assert "a player is sent off" in answer.text
    assert answer.citations[0].picture == hits[0].item.picture


def test_filters_are_exact_and_leave_k_results(owl: RagOwl, notes: Path) -> None:
    owl.ingest("notes", [notes])
    light = {"field": "grams", "op": "<", "value": 100}
    assert [hit.item.title for hit in owl.search("notes", "bread", filters=light)] == ["Elf owl"]
    both = {"field": "grams", "op": "exists", "value": True}
    assert len(owl.search("notes", "sourdough in the oven", filters=both, k=2)) == 2
    none = {"field": "grams", "op": "==", "value": 1}
    assert owl.search("notes", "owl", filters=none) == []
    assert owl.ask("notes", "Which owl is the lightest?", filters=none).abstained


def test_the_same_again_says_that_nothing_changed(light: RagOwl, notes: Path) -> None:
    first = light.ingest("notes", [notes])
    again = light.ingest("notes", [notes])
    assert (again.added, again.updated, again.unchanged) == (0, 0, 6)
    assert again.id != first.id
    assert len(list(light.documents("notes"))) == 6


def test_a_changed_file_is_a_new_revision_and_its_old_text_is_gone(
    light: RagOwl, notes: Path
) -> None:
    light.ingest("notes", [notes])
    old = light.search("notes", "boreal owl weighs")[0].item
    (notes / "owls.txt").write_text(OWLS.replace("120", "130"))
    job = light.ingest("notes", [notes])
    assert (job.added, job.updated) == (0, 1)
    found = light.search("notes", "boreal owl weighs")[0].item
    assert (found.document_id, found.revision) == (old.document_id, 2)
    assert "130" in (found.text or "")
    assert all(hit.item.id != old.id for hit in light.search("notes", "owl", k=50))
    assert light.item("notes", old.id).text == old.text


def test_a_deleted_document_is_found_no_more(light: RagOwl, notes: Path) -> None:
    light.ingest("notes", [notes])
    owls = next(d for d in light.documents("notes") if d.name == "owls.txt")
    light.delete_document("notes", owls.id)
    assert all(hit.item.document_id != owls.id for hit in light.search("notes", "owl", k=50))
    with pytest.raises(NotFound):
        light.delete_document("notes", owls.id)


def test_collections_do_not_see_each_other(light: RagOwl, notes: Path) -> None:
    light.ingest("one", [notes / "owls.txt"])
    light.ingest("two", [notes / "bread.md"])
    assert {h.item.document_name for h in light.search("one", "bread oven owl", k=50)} == {
        "owls.txt"
    }
    assert [info.name for info in light.collections()] == ["one", "two"]


def test_pages_are_cited_with_their_boxes(light: RagOwl, tmp_path: Path) -> None:
    pdf = tmp_path / "page.pdf"
    pdf.write_bytes(minimal_pdf("The tawny owl calls at dusk."))
    light.ingest("pdf", [pdf])
    hit = light.search("pdf", "tawny owl")[0]
    assert isinstance(hit.item.location, PageLocation)
    assert hit.item.location.page == 1
    answer = light.ask("pdf", "When does the tawny owl call at dusk?")
    place = answer.citations[0].location
    assert isinstance(place, PageLocation)
    left, top, right, bottom = place.boxes[0]
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1


def minimal_pdf(text: str) -> bytes:
    """One page with one line of text, written by hand."""
    stream = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    written = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(written)
    written += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    written += b"".join(b"%010d 00000 n \n" % place for place in places)
    return written + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        table,
    )


# --- bad input --------------------------------------------------------------------------------


def test_bad_questions_say_what_is_wrong(light: RagOwl, notes: Path) -> None:
    light.ingest("notes", [notes / "owls.txt"])
    with pytest.raises(NotFound, match=r"no collection 'nodes'; there are: notes"):
        light.ask("nodes", "What?")
    with pytest.raises(InvalidQuestion, match="the question is empty"):
        light.ask("notes", "  \n")
    with pytest.raises(InvalidQuestion, match=r"broken\.png: .*PNG"):
        light.ask("notes", "What is this?", images=[notes / "broken.png"])
    with pytest.raises(InvalidQuestion, match=r"cannot read the picture .*nowhere\.png"):
        light.ask("notes", "What is this?", images=[notes / "nowhere.png"])
    with pytest.raises(InvalidInput, match="cannot name a collection"):
        light.ingest("No Such Name", [notes])
    with pytest.raises(InvalidInput, match="at least one file"):
        light.ingest("notes", [])


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "", "nothing", 7])
def test_ids_that_cannot_exist_are_not_found(owl: RagOwl, notes: Path, name: str) -> None:
    owl.ingest("notes", [notes / "owls.txt"])
    for look in (owl.job, owl.answer, owl.cancel_job, owl.documents):
        with pytest.raises(NotFound):
            look(name)
    for look_in in (owl.item, owl.delete_document):
        with pytest.raises(NotFound):
            look_in("notes", name)


def test_odd_names_and_a_missing_path_do_not_stop_the_rest(light: RagOwl, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("with space.txt", "emoji 🦉.txt", "line\nbreak.txt", "ünïcödé.txt"):
        (folder / name).write_text(f"A text in a file called {name!r}.")
    (folder / os.fsdecode(b"not unicode \xe9.txt")).write_text("A name of any bytes.")
    job = light.ingest("odd", [folder, tmp_path / "missing"])
    assert (job.added, job.state) == (5, "done")
    assert len(job.skipped) == 1
    assert "missing" in job.skipped[0].name
    assert len(list(light.documents("odd"))) == 5


# --- interrupted, side by side ------------------------------------------------------------------


def rows_file(folder: Path, count: int) -> Path:
    path = folder / "many.jsonl"
    with path.open("w") as file:
        for at in range(count):
            file.write(json.dumps({"id": f"r{at}", "text": f"Row {at} says word{at}."}) + "\n")
    return path


def ingest_in_child(data: Path, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rag_owl.api.cli", "ingest", "rows", str(path), "--data", str(data)],
        env={**databases.environment(data), "RAG_OWL_TEXT_EMBEDDER": "hashing"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def assert_complete(owl: RagOwl, count: int) -> None:
    assert problems(owl.folder) == []
    names = [document.name for document in owl.documents("rows")]
    assert len(names) == len(set(names)) == count
    for at in range(0, count, max(1, count // 20)):
        hits = owl.search("rows", f"word{at}", k=3)
        assert [hit.item.document_name for hit in hits].count(f"many.jsonl#r{at}") == 1
        assert set(hits[0].channels) == {"text", "words"}


def test_a_killed_ingest_is_resumed_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    data, path = tmp_path / "data", rows_file(tmp_path, 3_000)
    child = ingest_in_child(data, path)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list((data / "segments").glob("[0-9a-f]*")):
        time.sleep(0.02)  # until the first batch is on its way
    child.send_signal(signal.SIGKILL)
    child.wait()
    with RagOwl.open(data, text_embedder="hashing") as owl:
        (job,) = owl.jobs()
        job = owl.wait_for_job(job.id)
        assert (job.state, job.added, job.unchanged) == ("done", 3_000, 0)
        assert_complete(owl, 3_000)


@pytest.mark.usefixtures("on_each_database")
def test_two_processes_ingest_into_one_folder(tmp_path: Path) -> None:
    data, path = tmp_path / "data", rows_file(tmp_path, 1_500)
    children = [ingest_in_child(data, path) for _ in range(2)]
    with RagOwl.open(data, text_embedder="hashing") as owl:
        assert [child.wait(timeout=500) for child in children] == [0, 0]
        assert all(job.state == "done" for job in owl.jobs())
        assert_complete(owl, 1_500)


@pytest.mark.usefixtures("on_each_database")
def test_closing_leaves_a_job_that_the_next_opening_finishes(tmp_path: Path) -> None:
    path = rows_file(tmp_path, 2_000)
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as owl:
        job_id = owl.ingest("rows", [path], wait=False).id
    with RagOwl.open(tmp_path / "data", text_embedder="hashing") as owl:
        assert owl.wait_for_job(job_id).added == 2_000
        assert_complete(owl, 2_000)


def test_a_cancelled_job_ends_and_keeps_what_it_has(
    light: RagOwl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest_after(monkeypatch, items=64, batch=64)
    job_id = light.ingest("rows", [rows_file(tmp_path, 2_000)], wait=False).id
    while not light.job(job_id).added:
        time.sleep(0.01)
    light.cancel_job(job_id)
    job = light.wait_for_job(job_id)
    assert job.state == "cancelled"
    assert 0 < job.added < 2_000
    assert len(list(light.documents("rows"))) == job.added


@pytest.mark.usefixtures("on_each_database")
def test_two_folders_are_open_in_one_process(tmp_path: Path, notes: Path) -> None:
    with (
        RagOwl.open(tmp_path / "a", text_embedder="hashing") as first,
        RagOwl.open(tmp_path / "b", text_embedder="hashing") as second,
    ):
        first.ingest("notes", [notes / "owls.txt"])
        second.ingest("notes", [notes / "bread.md"])
        assert [d.name for d in first.documents("notes")] == ["owls.txt"]
        assert [d.name for d in second.documents("notes")] == ["bread.md"]
