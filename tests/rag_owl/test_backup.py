"""Backups: made while others write, restored elsewhere, and hostile ones refused."""

from __future__ import annotations

import json
import shutil
import stat
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select, text

from rag_owl import RagOwl, backup, db, holds
from rag_owl.archive import Writer
from rag_owl.backup import Stopped
from rag_owl.errors import Conflict, CorruptData, DataFolderError, InvalidInput
from rag_owl.restore import check_backup
from rag_owl.rows import JobRow, KeyRow
from rag_owl.store import collections, keys
from rag_owl.store import jobs as job_rows
from rag_owl.uploads import Upload, parameters
from tests.consistency import problems
from tests.databases import new_postgres, to_restore_into

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
NOTE = "The barn owl of Greyfield weighs 430 grams."


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return some_files(tmp_path / "files")


def some_files(folder: Path) -> Path:
    folder.mkdir()
    (folder / "owls.txt").write_text(NOTE)
    rows = "".join(json.dumps({"text": f"row {at} about thing{at}"}) + "\n" for at in range(20))
    (folder / "rows.jsonl").write_text(rows)
    Image.new("RGB", (60, 40), (200, 20, 20)).save(folder / "red.png")
    return folder


def fill(data: Path, files: Path, **settings: Any) -> str:
    """A folder with two revisions, a deleted document, an answer and a key; the answer's id."""
    with RagOwl.open(data, **LIGHT, **settings) as owl:
        owl.ingest("c", [files])
        (files / "owls.txt").write_text(NOTE + " It is heard at dusk.")
        owl.ingest("c", [files])
        gone = [each for each in owl.documents("c") if each.name.startswith("rows.jsonl")][-1]
        owl.delete_document("c", gone.id)
        answer = owl.ask("c", "How much does the barn owl of Greyfield weigh?")
        with db.writing(owl.engine) as session:
            keys.create(session, "the website", ["ask"])
    return answer.id


def state(owl: RagOwl, answer: str) -> Any:
    """What users see of it."""
    return (
        owl.collections(),
        list(owl.documents("c")),
        [
            [(hit.item, pytest.approx(hit.score)) for hit in owl.search("c", query, k=50)]
            for query in ("barn owl", "thing7", "row")
        ],
        owl.answer(answer),
        owl.sources(answer),
    )


def seen(data: Path, answer: str, **settings: Any) -> Any:
    with RagOwl.open(data, **LIGHT, **settings) as owl:
        return state(owl, answer)


@dataclass
class Made:
    data: Path
    backup: Path
    answer: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An SQLite folder, its backup, and an answer in both; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    answer = fill(folder / "data", some_files(folder / "files"))
    with RagOwl.open(folder / "data", work_jobs=False, **LIGHT) as owl:
        assert owl.backup(folder / "a.backup").lacking == ()
    return Made(folder / "data", folder / "a.backup", answer)


@pytest.mark.parametrize("to", ["sqlite", "postgresql"])
@pytest.mark.parametrize("of", ["sqlite", "postgresql"])
def test_a_restored_place_is_as_it_was(
    tmp_path: Path, files: Path, request: pytest.FixtureRequest, of: str, to: str
) -> None:
    def url(kind: str) -> dict[str, str]:
        if kind == "sqlite":
            return {}
        server = request.getfixturevalue("postgres_server")
        return {"database_url": stack.enter_context(new_postgres(server, empty=True))}

    with ExitStack() as stack:
        first, second = url(of), url(to)
        answer = fill(tmp_path / "data", files, **first)
        with RagOwl.open(tmp_path / "data", **LIGHT, **first) as owl:
            before = state(owl, answer)
            report = owl.backup(tmp_path / "a.backup")
            assert report.lacking == ()
            assert report.documents == 21
        assert stat.S_IMODE((tmp_path / "a.backup").stat().st_mode) == 0o600
        restored = RagOwl.restore(tmp_path / "a.backup", tmp_path / "new", **LIGHT, **second)
        assert (restored.documents, restored.blobs, restored.keys) == (21, report.blobs, 1)
        assert (restored.collections, restored.lacking) == (("c",), ())
        assert list(tmp_path.glob(".*")) == []
        with RagOwl.open(tmp_path / "new", **LIGHT, **second) as owl:
            assert state(owl, answer) == before
            # New rows get keys that none had before, also where the newest had been deleted.
            (files / "more.txt").write_text("A nightjar is heard at dusk.")
            job = owl.ingest("c", [files])
            assert (job.added, job.unchanged) == (2, 21)  # the deleted row again, and the new file
            assert owl.search("c", "nightjar")[0].item.document_name == "more.txt"
            assert owl.repair() == 0
        if to == "sqlite":
            assert problems(tmp_path / "new") == []


