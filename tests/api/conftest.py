"""A service with every kind of evidence and a browser, for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from rag_owl import RagOwl
from rag_owl.sample import write_sample
from tests.browser import PATIENCE, SCRIPT, Watched, open_browser, serve
from tests.films import write_film
from tests.indexer.test_loaders_pdf import lines, pdf

expect.set_options(timeout=PATIENCE)

COUNTRIES = ("japan", "switzerland", "kenya", "thailand")
NOTES = (
    "# 🦉 Field notes 🦉\n\nThe 🦉 was seen at dusk. The barn owl of Greyfield weighs 430 grams. "
    "Its nest is in the old barn.\n"
)
HOSTILE = f"{SCRIPT}\n\nThe motto of the griffin is <script>document.title='owned'</script> [1].\n"
WIDE = {"width": 1280, "height": 800}


# No longer than a module: while it runs, there is an event loop in the main thread, and tests of
# others that begin one would fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_sample(folder / "all")
    for country in COUNTRIES:
        for kind in ("png", "txt"):
            (folder / "all" / f"{country}.{kind}").rename(folder / f"{country}.{kind}")
    for left in (folder / "all").iterdir():
        left.unlink()
    (folder / "all").rmdir()
    (folder / "notes.md").write_text(NOTES, "utf-8")
    (folder / "<b>griffin<b>.md").write_text(HOSTILE, "utf-8")
    page = lines("The atlas of birds.", "The lighthouse of Marrow Point has 199 steps.")
    (folder / "atlas.pdf").write_bytes(pdf([lines("Contents"), page]))
    words = "The kestrel hovers above the meadow of Elmstead."
    write_film(folder / "film.mp4", 6, cues=[(2, 5, words)])
    return folder


@pytest.fixture(scope="session")
def site(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    def fill(owl: RagOwl) -> None:
        job = owl.ingest("birds", [files])
        assert (job.added, job.skipped) == (8, [])

    with serve(tmp_path_factory.mktemp("data"), fill) as address:
        yield address


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport=WIDE)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, site: str) -> Iterator[Page]:
    watched = Watched(context.new_page())
    watched.page.goto(site)
    expect(watched.page.get_by_role("heading", name="Ask birds")).to_be_visible()
    yield watched.page
    assert watched.wrong == []
