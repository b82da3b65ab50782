"""Plain text, Markdown and HTML."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest

from rag_owl.errors import UnreadableMedia
from rag_owl.indexer.loaders import Input, Loaded, document_text, read
from rag_owl.indexer.split import ItemDraft, split
from rag_owl.media import DEFAULT_LIMITS, Limits
from rag_owl.types import Skipped, TextLocation


def load(path: Path, content: str | bytes, limits: Limits = DEFAULT_LIMITS) -> Loaded:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (loaded,) = read(Input(path.name, path), limits=limits)
    assert isinstance(loaded, Loaded), loaded
    return loaded


def refusal(path: Path, content: bytes, limits: Limits = DEFAULT_LIMITS) -> str:
    path.write_bytes(content)
    (skipped,) = read(Input(path.name, path), limits=limits)
    assert isinstance(skipped, Skipped)
    assert skipped.name == path.name
    assert "\n" not in skipped.reason
    return skipped.reason


def items(loaded: Loaded) -> list[ItemDraft]:
    """The items, after checking that their text is where they say."""
    text = document_text(loaded.sections())
    drafts = list(split(loaded))
    end = 0
    for draft in drafts:
        assert isinstance(draft.location, TextLocation)
        assert draft.text == text[draft.location.start : draft.location.end]
        assert not text[end : draft.location.start].strip()
        end = draft.location.end
    assert not text[end:].strip()
    return drafts


# --- plain text -----------------------------------------------------------------------------------


def test_a_text_is_one_document_with_the_hash_of_its_bytes(tmp_path: Path) -> None:
    content = "The capital of Peru is Lima.\r\nIt lies at the sea."
    loaded = load(tmp_path / "peru_facts.txt", content)
    assert loaded.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert (loaded.title, loaded.media_type) == ("peru facts", "text/plain")
    assert loaded.source == tmp_path / "peru_facts.txt"
    (item,) = items(loaded)
    assert item.text == "The capital of Peru is Lima.\nIt lies at the sea."
    assert (item.kind, item.picture) == ("passage", None)


def test_a_first_line_that_stands_alone_is_the_title(tmp_path: Path) -> None:
    assert load(tmp_path / "a.txt", "Peru\n\nIts capital is Lima.").title == "Peru"
    assert load(tmp_path / "a.txt", "A whole sentence.\n\nAnother.").title == "a"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-8-sig"])
def test_texts_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    text = "Québec est une ville française au Canada.\nElle est très belle."
    assert items(load(tmp_path / "a.txt", text.encode(encoding)))[0].text == text


def test_an_accent_late_in_a_long_file_decides_its_encoding(tmp_path: Path) -> None:
    text = "All of this is plain. " * 100_000 + "Café."
    assert items(load(tmp_path / "a.txt", text.encode("latin-1")))[-1].text.endswith("Café.")


def test_code_is_cut_at_lines(tmp_path: Path) -> None:
    code = "".join(
        f"value_{i} = compute(left.part, right.part)  # note. More\n" for i in range(200)
    )
    drafts = items(load(tmp_path / "a.py", code))
    assert len(drafts) > 5
    assert all(draft.text.endswith("More") for draft in drafts)
    assert all(draft.text.startswith("value_") for draft in drafts)


def test_a_long_text_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    sentence = "Row {} of the long file tells something that nobody has asked for.\r\n"
    path.write_text("".join(sentence.format(i) for i in range(75_000)), newline="")
    assert path.stat().st_size > 5_000_000
    tracemalloc.start()
    (loaded,) = read(Input("long.txt", path))
    assert isinstance(loaded, Loaded)
    count, last = 0, None
    for draft in split(loaded):
        count, last = count + 1, draft
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_500_000
    assert count > 5_000
    assert last is not None
    assert last.text is not None
    assert last.text.endswith(
        "Row 74999 of the long file tells something that nobody has asked for."
    )


def test_sections_of_a_long_text_join_without_a_gap(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {i}. " + "Some words follow here. " * 20 for i in range(1_000))
    loaded = load(tmp_path / "a.txt", text)
    assert len(list(loaded.sections())) > 3
    assert document_text(loaded.sections()) == text
    items(loaded)


def test_bad_files_are_skipped_with_a_reason(tmp_path: Path) -> None:
    assert "empty" in refusal(tmp_path / "a.txt", b"")
    assert "no text" in refusal(tmp_path / "a.txt", b" \n\0\n ")
    assert "binary" in refusal(tmp_path / "a.txt", bytes(range(256)))
    assert "zip archive" in refusal(tmp_path / "a.docx", b"PK\x03\x04xyz")
    assert "the video is damaged" in refusal(tmp_path / "a.mp4", b"\0\0\0\x20ftypisom0000")
    assert "limit" in refusal(tmp_path / "a.txt", b"too long", Limits(max_bytes=7))


def test_a_file_that_disappears_is_skipped(tmp_path: Path) -> None:
    (skipped,) = read(Input("gone.txt", tmp_path / "gone.txt"))
    assert isinstance(skipped, Skipped)
    assert "disappeared" in skipped.reason
    (skipped,) = read(Input("folder.txt", tmp_path))
    assert isinstance(skipped, Skipped)


def test_a_file_that_changes_or_disappears_before_its_text_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    loaded = load(path, "The first version of it.")
    path.write_text("The second version of it, which is longer.")
    with pytest.raises(UnreadableMedia, match="changed"):
        list(split(loaded))
    path.unlink()
    with pytest.raises(UnreadableMedia, match="disappeared"):
        list(split(loaded))


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    loaded = load(path, "A line of it.\n" * 200_000)
    drafts = split(loaded)
    next(drafts)
    with path.open("a") as file:
        file.write("One more line.\n")
    os.utime(path)
    with pytest.raises(UnreadableMedia, match="changed"):
        list(drafts)


# --- Markdown -------------------------------------------------------------------------------------

MARKDOWN = """---
title: "The Andes"
year: 1999
code: 007
draft: false
tags: [mountains, "South America"]
nested:
  - ignored
