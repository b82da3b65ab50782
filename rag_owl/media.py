"""Bytes to what they hold: the media type by content, text, upright pictures, all within limits.

Nothing here opens a file or knows of documents; `rag_owl.indexer.loaders` does.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from rag_owl.errors import UnreadableMedia

if TYPE_CHECKING:
    from PIL.Image import Image

SNIFF_BYTES = 65_536  # how much of a file `sniff` wants to see


@dataclass(frozen=True, slots=True)
class Limits:
    """What one input may cost. Beyond it is `UnreadableMedia`, said before memory is spent."""

    max_pixels: int = 100_000_000  # of one picture, width x height
    max_pages: int = 5_000  # of one PDF
    max_bytes: int = 8 * 2**30  # of one file
    max_video_seconds: int = 6 * 3_600  # of one video
    max_frame_pixels: int = 40_000_000  # of one frame of a video; 8K has 33 million
    max_archive_members: int = 100_000
    max_archive_bytes: int = 64 * 2**30  # unpacked, of one archive
    max_archive_ratio: int = 200  # unpacked to packed bytes, once that is more than a little
    video_decoder: Literal["auto", "decord", "pyav"] = "auto"
    video_every: float = 1.0  # seconds from one look at a film to the next
    max_picture_bytes: int = 512 * 2**20  # encoded
    max_row_bytes: int = 32 * 2**20  # one line of a JSONL file, one record of a CSV file
    max_markup_bytes: int = 64 * 2**20  # HTML and Markdown are parsed as a whole


DEFAULT_LIMITS = Limits()


# --- what is it? --------------------------------------------------------------------------------

PICTURE_FORMATS = {  # media type -> Pillow's name of the one decoder that may read it
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
}
VIDEO_FORMATS = {  # media type -> FFmpeg's name of the one demuxer that may read it
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "matroska",
    "video/x-msvideo": "avi",
    "video/mpeg": "mpeg",
    "video/mp2t": "mpegts",
    "video/x-flv": "flv",
    "video/ogg": "ogg",
    "video/x-ms-asf": "asf",
}
TEXT_TYPES_BY_SUFFIX = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".csv": "text/csv",
    ".tsv": "text/csv",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
}
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"\0\0\1\xba", "video/mpeg"),
    (b"FLV\1", "video/x-flv"),
    (b"0&\xb2u\x8ef\xcf\x11", "video/x-ms-asf"),
    (b"ID3", "audio/mpeg"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
)
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_HTML_START = re.compile(
    r"\s*(<!--.*?-->\s*|<\?xml.*?\?>\s*)*<(!doctype\s+html|html[\s>])", re.I | re.S
)
_SVG_START = re.compile(
    r"\s*(<!--.*?-->\s*|<\?xml.*?\?>\s*|<!doctype\s+svg.*?>\s*)*<svg[\s>]", re.I | re.S
)


def sniff(head: bytes, name: str) -> str:
    """The media type of a file that starts with `head` (its first `SNIFF_BYTES` bytes).

    The content decides. `name` only breaks ties between formats that are all plain text: Markdown,
    HTML fragments, CSV, JSON lines. Not text and not known: "application/octet-stream"; nothing
    at all: "application/x-empty".
    """
    if not head:
        return "application/x-empty"
    for magic, media_type in _MAGIC:
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:4] == b"RIFF":
        return "video/x-msvideo" if head[8:12] == b"AVI " else "audio/x-wav"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "image/bmp"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
            return "image/heic"
        if brand in (b"avif", b"avis"):
            return "image/avif"
        if brand in (b"M4A ", b"M4B ", b"M4P "):
            return "audio/mp4"
        return "video/quicktime" if brand == b"qt  " else "video/mp4"
    if head[4:8] in (b"moov", b"mdat", b"wide") and head[:3] < b"\0\0\x10":
        return "video/quicktime"  # before there was an ftyp
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head.startswith(b"OggS"):
        video = b"\x80theora" in head[:4096] or b"OVP80" in head[:4096]
        return "video/ogg" if video else "application/ogg"
    if len(head) > 3 * 188 and {head[0], head[188], head[376], head[564]} == {0x47}:
        return "video/mp2t"
    if b"%PDF-" in head[:1024]:
        return "application/pdf"
    if head[257:262] == b"ustar":
        return "application/x-tar"
    try:
        start = decode_head(head)
    except UnreadableMedia:
        return "application/octet-stream"
    return _text_type(start, PurePosixPath(name).suffix.lower())


def _text_type(start: str, suffix: str) -> str:
    if _HTML_START.match(start):
        return "text/html"
    if _SVG_START.match(start):
        return "image/svg+xml"
    if suffix in TEXT_TYPES_BY_SUFFIX:
        return TEXT_TYPES_BY_SUFFIX[suffix]
    if not suffix and _is_json_object(start.lstrip().partition("\n")[0]):
        return "application/jsonl"
    return "text/plain"


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


# --- text ---------------------------------------------------------------------------------------

_NOT_TEXT = "it is binary data, not text: give text in UTF-8, a picture, or a PDF"
_BOMS = (  # UTF-32 first: its little-endian mark starts with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ASCII = bytes(range(128))
_PRINTABLE_ASCII = bytes([*range(0x20, 0x7F), 0x09, 0x0A, 0x0D])
_CONTROLS = bytes(sorted({*range(0x20), 0x7F} - {0x00, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1B}))
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def detect_encoding(blocks: Iterable[bytes]) -> str:
    """The codec that reads `blocks` (one file in pieces), to be used with `errors="replace"`.

    A byte-order mark decides; then UTF-16 without one, by where its zero bytes stand; then UTF-8,
    also with a few damaged bytes; what is none of these but still text is Windows-1252, which
    holds all letters of Latin-1. Raises `UnreadableMedia` on binary data.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    total = high = damaged = controls = nuls = 0
    for block in blocks:
        if not total:
            for mark, encoding in _BOMS:
                if block.startswith(mark):
                    return encoding
            if wide := _utf16_without_mark(block[:SNIFF_BYTES]):
                return wide
        total += len(block)
        high += len(block) - _count(block, _ASCII)
        controls += _count(block, _CONTROLS)
        nuls += block.count(0)
        damaged += decoder.decode(block).count("\ufffd") - block.count(b"\xef\xbf\xbd")
    if controls * 50 > total - nuls:  # more than 2 %
        raise UnreadableMedia(_NOT_TEXT)
    if damaged * 8 <= high:  # UTF-8; in single-byte text nearly every high byte is "damaged"
        return "utf-8"
    if nuls * 20 > total:
        raise UnreadableMedia(_NOT_TEXT)
    return "cp1252"


