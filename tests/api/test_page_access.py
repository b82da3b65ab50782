"""The page for everybody: by keyboard, at phone width, in the dark, and by axe's rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import Watched, ask

PHONE = {"width": 360, "height": 740}
QUESTION = "What is the capital of Thailand?"


def asked(page: Page) -> None:
    ask(page, QUESTION)
    page.locator(".marker").first.click()
    expect(page.locator("mark.chosen")).to_be_visible()


def options(page: Page) -> None:
    page.get_by_role("button", name="Options").click()
    page.get_by_role("button", name="Filter by metadata").click()


def collection(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/collections/birds")
    expect(page.locator("tbody tr").first).to_be_visible()


def sure(page: Page) -> None:
    collection(page)
    page.get_by_role("button", name="Delete this collection").click()
    expect(page.get_by_role("dialog", name="Delete birds?")).to_be_visible()


def collections(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/collections")
    expect(page.get_by_label("New collection")).to_be_visible()


def jobs(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/jobs")
    expect(page.locator(".job").first).to_be_visible()


def key(page: Page) -> None:
    page.evaluate("import('./static/key.js').then((key) => { key.askForKey(true); })")
    expect(page.get_by_role("dialog")).to_be_visible()


VIEWS = [asked, options, collection, sure, collections, jobs, key]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, site: str, scheme: Any) -> None:
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    watched = Watched(context.new_page())
    for view in VIEWS:
        # axe is put into the page past its policy, which lets no foreign script in.
        watched.page.goto("about:blank")
        watched.page.goto(site)
        expect(watched.page.get_by_role("heading", name="Ask birds")).to_be_visible()
        view(watched.page)
        found = Axe().run(watched.page).response["violations"]
        grave = [
            (view.__name__, each["id"], [node["target"] for node in each["nodes"]])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert grave == []
    background = watched.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(int(part) for part in background[4:-1].split(","))
    assert brightness < 150 if scheme == "dark" else brightness > 600
    assert watched.wrong == []
    context.close()


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_phone(
    context: BrowserContext, page: Page, view: Callable[[Page], None]
) -> None:
    page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    view(page)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"]
    for row in page.locator(".filter-row").all():  # its own view scrolls
        box = row.bounding_box()
        assert box
        assert box["x"] + box["width"] <= PHONE["width"]
    if view is asked:  # evidence stands below the answer
        answer, evidence = (
            page.locator(each).bounding_box() for each in (".answer-text", ".evidence")
        )
        assert answer
        assert evidence
        assert evidence["y"] > answer["y"] + answer["height"]


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    """From the address bar to the evidence and back, to another source choice, with keys alone."""
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("/")
    expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".turn .actions")).to_be_visible()
    marker = page.locator(".marker").first
    tab_to(page, ".marker", back=True)
    page.keyboard.press("Enter")
    expect(page.locator(".card-head").first).to_be_focused()
    expect(page.locator("mark.chosen")).to_have_text("Bangkok is the capital of Thailand.")
    page.keyboard.press("Escape")
    expect(marker).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, ".use input")
    page.keyboard.press("Space")
    tab_to(page, ".evidence-foot button")
    page.keyboard.press("Enter")
    expect(page.locator(".changes")).to_be_visible()


def test_focus_can_be_seen_and_the_content_skipped_to(page: Page) -> None:
    # At this width nothing is focused at first: a keyboard would cover the half of a phone.
    page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    page.reload()
    expect(page.get_by_role("heading", name="Ask birds")).to_be_visible()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    assert skip.bounding_box()["y"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_the_theme_is_chosen_and_kept(page: Page) -> None:
    button = page.get_by_role("button", name="Theme: as the system")
    button.click()
    page.get_by_role("button", name="Theme: light").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_a_screen_reader_is_told_of_the_answer(page: Page) -> None:
    ask(page, QUESTION)
    expect(page.get_by_role("status")).to_contain_text("Answer with 1 citation.")
    expect(page.get_by_role("status")).to_contain_text("Bangkok")
    expect(page.get_by_role("article", name=QUESTION)).to_be_visible()


def tab_to(page: Page, selector: str, back: bool = False) -> None:
    for _ in range(40):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")