# --- what a stranger's file may try -------------------------------------------------------------


def refused(file: Path, folder: Path, match: str | None = None) -> None:
    """It is, with one clear line, and nothing is left of it."""
    with pytest.raises((CorruptData, InvalidInput), match=match) as caught:
        RagOwl.restore(file, folder, **LIGHT)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert not folder.exists()
    assert [path.name for path in folder.parent.glob(".*")] == []


def test_a_cut_or_flipped_backup_is_refused(tmp_path: Path, made: Made) -> None:
    file = made.backup
    data = file.read_bytes()
    assert check_backup(file)["rows"]["documents"] == 21
    bad = tmp_path / "bad.backup"
    step = len(data) // 40
    for at in [0, 100, 511, 512, *range(step, len(data), step), len(data) - 600, len(data) - 1]:
        bad.write_bytes(data[:at])
        refused(bad, tmp_path / "new")
        flipped = bytearray(data)
        flipped[at] ^= 1
        bad.write_bytes(flipped)
        refused(bad, tmp_path / "new")
        with pytest.raises((CorruptData, InvalidInput)):
            check_backup(bad)
    bad.write_bytes(data + b"more")
    refused(bad, tmp_path / "new", "after its end")
    bad.write_bytes(b"")
    refused(bad, tmp_path / "new", "no backup")


def rewritten(
    file: Path,
    target: Path,
    change: Callable[[str, bytes], list[tuple[str, bytes]]],
) -> Path:
    """The backup with other members, and checksums that are right."""
    with tarfile.open(file) as archive, target.open("wb") as out:
        writer = Writer(out)
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            if member.name == "end.json":
                continue
            for name, data in change(member.name, content.read()):
                if name.startswith("tables/"):
                    _, table, rest = name.split("/")
                    writer.add_rows(table, int(rest[:9]), data)
                else:
                    writer.add(name, data)
        writer.end({})
    return target


def test_rewriting_changes_nothing_by_itself(tmp_path: Path, made: Made) -> None:
    file = rewritten(made.backup, tmp_path / "b.backup", lambda name, data: [(name, data)])
    RagOwl.restore(file, tmp_path / "new", **LIGHT)
    assert seen(tmp_path / "new", made.answer) == seen(made.data, made.answer)


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/tmp/escaped",
        "blobs/../../escaped",
        "blobs/" + "A" * 64,
        "segments/../x.ids",
        "uploads/" + "a" * 32 + "/../x.data",
        "tables/installation/000000000." + "0" * 64 + ".jsonl",
        "tables/sqlite_master/000000000." + "0" * 64 + ".jsonl",
    ],
)
def test_other_names_are_refused(tmp_path: Path, made: Made, name: str) -> None:
    def add(member: str, data: bytes) -> list[tuple[str, bytes]]:
        return [(member, data), (name, b"{}")] if member == "manifest.json" else [(member, data)]

    refused(rewritten(made.backup, tmp_path / "b.backup", add), tmp_path / "new")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"L", b"x"])
def test_links_and_long_names_are_refused(tmp_path: Path, made: Made, kind: bytes) -> None:
    data = made.backup.read_bytes()
    header = tarfile.TarInfo("blobs/" + "0" * 64)
    header.type, header.linkname, header.size = kind, "/etc/passwd", 2**40
    bad = tmp_path / "bad.backup"
    bad.write_bytes(data[:1024] + header.tobuf(tarfile.GNU_FORMAT) + data[1024:])
    refused(bad, tmp_path / "new", "no plain file")