def _count(block: bytes, members: bytes) -> int:
    return len(block) - len(block.translate(None, members))


def _utf16_without_mark(sample: bytes) -> str | None:
    sample = sample[: len(sample) // 2 * 2]
    zeros = {"utf-16-be": sample[0::2].count(0), "utf-16-le": sample[1::2].count(0)}
    encoding = max(zeros, key=lambda name: zeros[name])
    if not zeros[encoding] or min(zeros.values()) * 20 > zeros[encoding]:
        return None
    # Latin scripts: about every second byte is zero. Others have zeros only at spaces, line ends
    # and the like, but then far fewer printable ASCII bytes than any single-byte text.
    printable = _count(sample, _PRINTABLE_ASCII) / len(sample)
    if zeros[encoding] < 0.3 * len(sample) and printable > 0.7:
        return None
    try:
        text = codecs.getincrementaldecoder(encoding)("strict").decode(sample)
    except UnicodeDecodeError:
        return None
    odd = sum(unicodedata.category(c) in ("Cn", "Co", "Cc") and c not in "\t\n\r\f\0" for c in text)
    return encoding if odd * 50 <= len(text) else None


def decode_text(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32 (with or without mark), Latin-1 or Windows-1252.

    Line ends become "\\n", NUL a space, lone surrogates and damaged bytes U+FFFD; every other
    character stays. Raises `UnreadableMedia` on binary data.
    """
    encoding = detect_encoding([data])
    return clean_text(text_decoder(encoding).decode(data, final=True))


def decode_head(head: bytes) -> str:
    """As `decode_text`, of the start of a file: a character cut at its end is left out."""
    return clean_text(text_decoder(detect_encoding([head])).decode(head))


def text_decoder(encoding: str) -> io.IncrementalNewlineDecoder:
    """Blocks of bytes to text with line ends "\\n", also where a block ends inside one."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    return io.IncrementalNewlineDecoder(decoder, translate=True)


def clean_text(text: str) -> str:
    """`text` as any database can store it: no NUL (a space), no lone surrogates (U+FFFD)."""
    if "\0" in text:
        text = text.replace("\0", " ")
    return text if text.isascii() else _LONE_SURROGATES.sub("\ufffd", text)


# --- pictures -----------------------------------------------------------------------------------


def decode_picture(
    data: bytes,
    limits: Limits = DEFAULT_LIMITS,
    max_side: int | None = None,
) -> Image:
    """An upright RGB picture: EXIF orientation applied, transparency over white, first frame.

    The dimensions in the header are checked before anything is decoded. With `max_side`, pixels,
    the longer side comes out no longer than that. Raises `UnreadableMedia` with the reason.
    """
    from PIL import Image as pillow  # noqa: N813
    from PIL import ImageOps

    media_type = sniff(data[:SNIFF_BYTES], "")
    if media_type not in PICTURE_FORMATS:
        raise UnreadableMedia(
            f"it is {describe(media_type)}, not a picture: give JPEG, PNG, WebP, GIF, BMP or TIFF"
        )
    if len(data) > limits.max_picture_bytes:
        raise UnreadableMedia(
            f"the picture has {len(data):,} bytes, more than the limit of "
            f"{limits.max_picture_bytes:,}: make it smaller"
        )
    pillow.init()
    try:
        # Not pillow.open(): it guesses among all formats, and its own size limit is one warning
        # for the whole process. The decoder that the content calls for is opened, nothing else.
        picture: Any = pillow.OPEN[PICTURE_FORMATS[media_type]][0](io.BytesIO(data), "")
        width, height = picture.size
    except Exception as error:  # a decoder of hostile bytes raises whatever it likes
        raise UnreadableMedia(_damaged(media_type, error)) from error
    if width * height > limits.max_pixels:
        raise UnreadableMedia(
            f"the picture says it is {width:,} x {height:,} pixels, more than the limit of "
            f"{limits.max_pixels:,}: scale it down"
        )
    try:
        if max_side:  # JPEG alone can skip detail while decoding: up to 8 times faster
            picture.draft(None, (2 * max_side, 2 * max_side))
        picture.load()
        if max_side and picture.mode in ("RGB", "RGBA", "L", "LA", "CMYK"):
            picture.thumbnail((max_side, max_side), pillow.Resampling.LANCZOS)
        picture = _upright(picture, ImageOps.exif_transpose)
        rgb = _to_rgb(picture)
        if max_side:
            rgb.thumbnail((max_side, max_side), pillow.Resampling.LANCZOS)
    except Exception as error:
        raise UnreadableMedia(_damaged(media_type, error)) from error
    return rgb


def _damaged(media_type: str, error: Exception) -> str:
    what = PICTURE_FORMATS[media_type]
    if isinstance(error, MemoryError):
        return f"decoding the {what} picture takes more memory than there is: scale it down"
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return f"the {what} picture is cut off before its end: get the whole file again"
    return f"the {what} picture is damaged and cannot be decoded: save it again"


def _upright(picture: Any, transpose: Any) -> Any:
    try:
        return transpose(picture)
    except Exception:  # damaged EXIF says nothing about the pixels, which are whole
        return picture


def _to_rgb(picture: Any) -> Image:
    import numpy as np
    from PIL import Image as pillow  # noqa: N813

    if picture.mode.startswith("I") or picture.mode == "F":  # more than 8 bits: Pillow would clip
        levels = np.nan_to_num(np.asarray(picture, dtype=np.float32))
        if picture.mode == "F":
            low, high = float(levels.min()), float(levels.max())
        else:
            low, high = 0.0, 65_535.0 if levels.max() < 65_536 else float(levels.max())
        scaled = (levels - low) / max(high - low, 1e-12) * 255
        return pillow.fromarray(scaled.clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        below = pillow.new("RGBA", above.size, (255, 255, 255, 255))
        return pillow.alpha_composite(below, above).convert("RGB")
    # convert() hands back the very object when it is RGB already: the copy drops the file handle
    rgb: Image = picture.copy() if picture.mode == "RGB" else picture.convert("RGB")
    return rgb


_DESCRIPTIONS = {
    "application/x-empty": "empty",
    "application/octet-stream": "binary data of an unknown kind",
    "application/pdf": "a PDF",
    "application/zip": "a zip archive or an office document",
    "application/x-tar": "a tar archive",
    "application/x-ole-storage": "an old office document",
    "image/svg+xml": "an SVG drawing",
    "image/heic": "a HEIC picture",
    "image/avif": "an AVIF picture",
}


def describe(media_type: str) -> str:
    """A media type in words, to be put after "it is"."""
    kind, _, rest = media_type.partition("/")
    if media_type in _DESCRIPTIONS:
        return _DESCRIPTIONS[media_type]
    if kind in ("video", "audio"):
        return "a video" if kind == "video" else "a sound recording"
    return "text" if kind == "text" else f"{rest.removeprefix('x-').removeprefix('vnd.')} data"
