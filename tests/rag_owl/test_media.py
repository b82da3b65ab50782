"""Sniffing, decoding and limits."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rag_owl.errors import UnreadableMedia
from rag_owl.media import PICTURE_FORMATS, Limits, decode_picture, decode_text, sniff

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(mode: str = "RGB") -> Image.Image:
    """40 x 20: red, green above; blue, white below."""
    image = Image.new("RGB", (40, 20), "white")
    image.paste(RED, (0, 0, 20, 10))
    image.paste(GREEN, (20, 0, 40, 10))
    image.paste(BLUE, (0, 10, 20, 20))
    return image.convert(mode)


def near(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(image.getpixel(at), colour)).max() < 40)


# --- sniff -------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", PICTURE_FORMATS)
def test_pictures_are_told_from_content_whatever_their_name(media_type: str) -> None:
    data = encoded(quarters(), PICTURE_FORMATS[media_type])
    assert sniff(data, "letter.txt") == media_type


@pytest.mark.parametrize(
    ("head", "name", "media_type"),
    [
        (b"", "a.txt", "application/x-empty"),
        (b"%PDF-1.7\n", "a.txt", "application/pdf"),
        (b"\n\n%PDF-1.4\n", "a", "application/pdf"),
        (b"PK\x03\x04rest", "a.docx", "application/zip"),
        (b"\0\0\0\x20ftypheic", "a.jpg", "image/heic"),
        (b"\0\0\0\x20ftypisom", "a.mp4", "video/mp4"),
        (bytes(range(256)) * 4, "a.txt", "application/octet-stream"),
        (b"Hello", "a.txt", "text/plain"),
        (b"Hello", "a.png", "text/plain"),
        (b"# Hello", "a.MD", "text/markdown"),
        (b"<p>Hello", "a.htm", "text/html"),
        (b"  <!DOCTYPE html><p>x", "a.txt", "text/html"),
        ("<!doctype html>".encode("utf-16"), "a", "text/html"),
        (b"<?xml version='1.0'?><svg xmlns=''>", "a.svg", "image/svg+xml"),
        (b"a,b\n1,2\n", "a.csv", "text/csv"),
        (b"a,b\n1,2\n", "a.txt", "text/plain"),
        (b'{"text": 1}\n{}', "rows", "application/jsonl"),
        (b'{"text": 1}\n{}', "rows.jsonl", "application/jsonl"),
        (b'{\n "text": 1}', "a.json", "text/plain"),
        (b"BM is how this sentence starts, and it is text.", "a.txt", "text/plain"),
    ],
)
def test_kinds_are_told_from_content_and_names_break_ties(
    head: bytes, name: str, media_type: str
) -> None:
    assert sniff(head, name) == media_type


def test_a_head_that_ends_inside_a_character_is_text_still() -> None:
    assert sniff("日本語".encode()[:-1], "a.txt") == "text/plain"


# --- text --------------------------------------------------------------------------------------

GERMAN = "Größe und Köln: „schön“ – 5 €.\nZweite Zeile."
CHINESE = "中国的首都是北京。\n日本の首都は東京です。" * 20
RUSSIAN = "Столица России — Москва. Она стоит на реке." * 5


@pytest.mark.parametrize("text", [GERMAN, CHINESE, RUSSIAN, "plain ASCII text"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_unicode_texts_are_read_with_and_without_their_mark(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


def test_single_byte_texts_are_windows_1252_and_so_latin_1() -> None:
    assert decode_text("Größe, café, naïve".encode("latin-1")) == "Größe, café, naïve"
    assert decode_text("“quoted” – 5 €".encode("cp1252")) == "“quoted” – 5 €"


def test_a_few_damaged_bytes_do_not_turn_utf8_into_another_encoding() -> None:
    data = CHINESE.encode()
    damaged = decode_text(data[:9] + b"\xff" + data[10:])
    assert "\ufffd" in damaged
    assert damaged.endswith("日本の首都は東京です。")


def test_nul_characters_become_spaces() -> None:
    assert (
        decode_text(b"Hello\0World\0\0end of a longer text") == "Hello World  end of a longer text"
    )
    assert decode_text(b"caf\xe9\0au lait, s'il vous pla\xeet") == "café au lait, s'il vous plaît"
    assert decode_text(b"the text" + b"\0" * 500).strip() == "the text"


def test_line_ends_become_one_kind() -> None:
    assert decode_text(b"a\r\nb\rc\nd\r\r\n") == "a\nb\nc\nd\n\n"


def test_lone_surrogates_become_the_replacement_character() -> None:
    data = b"\xff\xfe" + "a".encode("utf-16-le") + b"\x00\xd8" + "b".encode("utf-16-le")
    text = decode_text(data)
    assert (text[0], text[-1]) == ("a", "b")
    text.encode()


def test_binary_data_is_not_text() -> None:
    with pytest.raises(UnreadableMedia, match="binary"):
        decode_text(np.random.default_rng(0).bytes(4_000))


@given(st.binary(max_size=400))
def test_any_bytes_give_storable_text_or_a_reason(data: bytes) -> None:
    try:
        text = decode_text(data)
    except UnreadableMedia:
        return
    assert "\0" not in text
    assert "\r" not in text
    text.encode()


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1))
def test_utf8_comes_back_as_it_was(text: str) -> None:
    if not text.startswith("\ufeff"):
        assert decode_text(text.encode()) == text


# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PICTURE_FORMATS.values())
def test_every_format_is_decoded_to_rgb(kind: str) -> None:
    image = decode_picture(encoded(quarters(), kind))
    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert near(image, (5, 4), RED)
    assert near(image, (34, 4), GREEN)
    assert near(image, (5, 16), BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters()
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_picture(encoded(stored, kind, exif=exif), max_side=1024)
    assert image.size == (40, 20)
    assert near(image, (5, 4), RED)
    assert near(image, (34, 4), GREEN)
    assert near(image, (5, 16), BLUE)


def test_transparency_lies_over_white() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    decoded = decode_picture(encoded(image, "PNG"))
    assert decoded.getpixel((0, 0)) == RED
    assert decoded.getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 0])
    assert decode_picture(encoded(palette, "PNG", transparency=1)).getpixel((0, 0)) == (255,) * 3


def test_sixteen_bits_keep_their_shades() -> None:
    levels = np.array([[0, 32_768, 65_535]], dtype=np.uint16)
    decoded = decode_picture(encoded(Image.fromarray(levels), "PNG"))
    assert [decoded.getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_shows_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert near(decode_picture(data), (4, 4), RED)


def test_max_side_bounds_the_longer_side_and_keeps_the_shape() -> None:
    wide = quarters().resize((3_000, 1_500))
    for kind in ("JPEG", "PNG"):
        assert decode_picture(encoded(wide, kind), max_side=1024).size == (1024, 512)
    assert decode_picture(encoded(quarters(), "PNG"), max_side=1024).size == (40, 20)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 1_000))
        + chunk(b"IEND", b"")
    )


def test_dimensions_are_refused_before_anything_is_decoded() -> None:
    with pytest.raises(UnreadableMedia, match=r"60,000 x 60,000 .* limit of 100,000,000"):
        decode_picture(png_header(60_000, 60_000))
    with pytest.raises(UnreadableMedia, match="40 x 20"):
        decode_picture(encoded(quarters(), "PNG"), Limits(max_pixels=799))
    with pytest.raises(UnreadableMedia, match="bytes"):
        decode_picture(encoded(quarters(), "PNG"), Limits(max_picture_bytes=10))


def test_a_large_picture_within_the_limit_raises_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_picture(encoded(Image.new("1", (9_500, 9_500)), "PNG"), max_side=64)


@pytest.mark.parametrize("kind", PICTURE_FORMATS.values())
def test_a_truncated_picture_is_unreadable(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(UnreadableMedia, match=r"cut off|damaged"):
        decode_picture(data[: len(data) // 2])


def test_what_is_no_picture_says_what_it_is() -> None:
    with pytest.raises(UnreadableMedia, match="it is text, not a picture"):
        decode_picture(b"Hello")
    with pytest.raises(UnreadableMedia, match="it is a PDF"):
        decode_picture(b"%PDF-1.7")
    with pytest.raises(UnreadableMedia, match="it is empty"):
        decode_picture(b"")


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's, of damaged TIFF tags
@pytest.mark.parametrize("kind", PICTURE_FORMATS.values())
def test_flipped_bits_give_a_picture_or_a_reason(kind: str) -> None:
    random = np.random.default_rng(2)
    data = encoded(quarters(), kind)
    for _ in range(60):
        mutated = bytearray(data)
        for place in random.integers(0, len(data), 3):
            mutated[place] ^= 1 << int(random.integers(8))
        try:
            image = decode_picture(bytes(mutated), Limits(max_pixels=10**6))
        except UnreadableMedia:
            continue
        assert image.mode == "RGB"