def test_a_size_beyond_the_file_is_refused(tmp_path: Path, made: Made) -> None:
    header = tarfile.TarInfo("tables/documents/000000000." + "0" * 64 + ".jsonl")
    data = made.backup.read_bytes()
    for size, match in ((2**40, "bytes|cut off"), (2**70, None)):
        header.size = size
        bad = tmp_path / "bad.backup"
        bad.write_bytes(data[:1024] + header.tobuf(tarfile.GNU_FORMAT))
        refused(bad, tmp_path / "new", match)


def row_changed(table: str, **values: Any) -> Callable[[str, bytes], list[tuple[str, bytes]]]:
    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        if not name.startswith(f"tables/{table}/"):
            return [(name, data)]
        rows = [json.loads(line) | values for line in data.splitlines()]
        return [(name, "".join(json.dumps(row) + "\n" for row in rows).encode())]

    return change


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("segments", {"id": "../../../etc"}),
        ("segments", {"id": "x" * 32}),
        ("segments", {"channel": "/"}),
        ("segments", {"count": 10**9}),
        ("segments", {"generation_key": 99}),
        ("collections", {"name": "../up"}),
        ("collections", {"key": "1"}),
        ("collections", {"key": 2**80}),
        ("collections", {"more": 1}),
        ("documents", {"collection_key": 99}),
        ("documents", {"name": None}),
        ("documents", {"created_at": "now"}),
        ("documents", {"name": "a\0b"}),
        ("revisions", {"metadata": {"a": "\0"}}),
        ("revisions", {"sha256": "0" * 65}),
        ("revisions", {"current": 1}),
        ("answers", {"request": []}),
    ],
)
def test_rows_that_cannot_be_are_refused(
    tmp_path: Path, made: Made, table: str, values: dict[str, Any]
) -> None:
    file = rewritten(made.backup, tmp_path / "b.backup", row_changed(table, **values))
    refused(file, tmp_path / "new")


def test_a_blob_or_vectors_of_other_content_are_refused(tmp_path: Path, made: Made) -> None:
    def other(kind: str, put: bytes) -> Callable[[str, bytes], list[tuple[str, bytes]]]:
        return lambda name, data: [
            (
                name,
                put[: len(data)].ljust(len(data), put[:1])
                if name.startswith("blobs/" if kind == "blobs/" else "segm")
                and name.endswith(kind.strip("/") if kind != "blobs/" else "")
                else data,
            )
        ]

    for kind in ("blobs/", ".vectors", ".ids"):
        file = rewritten(made.backup, tmp_path / f"{kind.strip('./')}.backup", other(kind, b"\x7f"))
        refused(file, tmp_path / "new")


def test_what_is_no_backup_of_this_version_is_refused(tmp_path: Path, made: Made) -> None:
    for values in ({"product": "x"}, {"format": 2}, {"schema": "9999"}, {"schema": ["0001"]}):

        def change(name: str, data: bytes, values: dict[str, Any] = values) -> Any:
            return [
                (
                    name,
                    json.dumps(json.loads(data) | values).encode()
                    if name == "manifest.json"
                    else data,
                )
            ]

        refused(rewritten(made.backup, tmp_path / "b.backup", change), tmp_path / "new")
    other = tmp_path / "other.tar"
    with tarfile.open(other, "w") as archive:
        archive.add(made.backup, "x")
    refused(other, tmp_path / "new", "no backup")
    with pytest.raises(InvalidInput, match="cannot read"):
        RagOwl.restore(tmp_path / "nothing", tmp_path / "new", **LIGHT)


def test_a_place_that_is_not_empty_is_refused(
    tmp_path: Path, made: Made, postgres_url: str
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="not empty"):
        RagOwl.restore(made.backup, tmp_path / "files", **LIGHT)
    with pytest.raises(Conflict, match="no folder"):
        RagOwl.restore(made.backup, tmp_path / "files" / "mine.txt", **LIGHT)
    (tmp_path / "new").mkdir()
    RagOwl.restore(made.backup, tmp_path / "new", **LIGHT, database_url=postgres_url)
    with pytest.raises(Conflict, match="empty database"):
        RagOwl.restore(made.backup, tmp_path / "new2", **LIGHT, database_url=postgres_url)
    assert not (tmp_path / "new2").exists()
    assert seen(tmp_path / "new", made.answer, database_url=postgres_url)


