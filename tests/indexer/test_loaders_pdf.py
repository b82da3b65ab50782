"""PDF: text, boxes, pictures, and what cannot be read."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders import Input, Loaded, Section, document_text, read
from rag_owl.indexer.split import split
from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.types import Box, PageLocation, Skipped

PAD = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")


def pdf(
    pages: Sequence[str], page_entries: str = "", info: str = "", password: str | None = None
) -> bytes:
    """A PDF of the given content streams; fonts /F (Helvetica) at their disposal."""
    kids = " ".join(f"{5 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{kids}]>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
        f"<<{info}>>",
    ]
    for i, content in enumerate(pages):
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F 3 0 R>>>>"
            f"/Contents {6 + 2 * i} 0 R {page_entries}>>"
        )
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    trailer = f"/Size {len(objects) + 1}/Root 1 0 R/Info 4 0 R"
    if password is not None:
        trailer += encryption(password)
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("cp1252")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return data + f"trailer<<{trailer}>>\nstartxref\n{start}\n%%EOF\n".encode()


def rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def encryption(password: str) -> str:
    """The standard security handler, revision 2 (PDF 1.4, algorithms 3.2 to 3.4)."""
    padded = (password.encode() + PAD)[:32]
    owner = rc4(hashlib.md5(padded).digest()[:5], padded)
    identity = bytes(range(16))
    permissions = (-44).to_bytes(4, "little", signed=True)
    key = hashlib.md5(padded + owner + permissions + identity).digest()[:5]
    user = rc4(key, PAD)
    return (
        f"/Encrypt<</Filter/Standard/V 1/R 2/P -44/O<{owner.hex()}>/U<{user.hex()}>>>"
        f"/ID[<{identity.hex()}><{identity.hex()}>]"
    )


def lines(*texts: str, x: int = 72, y: int = 700, leading: int = 16, size: int = 12) -> str:
    shown = f" 0 -{leading} Td ".join(f"({text}) Tj" for text in texts)
    return f"BT /F {size} Tf {x} {y} Td {shown} ET\n"


def load(path: Path, data: bytes, limits: Limits = DEFAULT_LIMITS) -> Loaded:
    path.write_bytes(data)
    (loaded,) = read(Input(path.name, path), limits=limits)
    assert isinstance(loaded, Loaded), loaded
    return loaded


def refusal(path: Path, data: bytes, limits: Limits = DEFAULT_LIMITS) -> str:
    path.write_bytes(data)
    (skipped,) = read(Input(path.name, path), limits=limits)
    assert isinstance(skipped, Skipped), skipped
    return skipped.reason


def boxes(section: Section) -> dict[str, Box]:
    return {
        section.text[run.start - section.start : run.end - section.start]: run.box
        for run in section.text_boxes
    }


def ink(section: Section) -> np.ndarray:
    assert section.picture is not None
    return np.asarray(section.picture.image.convert("L")) < 128


def ink_share(section: Section, box: Box) -> tuple[float, float]:
    """(dark pixels in the box / its area, dark pixels in the box / all dark pixels)."""
    dark = ink(section)
    height, width = dark.shape
    left, right = round(box[0] * width), round(box[2] * width)
    top, bottom = round(box[1] * height), round(box[3] * height)
    inside = dark[top:bottom, left:right]
    return float(inside.mean()), float(inside.sum() / dark.sum())


def test_pages_give_text_boxes_and_pictures(tmp_path: Path) -> None:
    data = pdf(
        [
            lines("The capital of Peru is Lima.", "It lies at the sea."),
            "",
            lines("The third page is about Chad."),
        ],
        info="/Title(About \\(two\\) countries)/Author(A. Owl)",
    )
    loaded = load(tmp_path / "a.pdf", data)
    assert (loaded.title, loaded.media_type) == ("About (two) countries", "application/pdf")
    assert loaded.metadata == {"pages": 3, "author": "A. Owl"}
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    text = document_text(loaded.sections())
    items = list(split(loaded))
    assert [item.kind for item in items] == ["page"] * 3
    assert [item.text for item in items] == [
        "The capital of Peru is Lima.\nIt lies at the sea.",
        None,
        "The third page is about Chad.",
    ]
    for number, item in enumerate(items, 1):
        assert isinstance(item.location, PageLocation)
        assert item.location.page == number
        assert item.picture is not None
        assert max(item.picture.image.size) == 1_000
        assert item.picture.media_type == "image/webp"
        if item.text is not None:
            assert item.text == text[item.location.start : item.location.end]
            assert len(item.location.boxes) == 1
            for run in item.text_boxes:
                assert text[run.start : run.end] in item.text
    assert items[1].location == PageLocation(2, ())


VIEWS = {
    "plain": "",
    "shifted": "/MediaBox[-100 50 500 850]",
    "cropped": "/CropBox[50 600 450 780]",
    "rotated": "/Rotate 90",
    "upside down": "/Rotate 180",
    "rotated and cropped": "/Rotate 270/CropBox[50 600 450 780]",
}


@pytest.mark.parametrize("view", VIEWS)
def test_boxes_lie_on_the_words_of_the_picture(tmp_path: Path, view: str) -> None:
    content = lines("MMMMMMMM", "WWWWW", leading=40, size=20) + lines("HHHHHH", x=300, size=20)
    data = pdf([content], VIEWS[view])
    (section,) = load(tmp_path / "a.pdf", data).sections()
    found = boxes(section)
    assert set(found) == {"MMMMMMMM", "WWWWW", "HHHHHH"}
    shares = {word: ink_share(section, box) for word, box in found.items()}
    assert sum(share for _, share in shares.values()) > 0.98  # all ink is in a box
    assert all(density > 0.15 for density, _ in shares.values())  # and the boxes are tight
    assert all(share > 0.15 for _, share in shares.values())


def test_what_the_crop_box_hides_is_left_out(tmp_path: Path) -> None:
    content = lines("Shown.", y=700) + lines("Hidden.", y=100)
    (section,) = load(tmp_path / "a.pdf", pdf([content], "/CropBox[0 400 600 800]")).sections()
    assert section.text == "Shown."


def test_paragraphs_columns_and_broken_words(tmp_path: Path) -> None:
    content = (
        lines("A word that is bro-", "ken at the end of a line.")
        + lines("A new paragraph.", y=620)
        + lines("Name", "Peru", y=500)
        + lines("Capital", "Lima", x=300, y=500)
    )
    (section,) = load(tmp_path / "a.pdf", pdf([content])).sections()
    assert section.text.startswith(
        "A word that is broken at the end of a line.\n\nA new paragraph."
    )
    found = boxes(section)
    assert found["A word that is bro"][3] <= found["ken at the end of a line."][1] + 0.01
    assert {"Name", "Capital", "Peru", "Lima"} <= set(found)


def test_a_long_page_becomes_several_items_with_their_own_boxes(tmp_path: Path) -> None:
    sentences = [f"This is sentence number {i} of a rather long page." for i in range(40)]
    loaded = load(tmp_path / "a.pdf", pdf([lines(*sentences, y=760, leading=18)]))
    first, *_, last = split(loaded)
    assert isinstance(first.location, PageLocation)
    assert isinstance(last.location, PageLocation)
    assert first.location.boxes[0][3] <= last.location.boxes[0][1]
    assert first.text is not None
    assert first.text.endswith(".")


def test_unusual_characters(tmp_path: Path) -> None:
    (section,) = load(tmp_path / "a.pdf", pdf([lines("Caf\\351 \\200 5 \\(x\\)")])).sections()
    assert section.text == "Café € 5 (x)"


def test_a_title_that_is_no_text_costs_only_itself(tmp_path: Path) -> None:
    data = pdf([lines("The ferry leaves at seven.")], info="/Title<FEFFD800>/Author(A. Owl)")
    document = load(tmp_path / "ferry.pdf", data)
    assert (document.title, document.metadata["author"]) == ("ferry", "A. Owl")


def test_protected_and_broken_pdfs_are_skipped_with_one_reason(tmp_path: Path) -> None:
    good = pdf([lines("Text")] * 3)
    path = tmp_path / "a.pdf"
    assert "password" in refusal(path, pdf([lines("Text")], password="secret"))
    assert "damaged" in refusal(path, good[:60])
    assert "damaged" in refusal(path, b"%PDF-1.4\nnothing more")
    assert "3 pages" in refusal(path, good, Limits(max_pages=2))
    assert "damaged" in refusal(path, pdf([]))


def test_a_pdf_protected_with_an_empty_password_opens(tmp_path: Path) -> None:
    assert load(tmp_path / "a.pdf", pdf([""], password="")).metadata["pages"] == 1


def test_a_damaged_page_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    data = pdf([lines("One."), lines("Two."), lines("Three.")])
    start = data.index(b"7 0 obj")
    end = data.index(b"endobj", start)
    data = data[:start] + b"7 0 obj null".ljust(end - start) + data[end:]
    (tmp_path / "a.pdf").write_bytes(data)
    skipped, loaded = read(Input("a.pdf", tmp_path / "a.pdf"))
    assert isinstance(skipped, Skipped)
    assert isinstance(loaded, Loaded)
    assert skipped.name == "a.pdf page 2"
    assert [item.text for item in split(loaded)] == ["One.", "Three."]


def test_a_pdf_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    loaded = load(path, pdf([lines(f"Page {i}.") for i in range(5)]))
    sections = loaded.sections()
    next(sections)
    with path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(UnreadableMedia, match="changed"):
        list(sections)


def test_pdfs_are_read_from_several_threads(tmp_path: Path) -> None:
    loaded = [
        load(tmp_path / f"{n}.pdf", pdf([lines(f"File {n} page {i}.") for i in range(6)]))
        for n in range(4)
    ]
    texts: dict[int, list[str | None]] = {}

    def work(n: int) -> None:
        texts[n] = [item.text for item in split(loaded[n])]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {n: [f"File {n} page {i}." for i in range(6)] for n in range(4)}


def test_flipped_bits_and_cuts_give_pages_or_a_reason(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    data = pdf([lines("Some text here.", "And more."), lines("Page two.")])
    path = tmp_path / "a.pdf"
    for _ in range(60):
        mutated = bytearray(data)
        for place in random.integers(8, len(data), 4):
            mutated[place] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(mutated[: int(random.integers(len(data) // 2, len(data)))]))
        for entry in read(Input("a.pdf", path)):
            if isinstance(entry, Skipped):
                assert entry.reason
            else:
                assert all(item.picture is not None for item in split(entry))
