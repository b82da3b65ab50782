"""Decoding in a process of its own: the same values, and no file that ends the job."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from rag_owl.errors import Conflict, UnreadableMedia
from rag_owl.indexer.loaders import Input, Loaded, SkippedRow, apart_pool, read
from rag_owl.indexer.loaders.apart import read_apart
from rag_owl.indexer.loaders.apart_pool import Allowance, Pool
from rag_owl.indexer.loaders.apart_wire import Broken, Channel
from rag_owl.media import DEFAULT_LIMITS
from rag_owl.types import Skipped
from tests.decoders import OF_OTHERS, all_decoders, decoders, hurry, when_busy
from tests.files import endless_pdf, noise_jpeg, pdf_of, wide_png


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(Allowance(seconds=60), tmp_path / "decoding")
    yield pool
    pool.close()


def flat(values: Iterator[Loaded | Skipped]) -> list[Any]:
    """What was read, as what can be compared."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, Skipped):
            found.append(value)
            continue
        found.append(
            [value.name, value.title, value.sha256, dict(value.metadata), value.source, value.row]
        )
        for section in value.sections():
            picture = section.picture
            shown = picture and (picture.data, picture.media_type, picture.image.tobytes())
            found.append((section.text, section.start, section.page, section.text_boxes, shown))
    return found


@pytest.fixture(autouse=True)
def _of_others() -> None:
    OF_OTHERS.clear()
    OF_OTHERS.update(process.pid for process in all_decoders())


# --- the same values ---------------------------------------------------------------------------


def test_every_kind_comes_as_it_does_in_process(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "a.txt").write_text("A text.\n\n" + "One more sentence. " * 20_000)
    (tmp_path / "b.md").write_text("---\nyear: 1990\n---\n# Owls\n\nThey fly.\n\n## Bats\n\nToo.")
    (tmp_path / "c.html").write_text("<title>Owls</title><p>They fly.<table><tr><td>a<td>b")
    (tmp_path / "d.pdf").write_bytes(pdf_of("one", "two", "three"))
    (tmp_path / "e.jpg").write_bytes(noise_jpeg(300, 200))
    url = "data:image/jpeg;base64," + base64.b64encode(noise_jpeg(64, 48)).decode()
    rows = [{"text": f"row {at}", "n": at} for at in range(1_000)] + [
        {"image": url},
        {"image": "x"},
    ]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n\n{}")
    (tmp_path / "g.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    (tmp_path / "h.bin").write_bytes(bytes(range(256)))
    (tmp_path / "i.csv").write_text("id,text\n1,one\n2,two\n")
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    sources = [Input(name, tmp_path / name) for name in names]
    sources += [Input("e.jpg", tmp_path / "e.jpg", tmp_path / "a.txt", "a.txt")]
    sources += [Input("g.png", tmp_path / "g.png", tmp_path / "b.md", "b.md")]
    sources += [Input("missing", tmp_path / "missing"), Input("folder", tmp_path)]
    for source in sources:
        assert flat(read_apart(source, pool=pool)) == flat(read(source)), source
    rows_file = Input("f.jsonl", tmp_path / "f.jsonl")
    for start_row in (1, 998, 1_001, 5_000):
        apart = flat(read_apart(rows_file, start_row=start_row, pool=pool))
        assert apart == flat(read(rows_file, start_row=start_row))
    assert len(decoders()) == 1  # one did it all


def test_sections_may_be_asked_for_again_and_late(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "d.pdf").write_bytes(pdf_of("one", "two", "three"))
    source = Input("d.pdf", tmp_path / "d.pdf")
    values = read_apart(source, pool=pool)
    document = next(values)
    assert isinstance(document, Loaded)
    assert next(document.sections()).text == "one"  # and the rest is not wanted
    assert [section.text for section in document.sections()] == ["one", "two", "three"]
    assert list(values) == []
    assert [section.text for section in document.sections()] == ["one", "two", "three"]
    (tmp_path / "d.pdf").write_bytes(pdf_of("four"))
    with pytest.raises(UnreadableMedia, match="changed"):
        list(document.sections())


def test_who_stops_in_the_middle_leaves_no_answer_to_the_next(tmp_path: Path, pool: Pool) -> None:
    rows = "".join(json.dumps({"text": f"row {at} " + "x" * 500}) + "\n" for at in range(5_000))
    (tmp_path / "f.jsonl").write_text(rows)
    for _ in range(2):
        values = read_apart(Input("f.jsonl", tmp_path / "f.jsonl"), pool=pool)
        assert next(values).name == "f.jsonl#1"
        assert next(values).name == "f.jsonl#2"
        values.close()  # type: ignore[attr-defined]


# --- decoders that fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (signal.SIGSEGV, r"crashed \(SIGSEGV\)"),
        (signal.SIGKILL, "was killed"),
        (signal.SIGALRM, "took longer than 60 seconds"),
    ],
)
def test_a_decoder_that_crashes_or_takes_too_long_costs_its_file_alone(
    tmp_path: Path, pool: Pool, sent: signal.Signals, reason: str
) -> None:
    (tmp_path / "endless.pdf").write_bytes(endless_pdf())
    (tmp_path / "next.txt").write_text("The next file.")
    values = read_apart(Input("endless.pdf", tmp_path / "endless.pdf"), pool=pool)
    document = next(values)
    assert isinstance(document, Loaded)
    with (
        when_busy(lambda process: process.send_signal(sent)),
        pytest.raises(UnreadableMedia, match=reason),
    ):
        list(document.sections())
    assert list(values) == []
    (after,) = read_apart(Input("next.txt", tmp_path / "next.txt"), pool=pool)
    assert isinstance(after, Loaded)
    assert [section.text for section in after.sections()] == ["The next file."]
    pool.close()
    assert decoders() == []
    assert list((tmp_path / "decoding").iterdir()) == []


