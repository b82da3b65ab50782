"""Files of every kind that is read, made from a seed; each text holds a word of its own."""

from __future__ import annotations

import ctypes
import io
import json
import random
import zipfile
from pathlib import Path

from PIL import Image

from rag_owl.sample.facts import COUNTRIES
from rag_owl.sample.flags import FLAGS
from rag_owl.sample.text import describe

LIGHT = {"text_embedder": "hashing", "picture_embedder": "descriptor"}
PICTURES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF", "bmp": "BMP"}

_KINDS = ("txt", "md", "html", "jsonl", "csv", "pdf", "pair", "zip", *PICTURES, "mp4")


def picture(kind: str, chance: random.Random, width: int = 240) -> bytes:
    """A flag of the sample, squeezed and with an own corner, so that no two are alike."""
    flag = FLAGS[chance.choice(COUNTRIES).stem].render()
    image = flag.resize((width, max(1, width * flag.height // flag.width * 9 // 10)))
    image.paste(tuple(chance.randrange(256) for _ in range(3)), (0, 0, 9, 9))
    file = io.BytesIO()
    options = {"compression": "tiff_lzw"} if kind == "tif" else {}
    image.save(file, PICTURES[kind], **options)
    return file.getvalue()


def pdf(pages: list[str], images: list[bytes]) -> bytes:
    """One page for each text and picture (JPEG, PNG)."""
    import pypdfium2 as pdfium
    import pypdfium2.raw as raw

    document = pdfium.PdfDocument.new()
    font = raw.FPDFText_LoadStandardFont(document, b"Helvetica")
    for text, data in zip(pages, images, strict=True):
        page = document.new_page(595, 842)
        height = 800.0
        for start in range(0, len(text), 80):
            line = raw.FPDFPageObj_CreateTextObj(document, font, 12.0)
            encoded = (text[start : start + 80] + "\0").encode("utf-16-le")
            buffer = ctypes.create_string_buffer(encoded, len(encoded))
            raw.FPDFText_SetText(line, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)))
            raw.FPDFPageObj_Transform(line, 1, 0, 0, 1, 40, height)
            raw.FPDFPage_InsertObject(page, line)
            height -= 15
        shown = pdfium.PdfImage.new(document)
        bitmap = pdfium.PdfBitmap.from_pil(Image.open(io.BytesIO(data)).convert("RGB"))
        shown.set_bitmap(bitmap)
        shown.set_matrix(pdfium.PdfMatrix().scale(200, 130).translate(40, 100))
        page.insert_obj(shown)
        page.gen_content()
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def film(chance: random.Random, seconds: int = 3) -> bytes:
    """MP4, H.264: a flag that moves, and a comment of its own, so that no two are alike."""
    import av

    flag = FLAGS[chance.choice(COUNTRIES).stem].render().resize((96, 64))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = f"{chance.getrandbits(64):016x}"
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for at in range(5 * seconds):
            canvas = Image.new("RGB", (160, 96), (at * 9 % 256, 90, 60))
            canvas.paste(flag, (at * 3 % 64, at % 32))
            container.mux(stream.encode(av.VideoFrame.from_image(canvas)))
        container.mux(stream.encode())
    return file.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return file.getvalue()


def text(word: str, chance: random.Random, sentences: int = 5) -> str:
    country = describe(chance.choice(COUNTRIES))
    body = [country.text[start:end] for start, end in list(country.sentences.values())[:sentences]]
    return f"The word here is {word}. " + " ".join(body)


def mixed(folder: Path, count: int, chance: random.Random, prefix: str) -> dict[str, str]:
    """`count` files of all kinds; the words that are to be found -> their document's name."""
    folder.mkdir(parents=True, exist_ok=True)
    words: dict[str, str] = {}

    def word(name: str) -> str:
        new = f"{prefix}x{len(words)}q"
        words[new] = name
        return new

    for at in range(count):
        kind = _KINDS[at % len(_KINDS)]
        stem = f"{prefix}-{at:05}"
        name = f"{stem}.{kind}"
        if kind in PICTURES:
            (folder / name).write_bytes(picture(kind, chance))
        elif kind == "mp4":
            (folder / name).write_bytes(film(chance, 2))
        elif kind == "pair":
            (folder / f"{stem}.png").write_bytes(picture("png", chance))
            (folder / f"{stem}.txt").write_text(text(word(f"{stem}.png"), chance))
        elif kind == "jsonl":
            rows = [{"text": text(word(f"{name}#{n}"), chance, 1)} for n in range(1, 41)]
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "csv":
            rows = [text(word(f"{name}#{n}"), chance, 1).replace('"', "") for n in range(1, 21)]
            (folder / name).write_text("text\n" + "".join(f'"{row}"\n' for row in rows))
        elif kind == "pdf":
            pages = [text(word(name), chance) for _ in range(4)]
            (folder / name).write_bytes(pdf(pages, [picture("jpg", chance) for _ in pages]))
        elif kind == "zip":
            members = {"a.png": picture("png", chance)}
            for member in ("b.txt", "c/d.txt"):
                members[member] = text(word(f"{name}/{member}"), chance).encode()
            (folder / name).write_bytes(archive(members))
        elif kind == "html":
            body = text(word(name), chance)
            (folder / name).write_text(f"<title>Page {at}</title><h1>{at}</h1><p>{body}</p>")
        else:
            paragraphs = [text(word(name), chance) for _ in range(8)]
            (folder / name).write_text("\n\n".join(paragraphs))
    return words
