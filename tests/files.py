"""Files made on the fly: sound ones, and ones that cost more than they look."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image


def noise_jpeg(width: int, height: int, sigma: int = 60) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), sigma).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def wide_png(width: int, height: int) -> bytes:
    """Black, RGBA: a thousandth of its pixels in bytes."""
    packer = zlib.compressobj(6)
    row = bytes(1 + 4 * width)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    )


def pdf_of(*texts: str) -> bytes:
    """One page for each text."""
    return _pdf([f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode() for text in texts], [])


def endless_pdf(before: Sequence[str] = (), levels: int = 12) -> bytes:
    """After the texts' pages one that draws a form ten times, which draws another ten times, …"""
    pages = [f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode() for text in before]
    forms = [b"0 0 9 9 re f"] + [b"/X Do " * 10 for _ in range(levels)]
    return _pdf([*pages, b"/X Do"], forms)


def _pdf(pages: Sequence[bytes], forms: Sequence[bytes]) -> bytes:
    """`forms`: each may draw the one before it as /X; the last one is /X of the pages."""
    first_page = 4 + len(forms)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>"
        % (b" ".join(b"%d 0 R" % (first_page + 2 * at) for at in range(len(pages))), len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, form in enumerate(forms):
        resources = b"/Resources << /XObject << /X %d 0 R >> >> " % (3 + at) if at else b""
        objects.append(
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] %s/Length %d >>\n"
            b"stream\n%s\nendstream" % (resources, len(form), form)
        )
    drawn = b"/XObject << /X %d 0 R >> " % (3 + len(forms)) if forms else b""
    for at, content in enumerate(pages):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> %s>> >>" % (first_page + 2 * at + 1, drawn)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
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
