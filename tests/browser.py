"""The service on a free port and a real Chromium, for the tests of the page."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from rag_owl import RagOwl
from rag_owl.settings import read_settings

MISSING = (
    "no Chromium: run scripts/install-chromium.sh as root, or name one with RAG_OWL_TEST_CHROMIUM"
)
SCRIPT = "<img src=x onerror=\"document.title='owned'\">"
PATIENCE = 120_000  # milliseconds: a busy machine loads models slowly


def chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    given = os.environ.get("RAG_OWL_TEST_CHROMIUM")
    return given or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Skips the test where there is no Chromium."""
    path = chromium()
    if path is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        # Tests run as root in containers, where Chromium's own sandbox cannot start.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serve(
    data: Path, fill: Callable[[RagOwl], None] | None = None, **settings: Any
) -> Iterator[str]:
    """The service's address, once it is ready. fill: what puts something into its collections."""
    from rag_owl.api.app import create_app

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    app = create_app(read_settings(data=data, job_runner="thread", **settings))
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address) as http:  # making one costs more than a request
            until = time.monotonic() + 300
            while True:
                if not thread.is_alive() or time.monotonic() > until:
                    raise RuntimeError("the service did not start")
                try:
                    if http.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        if fill:
            fill(app.state.rag_owl.owl)
        yield address
    finally:
        server.should_exit = True
        thread.join(20)


class Watched:
    """A page, and everything that went wrong on it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", self._said)
        page.on("dialog", self._dialog)

    def _said(self, message: Any) -> None:
        # A refused request is told of by the page itself; the browser's own line says no more.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.wrong.append(f"console: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        if dialog.type == "confirm":
            dialog.accept()
        else:  # the page itself opens none
            self.wrong.append(f"dialog: {dialog.message}")
            dialog.dismiss()


_DROP = """([selector, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of Object.entries(files))
    data.items.add(new File([text], name, { type: "text/plain" }));
  const event = { bubbles: true, cancelable: true, dataTransfer: data };
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector(selector).dispatchEvent(new DragEvent(kind, event));
}"""


def drop(page: Page, selector: str, files: dict[str, str]) -> None:
    """As if files of these names and texts were dropped there."""
    page.evaluate(_DROP, [selector, files])


def ask(page: Page, question: str) -> None:
    """Ask and wait for the answer."""
    before = page.locator(".turn .actions").count()
    page.get_by_role("textbox", name="Question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".turn .actions")).to_have_count(before + 1)
