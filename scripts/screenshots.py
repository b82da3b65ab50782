"""Make the README's pictures of the page: `python scripts/screenshots.py [FOLDER]`.

They are taken of the real service over the sample, and of a PDF and a film written here, in
Chromium, and reduced to a palette so that the repository stays small.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rag_owl import RagOwl  # noqa: E402
from rag_owl.sample import write_sample  # noqa: E402
from tests.browser import ask, open_browser, serve  # noqa: E402
from tests.films import write_film  # noqa: E402
from tests.indexer.test_loaders_pdf import lines, pdf  # noqa: E402

expect.set_options(timeout=60_000)

WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
LIGHTHOUSE = (
    "The lighthouse of Marrow Point was built in 1887 and has 199 steps.",
    "Its lamp is seen from 21 sea miles away. A pair of barn owls",
    "has nested below the gallery since 1994.",
)


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_sample(folder / "sample")
        with (
            serve(folder / "data", lambda owl: fill(owl, folder)) as site,
            open_browser() as browser,
        ):
            picture = folder / "sample" / "japan.png"
            answer(target / "answer.png", browser, site, picture)
            changed(target / "changed-dark.png", browser, site)
            phone(target / "phone.png", browser, site, picture)
            page_of_a_pdf(target / "page.png", browser, site)


def fill(owl: RagOwl, folder: Path) -> None:
    owl.ingest("flags", [folder / "sample"])
    notes = folder / "notes"
    notes.mkdir()
    heading = lines("Lighthouses of the north coast", size=22, y=720)
    text = lines(*LIGHTHOUSE, y=680, leading=20, size=14)
    (notes / "lighthouses.pdf").write_bytes(pdf([heading + text]))
    words = "The kestrel hovers above the meadow of Elmstead."
    write_film(notes / "kestrel.mp4", 6, cues=[(2, 5, words)])
    owl.ingest("field-notes", [notes])


def answer(target: Path, browser: Browser, site: str, picture: Path) -> None:
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    begin(page, f"{site}/#/ask/flags")
    page.locator("#attach-input").set_input_files(picture)
    ask(page, "What is the capital of this country?")
    ask(page, "And its currency?")
    page.locator(".marker").last.click()
    shown(page)
    save(target, page)
    context.close()


def changed(target: Path, browser: Browser, site: str) -> None:
    context = browser.new_context(viewport=WIDE, color_scheme="dark")
    page = context.new_page()
    begin(page, f"{site}/#/ask/flags")
    ask(page, "Which country has a maple leaf on its flag?")
    cited = page.locator(".card.is-cited").first
    cited.locator(".use input").click()
    page.locator(".evidence-foot button").click()
    expect(page.locator(".changes")).to_be_visible()
    shown(page)
    save(target, page)
    context.close()


def phone(target: Path, browser: Browser, site: str, picture: Path) -> None:
    context = browser.new_context(viewport=PHONE, device_scale_factor=2)
    page = context.new_page()
    begin(page, f"{site}/#/ask/flags")
    page.locator("#attach-input").set_input_files(picture)
    ask(page, "Which languages are spoken in this country?")
    shown(page)
    save(target, page)
    context.close()


def page_of_a_pdf(target: Path, browser: Browser, site: str) -> None:
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    begin(page, f"{site}/#/ask/field-notes")
    ask(page, "How many steps does the lighthouse of Marrow Point have?")
    page.locator(".marker").first.click()
    shown(page)
    save(target, page)
    context.close()


def begin(page: Page, address: str) -> None:
    page.set_default_timeout(60_000)
    page.goto(address)
    expect(page.locator(".welcome h2")).to_be_visible()


def shown(page: Page) -> None:
    page.wait_for_function("() => [...document.images].every((each) => each.complete)")
    page.evaluate("() => document.activeElement.blur()")
    page.wait_for_timeout(300)


def save(target: Path, page: Page) -> None:
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    reduced = picture.quantize(128, dither=Image.Dither.NONE)
    reduced.save(target, optimize=True)
    print(f"{target} {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures")
