"""Archives through the whole system: ingested, kept, found, and gone on with after a kill."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from rag_owl import RagOwl
from tests.consistency import problems
from tests.films import write_film


@pytest.mark.usefixtures("on_each_database", "own_decoders")
def test_files_in_an_archive_are_found_kept_and_the_same_as_outside(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 3, cues=[(1.0, 2.0, "A boreal owl.")])
    large = io.BytesIO()
    Image.new("RGB", (2_400, 2_400), "red").save(large, "BMP")  # too large to be held in memory
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/owl.txt", "The snowy owl is white.")
        archive.writestr("../evil.txt", "Evil.")
        archive.write(film, "film.mp4")
        archive.writestr("big.bmp", large.getvalue())
    with RagOwl.open(tmp_path / "data", text_embedder="hashing", batch_size=256) as owl:
        job = owl.ingest("all", [path])
        assert (job.state, job.added, job.skipped_count) == ("done", 3, 1)
        assert "leads out" in job.skipped[0].reason
        (best, *_) = owl.search("all", "snowy owl")
        assert best.item.document_name == "all.zip/a/owl.txt"
        assert owl.search("all", "boreal")[0].item.kind == "video"
        again = owl.ingest("all", [path])
        assert (again.added, again.unchanged, again.skipped_count) == (0, 3, 1)
        loose = tmp_path / "owl.txt"
        loose.write_text("The snowy owl is white.")
        assert owl.ingest("all", [loose]).unchanged == 1
    assert not list((tmp_path / "data" / "decoding").glob("*/*"))


def test_an_archive_whose_ingest_was_killed_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for at in range(800):
            archive.writestr(f"{at:04}.txt", f"Text number {at} of the archive.")
    data = tmp_path / "data"
    code = f"""
from rag_owl import RagOwl
with RagOwl.open({str(data)!r}, text_embedder="hashing") as owl:
    owl.ingest("many", [{str(path)!r}], on_progress=lambda job: print(job.items, flush=True))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) > 0:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with RagOwl.open(data, text_embedder="hashing") as owl:
        job = owl.wait_for_job(owl.jobs()[0].id)
        until = time.monotonic() + 60
        while not job.finished and time.monotonic() < until:
            job = owl.job(job.id)
        assert (job.state, job.added, job.found, job.skipped) == ("done", 800, 800, [])
        names = [document.name for document in owl.documents("many")]
        assert sorted(names) == [f"many.zip/{at:04}.txt" for at in range(800)]
    assert problems(data) == []