---

# Andes

## Peaks of *Peru*

The highest is Huascarán. It is 6,768 m high.

```python
# Not a heading
x = 1
```

## Rivers

| River | Length |
|---|---|
{rows}

The end. [link]

[link]: http://example.org

Setext
------
Last words.
"""


def test_markdown_keeps_its_source_and_its_structure(tmp_path: Path) -> None:
    rows = "\n".join(f"| River number {i} | {i * 10} km |" for i in range(60))
    loaded = load(tmp_path / "andes.md", MARKDOWN.format(rows=rows))
    assert loaded.title == "The Andes"
    assert loaded.metadata == {
        "year": 1999,
        "code": "007",
        "draft": False,
        "tags": ["mountains", "South America"],
    }
    drafts = items(loaded)
    first = drafts[0]
    assert first.text.startswith("# Andes\n\n## Peaks of *Peru*\n\nThe highest")
    assert first.text.endswith("```")
    assert first.heading == "Andes > Peaks of Peru"
    table = [draft for draft in drafts if "km |" in draft.text]
    assert len(table) > 1
    assert table[0].heading == "Andes > Rivers"
    assert "| River | Length |" in table[0].text
    for later in table[1:]:
        assert later.heading == "Andes > Rivers\n| River | Length |"
        assert later.text.startswith("| River number")
    assert drafts[-1].heading == "Andes > Setext"
    assert any("[link]: http://example.org" in draft.text for draft in drafts)


def test_markdown_without_front_matter(tmp_path: Path) -> None:
    loaded = load(tmp_path / "a.md", "---\n\nNot front matter\n\n---\n\n# Heading `x`\n\nText.")
    assert loaded.metadata == {}
    assert loaded.title == "Heading x"
    assert items(loaded)[0].text.startswith("---")
    assert "no text" in refusal(tmp_path / "b.md", b"---\ntitle: x\n---\n\n")


def test_front_matter_of_brackets_in_brackets(tmp_path: Path) -> None:
    deep = "[" * 5_000 + "]" * 5_000
    loaded = load(tmp_path / "a.md", f"---\ndeep: {deep}\nflat: [[a], b]\n---\nText.")
    assert loaded.metadata == {"deep": [deep[1:-1]], "flat": ["[a]", "b"]}


def test_markdown_too_large_to_parse_is_read_as_text(tmp_path: Path) -> None:
    loaded = load(tmp_path / "a.md", "# A\n\nText.", Limits(max_markup_bytes=5))
    assert loaded.media_type == "text/plain"


# --- HTML -----------------------------------------------------------------------------------------

HTML = """<!DOCTYPE html><html><head><meta charset="utf-8"><title> Owls &amp; more </title>
<style>p { color: red }</style><script>var hidden = 1;</script></head>
<body><nav><a href="/">Home</a></nav><header><h1>Owls</h1></header>
<!-- a comment -->After a comment.
<p>An <b>owl</b> sees<br>at&nbsp;night.</p><p hidden>not seen</p>
<div style="display: none">nor this</div>
<ul><li>Barn owl<li>Eagle owl<ol><li>Eurasian</li></ol></ul>
<h2>Sizes</h2><table><caption>Lengths</caption><thead><tr><th>Owl<th>cm</tr></thead>{rows}</table>
<pre>
  kept   as
    it is</pre>