@contextmanager
def impatient(pool: Pool) -> Iterator[None]:
    """What is asked for within it may take a second; all that is sound has its time."""
    seconds = pool.allowance.seconds
    object.__setattr__(pool.allowance, "seconds", 1.0)
    yield
    object.__setattr__(pool.allowance, "seconds", seconds)


def test_a_decoder_that_stands_still_is_given_up(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "endless.pdf").write_bytes(endless_pdf())
    values = read_apart(Input("endless.pdf", tmp_path / "endless.pdf"), pool=pool)
    document = next(values)
    assert isinstance(document, Loaded)
    (decoder,) = decoders()
    decoder.suspend()
    with impatient(pool), pytest.raises(UnreadableMedia, match="took longer than 1 seconds"):
        list(document.sections())
    assert list(values) == []
    pool.close()
    assert decoders() == []
    assert list((tmp_path / "decoding").iterdir()) == []


def test_a_page_that_would_take_for_ever_is_given_up(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "endless.pdf").write_bytes(endless_pdf(before=("one", "two")))
    values = read_apart(Input("endless.pdf", tmp_path / "endless.pdf"), pool=pool)
    document = next(values)
    assert isinstance(document, Loaded)
    sections = document.sections()
    assert next(sections).text == "one"
    with impatient(pool):  # the second is being read already
        assert next(sections).text == "two"
    with pytest.raises(UnreadableMedia, match="took longer than 1 seconds"):
        next(sections)
    assert list(values) == []


def test_a_picture_that_takes_more_memory_than_allowed_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(wide_png(9_900, 9_900))  # 300 kB; 400 MB of pixels
    (tmp_path / "small.png").write_bytes(wide_png(10, 10))
    pool = Pool(Allowance(60, 300 * 2**20), tmp_path / "decoding")
    (skipped,) = read_apart(Input("wide.png", tmp_path / "wide.png"), pool=pool)
    assert isinstance(skipped, Skipped)
    assert "memory" in skipped.reason
    with pytest.raises(UnreadableMedia, match="memory"):
        pool.check_picture((tmp_path / "wide.png").read_bytes(), DEFAULT_LIMITS)
    (loaded,) = read_apart(Input("small.png", tmp_path / "small.png"), pool=pool)
    assert isinstance(loaded, Loaded)
    pool.close()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> str:
    """A picture of a kind that decoders try to decode for ever."""
    for_ever = (
        "from PIL.WebPImagePlugin import WebPImageFile as webp; "
        "webp.load = lambda self: any(each for each in iter(int, 1)); "
    )
    monkeypatch.setattr(
        apart_pool, "_START", apart_pool._START.replace("main(int", for_ever + "main(int")
    )
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "WEBP")
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def test_a_page_that_takes_all_memory_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "endless.pdf").write_bytes(endless_pdf())
    pool = Pool(Allowance(60, 300 * 2**20), tmp_path / "decoding")
    document = next(read_apart(Input("endless.pdf", tmp_path / "endless.pdf"), pool=pool))
    assert isinstance(document, Loaded)
    with pytest.raises(UnreadableMedia, match=r"crashed \(SIG.*memory"):
        list(document.sections())
    pool.close()