def test_a_failed_restore_leaves_an_empty_database(
    tmp_path: Path, made: Made, postgres_url: str
) -> None:
    bad = tmp_path / "bad.backup"
    bad.write_bytes(made.backup.read_bytes()[:-700])
    with pytest.raises(CorruptData):
        RagOwl.restore(bad, tmp_path / "new", **LIGHT, database_url=postgres_url)
    assert not (tmp_path / "new").exists()
    RagOwl.restore(made.backup, tmp_path / "new", **LIGHT, database_url=postgres_url)


@pytest.mark.usefixtures("on_each_database")
def test_no_job_of_a_backup_reads_this_machines_files(tmp_path: Path, files: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("The password of the safe is heron.")
    with RagOwl.open(tmp_path / "data", work_jobs=False, **LIGHT) as owl:
        with db.writing(owl.engine) as session:
            key = collections.get_or_create(session, "c").key
            job_rows.create(session, key, "ingest", {"paths": [str(secret)]})
        owl.backup(tmp_path / "a.backup")
    RagOwl.restore(tmp_path / "a.backup", to_restore_into(tmp_path / "new"), **LIGHT)
    with RagOwl.open(tmp_path / "new", **LIGHT) as owl:
        (job,) = owl.jobs()
        assert job.state == "cancelled"
        assert "not finished when the backup was made" in (job.error or "")
        with db.writing(owl.engine) as session:
            job_rows.retry(session, job.id)
        owl.work_soon()
        assert owl.wait_for_job(job.id).found == 0


# --- while others work ----------------------------------------------------------------------------


@pytest.mark.usefixtures("on_each_database")
def test_an_upload_that_was_acknowledged_is_read_after_the_restore(tmp_path: Path) -> None:
    with RagOwl.open(tmp_path / "data", work_jobs=False, **LIGHT) as owl:
        with Upload(owl.folder) as upload:
            upload.begin("owls ünd more.txt")
            upload.write(NOTE.encode())
            upload.end()
            upload.keep()
        with db.writing(owl.engine) as session:
            key = collections.get_or_create(session, "c").key
            job_rows.create(session, key, "ingest", parameters(upload, {"year": 2024}))
        owl.backup(tmp_path / "a.backup")
    shutil.rmtree(tmp_path / "data")
    RagOwl.restore(tmp_path / "a.backup", to_restore_into(tmp_path / "new"), **LIGHT)
    with RagOwl.open(tmp_path / "new", **LIGHT) as owl:
        (job,) = owl.jobs()
        assert owl.wait_for_job(job.id).added == 1
        (hit,) = owl.search("c", "owl")
        assert (hit.item.document_name, hit.item.metadata["year"]) == ("owls ünd more.txt", 2024)


def test_a_backup_while_documents_come_is_of_one_moment(
    tmp_path: Path, files: Path, database_url: str
) -> None:
    where = {} if database_url.startswith("sqlite") else {"database_url": database_url}
    stop = threading.Event()
    with RagOwl.open(tmp_path / "data", **LIGHT, **where) as owl:
        owl.ingest("c", [files])

        def work() -> None:
            at = 0
            while not stop.is_set() and at < 200:
                at += 1
                file = tmp_path / f"n{at}.txt"
                file.write_text(f"The note number{at} about owls.")
                owl.ingest("c", [file])
                if at % 3 == 0:
                    document = next(owl.documents("c"))
                    owl.delete_document("c", document.id)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            reports = [owl.backup(tmp_path / f"{n}.backup") for n in range(3)]
        finally:
            stop.set()
            thread.join()
    for number, report in enumerate(reports):
        assert report.lacking == ()
        data = tmp_path / f"new{number}"
        restored = RagOwl.restore(tmp_path / f"{number}.backup", data, **LIGHT)
        assert restored.lacking == ()
        with RagOwl.open(data, **LIGHT) as owl:
            for job in owl.jobs():
                owl.wait_for_job(job.id)
            found = {hit.item.document_id for hit in owl.search("c", "note owls row", k=400)}
            assert found <= {document.id for document in owl.documents("c")}
            assert owl.repair() == 0


def test_two_backups_do_not_meet(tmp_path: Path, made: Made) -> None:
    with RagOwl.open(made.data, work_jobs=False, **LIGHT) as owl:
        with pytest.raises(Conflict, match="exists"):
            owl.backup(made.backup)
        threads = [
            threading.Thread(target=owl.backup, args=(tmp_path / f"t{n}.backup",)) for n in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for n in range(2):
        assert check_backup(tmp_path / f"t{n}.backup")["lacking"] == []


def test_a_backup_can_be_stopped_and_leaves_nothing(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_owl.backup._LOOK_EVERY", 0)
    seen = []

    def watch(found: int, done: int) -> bool:
        seen.append((found, done))
        return done > 1

    with RagOwl.open(made.data, work_jobs=False, **LIGHT) as owl, pytest.raises(Stopped):
        owl.backup(tmp_path / "b", watch)
    found, done = seen[-1]
    assert found > done == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("on_each_database")
def test_a_backup_job_is_cancelled_also_while_it_waits(tmp_path: Path, files: Path) -> None:
    with RagOwl.open(tmp_path / "data", backup_folder=tmp_path / "backups", **LIGHT) as owl:
        owl.ingest("c", [files])
        (tmp_path / "backups").mkdir()
        with holds.keeping_files(owl.engine):
            with db.writing(owl.engine) as session:
                job_id, _ = job_rows.create(session, None, "backup", {})
            owl.work_soon()
            while owl.job(job_id).state != "running":
                time.sleep(0.02)
            owl.cancel_job(job_id)
            assert owl.wait_for_job(job_id).state == "cancelled"
        assert list((tmp_path / "backups").iterdir()) == []
        again = owl.wait_for_job(owl.retry_job(job_id).id)
        assert (again.state, again.found) == ("done", again.done)
        assert again.done > 0
        (file,) = (tmp_path / "backups").iterdir()
        assert check_backup(file)["lacking"] == []


@pytest.mark.usefixtures("on_each_database")
def test_vectors_that_a_backup_lacks_are_made_again_after_its_restore(
    tmp_path: Path, files: Path
) -> None:
    with RagOwl.open(tmp_path / "data", **LIGHT) as owl:
        owl.ingest("c", [files])
        before = [hit.item.id for hit in owl.search("c", "barn owl", channels=("text",))]
        for name in list(owl.segments.names()):
            owl.segments.remove(name)
        lacking = owl.backup(tmp_path / "b").lacking
    assert lacking
    restored = RagOwl.restore(tmp_path / "b", to_restore_into(tmp_path / "again"), **LIGHT)
    assert (set(restored.lacking), restored.reindexed) == (set(lacking), ("c",))
    with RagOwl.open(tmp_path / "again", **LIGHT) as owl:
        (job,) = [job for job in owl.jobs() if job.kind == "reindex"]
        assert owl.wait_for_job(job.id).state == "done"
        after = [hit.item.id for hit in owl.search("c", "barn owl", channels=("text",))]
    assert after == before
    assert problems(tmp_path / "again") == []


def test_a_full_disk_leaves_no_half_backup(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk's own refusal, from the first byte on: `/dev/full` stands behind the file."""

    class Full(Writer):
        def __init__(self, file: Any, *more: Any) -> None:
            super().__init__(open("/dev/full", "wb", buffering=0), *more)  # noqa: SIM115

    monkeypatch.setattr(backup, "Writer", Full)
    with (
        RagOwl.open(made.data, work_jobs=False, **LIGHT) as owl,
        pytest.raises(DataFolderError, match=r"No space left.*make space"),
    ):
        owl.backup(tmp_path / "full.backup")
    assert not (tmp_path / "full.backup").exists()
    assert list(tmp_path.glob(".*")) == []


def test_keys_can_be_left_out(tmp_path: Path, made: Made) -> None:
    report = RagOwl.restore(made.backup, tmp_path / "new", with_keys=False, **LIGHT)
    assert report.keys == 0
    with RagOwl.open(tmp_path / "new", **LIGHT) as owl, db.reading(owl.engine) as session:
        assert session.scalars(select(KeyRow)).all() == []
        assert set(session.scalars(select(JobRow.worker))) == {None}
        assert session.execute(text("PRAGMA integrity_check")).scalar() == "ok"