<img src="x.png" alt="A picture of an owl"><button>Buy</button>
<article>Inside<footer>By an author</footer></article>
<footer>All rights reserved</footer></body></html>"""


def test_html_is_read_as_a_reader_sees_it(tmp_path: Path) -> None:
    rows = "".join(f"<tr><td>Owl {i}<td><i>{i}</i> cm</tr>" for i in range(100))
    loaded = load(tmp_path / "owls.txt", HTML.replace("{rows}", rows))
    assert (loaded.title, loaded.media_type) == ("Owls & more", "text/html")
    text = document_text(loaded.sections())
    assert text.startswith(
        "Owls\n\nAfter a comment.\n\nAn owl sees\nat night.\n\n"
        "- Barn owl\n- Eagle owl\n1. Eurasian\n\nSizes\n\nLengths\n\nOwl | cm\nOwl 0 | 0 cm\n"
    )
    assert "  kept   as\n    it is" in text
    assert text.endswith("A picture of an owl\n\nInside\n\nBy an author")
    for gone in ("hidden", "color", "Home", "not seen", "nor this", "Buy", "rights", "comment --"):
        assert gone not in text
    drafts = items(loaded)
    assert drafts[0].heading == "Owls"
    table = [draft for draft in drafts if " cm\n" in draft.text]
    assert table[0].text.startswith("Sizes\n\nLengths\n\nOwl | cm\nOwl 0 | 0 cm")
    assert table[0].heading == "Owls > Sizes"
    assert len(table) > 1
    assert {draft.heading for draft in table[1:]} == {"Owls > Sizes\nOwl | cm"}


def test_a_table_for_layout_is_no_table(tmp_path: Path) -> None:
    page = "<table><tr><td><h1>Title</h1><p>One.</p><td><table><tr><td>a<td>b</table></table>"
    loaded = load(tmp_path / "a.html", page)
    assert document_text(loaded.sections()) == "Title\n\nOne.\n\na | b"


def test_html_in_the_encoding_that_it_declares(tmp_path: Path) -> None:
    page = '<html><head><meta charset="shift_jis"><title>首都</title></head><p>首都は東京です。</p>'
    loaded = load(tmp_path / "a.html", page.encode("shift_jis"))
    assert loaded.title == "首都"
    assert document_text(loaded.sections()) == "首都は東京です。"
    latin = '<html><meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>“é”'
    loaded = load(tmp_path / "a.html", latin.encode("cp1252"))
    assert document_text(loaded.sections()) == "“é”"


def test_html_without_text_or_nested_very_deep(tmp_path: Path) -> None:
    assert "no readable text" in refusal(tmp_path / "a.html", b"<html><script>x()</script></html>")
    deep = "<div>" * 1_500 + "bottom" + "</div>" * 1_500
    assert document_text(load(tmp_path / "b.html", deep).sections()) == "bottom"
    assert "deep" in refusal(tmp_path / "c.html", b"<p>top<div>" * 20_000 + b"bottom")


def test_markup_in_texts_stays_text(tmp_path: Path) -> None:
    loaded = load(tmp_path / "a.html", "<p>&lt;script&gt; and <|image|> and [3]</p>")
    assert document_text(loaded.sections()).startswith(
        "<script> and <|image|>"
    ) or "<|image|>" not in (document_text(loaded.sections()))
    assert "[3]" in document_text(loaded.sections())