def test_of_rows_only_the_one_that_ends_its_decoder_is_lost(
    tmp_path: Path, pool: Pool, endless: str
) -> None:
    rows: list[dict[str, str]] = [{"text": f"row {at}"} for at in range(6)]
    rows[3] = {"image": endless}
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Input("f.jsonl", tmp_path / "f.jsonl")
    with when_busy(hurry):
        found = list(read_apart(source, pool=pool))
    assert [value.name for value in found] == [
        *(f"f.jsonl#{at}" for at in (1, 2, 3)), "f.jsonl row 4", "f.jsonl#5", "f.jsonl#6",
    ]  # fmt: skip
    lost = found[3]
    assert isinstance(lost, SkippedRow)
    assert lost.row == 3
    assert "took longer" in lost.reason
    with when_busy(hurry):
        assert flat(read_apart(source, start_row=3, pool=pool))[0] == lost


def test_many_lost_decoders_end_a_file(
    tmp_path: Path, pool: Pool, endless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_owl.indexer.loaders.apart._MOST_LOST", 4)
    row = json.dumps({"image": endless})
    (tmp_path / "f.jsonl").write_text("\n".join([json.dumps({"text": "one"}), row, row, row]))
    with when_busy(hurry):
        found = list(read_apart(Input("f.jsonl", tmp_path / "f.jsonl"), pool=pool))
    assert [value.name for value in found][:3] == ["f.jsonl#1", "f.jsonl row 2", "f.jsonl row 3"]
    assert "decoders were lost" in str(found[-1])


# --- what a decoder has, and what it may say ---------------------------------------------------


def test_a_decoder_has_no_file_lock_or_secret_of_ours(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAG_OWL_DATABASE_URL", "postgresql://user:secret@host/db")
    monkeypatch.setenv("SOME_API_KEY", "secret")
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        pool.check_picture(noise_jpeg(64, 48), DEFAULT_LIMITS)
        (decoder,) = decoders()
        opened = [os.readlink(link) for link in Path(f"/proc/{decoder.pid}/fd").iterdir()]
        assert "secret" not in " ".join(decoder.environ().values())
    others = [name for name in opened if name != "/dev/null"]
    assert len(others) == 1
    assert others[0].startswith("socket:")


def test_a_decoder_ends_with_whoever_started_it(tmp_path: Path) -> None:
    (tmp_path / "endless.pdf").write_bytes(endless_pdf())
    code = f"""
from pathlib import Path
from rag_owl.indexer.loaders import Input
from rag_owl.indexer.loaders.apart import read_apart
from rag_owl.indexer.loaders.apart_pool import Allowance, Pool
pool = Pool(Allowance(seconds=3600))
for document in read_apart(Input("x", Path({str(tmp_path / "endless.pdf")!r})), pool=pool):
    print("begun", flush=True)
    list(document.sections())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"begun\n"
    (decoder,) = psutil.Process(parent.pid).children()
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    decoder.wait(timeout=20)
    assert not decoder.is_running()


def test_what_a_taken_over_decoder_sends_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    def sent(payload: bytes) -> Channel:
        ours, theirs = socket.socketpair()
        theirs.sendall(struct.pack("<IQ", 1, len(payload)) + payload)
        theirs.close()
        return Channel(ours)

    for payload in (pickle.dumps(Evil()), pickle.dumps(io.BytesIO), b"nonsense", b""):
        with pytest.raises(Broken):
            sent(payload).receive(time.monotonic() + 60)
    assert not (tmp_path / "evil").exists()
    ours, theirs = socket.socketpair()
    theirs.sendall(struct.pack("<IQ", 1, 2**40))
    with pytest.raises(Broken, match="more than"):
        Channel(ours).receive(time.monotonic() + 60)


def test_pictures_of_questions(tmp_path: Path, pool: Pool) -> None:
    pool.check_picture(noise_jpeg(300, 200), DEFAULT_LIMITS)
    with pytest.raises(UnreadableMedia, match="cut off"):
        pool.check_picture(noise_jpeg(300, 200)[:2_000], DEFAULT_LIMITS)
    with pytest.raises(UnreadableMedia, match="it is text, not a picture"):
        pool.check_picture(b"no picture", DEFAULT_LIMITS)
    pool.close()
    with pytest.raises(Conflict, match="closed"):
        pool.check_picture(noise_jpeg(300, 200), DEFAULT_LIMITS)


def test_pictures_cross_as_they_are(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    image = Image.effect_noise((200, 100), 50).convert("RGB")
    sender = threading.Thread(target=lambda: Channel(theirs).send([image, Path("a/b")]))
    sender.start()
    got, path = Channel(ours).receive(time.monotonic() + 60)
    sender.join()
    assert (got.tobytes(), got.size, path) == (image.tobytes(), image.size, Path("a/b"))
    assert got.resize((10, 10)).size == (10, 10)
