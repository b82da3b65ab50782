"""The page's collections and jobs, in a real browser over the real service."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from rag_owl import RagOwl
from tests.browser import Watched, drop, serve
from tests.service import PATIENCE, make_key

HOSTILE = "<img src=x onerror=alert(1)>.txt"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("library")
    with serve(data, text_embedder="hashing", batch_size=1) as address:
        yield address


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    watched = Watched(context.new_page())
    yield watched.page
    assert watched.wrong == []


def test_a_collection_is_made_filled_by_a_drop_and_shown(page: Page, site: str) -> None:
    page.goto(f"{site}/#/collections")
    expect(page.get_by_text("There are none yet.")).to_be_visible()
    page.get_by_label("New collection").fill("field-notes")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("heading", name="field-notes")).to_be_visible()

    drop(
        page,
        ".dropzone",
        {"owls.txt": "The barn owl weighs 430 grams.", HOSTILE: "<b>bold</b> <script>1</script>"},
    )
    expect(page.locator(".job-state")).to_have_text("done")
    expect(page.locator(".counts")).to_contain_text("2 documents added")
    expect(page.locator("tbody tr")).to_have_count(2)
    # The name stays text: as it was sent, or made safe for a file system, never an element.
    expect(page.locator("tbody")).to_contain_text("onerror")
    assert page.locator("tbody img").count() == 0
    expect(page.locator(".lead")).to_contain_text("2 documents, 2 items")


def test_many_files_go_in_several_requests_and_pairs_stay_together(page: Page, site: str) -> None:
    page.goto(site)
    sizes, torn = page.evaluate(
        """async () => {
          const { batches } = await import("/static/upload.js");
          const names = [];
          for (let n = 0; n < 1201; n++) names.push(`${n}.png`, `${n}.txt`);
          const cut = batches(names.map((name) => new File(["x"], name)));
          const stem = (file) => file.name.split(".")[0];
          const torn = cut.slice(1).filter((some, at) => stem(some[0]) === stem(cut[at].at(-1)));
          return [cut.map((some) => some.length), torn.length];
        }"""
    )
    assert sum(sizes) == 2402
    assert max(sizes) <= 501
    assert torn == 0


def test_a_document_is_deleted(page: Page, site: str) -> None:
    send(site, "short-lived", {"gone.txt": b"Soon gone."})
    page.goto(f"{site}/#/collections/short-lived")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Delete gone.txt").click()
    expect(page.locator("tbody tr")).to_have_count(0)
    expect(page.locator(".lead")).to_contain_text("0 documents")


def test_a_collection_is_deleted_once_its_name_was_confirmed(page: Page, site: str) -> None:
    send(site, "unwanted", {f"{n}.txt": f"Note {n} about owls.".encode() for n in range(3)})
    page.goto(f"{site}/#/collections/unwanted")
    button = page.get_by_role("button", name="Delete this collection")
    button.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete unwanted?")
    expect(dialog).to_contain_text("3 documents with 3 items")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    button.press("Enter")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")  # nothing is deleted by pressing on
    expect(dialog).to_be_hidden()
    assert httpx.get(f"{site}/v1/collections/unwanted", timeout=PATIENCE).json()["documents"] == 3

    button.click()
    dialog.get_by_role("button", name="Delete 3 documents").click()
    heading = page.get_by_role("heading", name="unwanted is deleted")
    expect(heading).to_be_focused()
    expect(page.locator("#announce")).to_contain_text("unwanted")
    job = page.locator(".job")
    expect(job.locator(".job-title")).to_have_text("remove what was deleted: unwanted")
    expect(job.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(job.locator(".job-state")).to_have_text("done")
    expect(job.locator(".counts")).to_contain_text("removed")
    assert httpx.get(f"{site}/v1/collections/unwanted", timeout=PATIENCE).status_code == 404
    page.get_by_role("main").get_by_role("link", name="Collections").click()
    expect(page.get_by_role("heading", name="Collections")).to_be_visible()
    expect(page.locator(".collection", has_text="unwanted")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("heading", name="Collections")).to_be_visible()


def test_who_leaves_while_a_collection_is_deleted_keeps_the_next_view(
    page: Page, site: str
) -> None:
    send(site, "left", {"one.txt": b"An owl."})
    page.goto(f"{site}/#/collections/left")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method == "DELETE":
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/collections/left", hold)
    page.get_by_role("button", name="Delete this collection").click()
    with page.expect_request(lambda request: request.method == "DELETE"):
        page.get_by_role("button", name="Delete 1 document").click()
    page.evaluate("location.hash = '#/jobs'")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        held[0].continue_()
    page.wait_for_timeout(300)  # for what may not happen
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    expect(page.get_by_role("heading", name="left is deleted")).to_have_count(0)
    assert page.url.endswith("#/jobs")


def test_a_collection_that_is_gone_already_says_so(page: Page, site: str) -> None:
    send(site, "twice", {"one.txt": b"An owl."})
    page.goto(f"{site}/#/collections/twice")
    button = page.get_by_role("button", name="Delete this collection")
    button.click()
    assert httpx.delete(f"{site}/v1/collections/twice", timeout=PATIENCE).status_code == 202
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Delete 1 document").click()
    expect(dialog.get_by_role("alert")).to_contain_text("no collection 'twice'")
    dialog.get_by_role("button", name="Cancel").click()
    button.click()
    expect(page.get_by_role("alert")).to_contain_text("no collection 'twice'")


def test_a_key_for_one_collection_deletes_it_without_seeing_the_job(
    browser: Browser, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (tmp_path / "one.txt").write_text("An owl.")
    with RagOwl.open(data, text_embedder="hashing") as owl:
        owl.ingest("mine", [tmp_path / "one.txt"])
    key = make_key(data, "ask", "ingest", only=["mine"])
    with serve(data, text_embedder="hashing", require_key=True) as address:
        opened = browser.new_context()
        watched = Watched(opened.new_page())
        page = watched.page
        page.goto(f"{address}/#/collections/mine")
        page.get_by_role("textbox", name="Key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Delete this collection").click()
        page.get_by_role("button", name="Delete 1 document").click()
        expect(page.get_by_role("heading", name="mine is deleted")).to_be_visible()
        expect(page.locator(".job")).to_have_count(0)
        expect(page.get_by_role("alert")).to_have_count(0)
        assert watched.wrong == []
        opened.close()


def test_what_was_skipped_is_listed_with_its_reason(page: Page, site: str) -> None:
    send(site, "broken", {"good.txt": b"Good.", "bad.pdf": b"%PDF-1.7 and then nothing"})
    page.goto(f"{site}/#/jobs")
    job = page.locator(".job", has_text="broken").first
    job.get_by_text("1 file skipped, and why").click()
    expect(job.locator(".skipped-files .name")).to_have_text("bad.pdf")
    expect(job.locator(".skipped-files .reason")).not_to_be_empty()


def test_script_in_names_and_reasons_of_what_was_skipped_is_text(page: Page, site: str) -> None:
    name = "<img src=x onerror=alert(1)>"
    row = json.dumps({"text": "An owl.", "image": f"{name}.png"})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}.png", b"\x89PNG\r\n\x1a\nno picture")
    send(site, "hostile", {"rows.jsonl": row.encode(), "packed.zip": packed.getvalue()})
    page.goto(f"{site}/#/jobs")
    job = page.locator(".job", has_text="hostile").first
    job.get_by_text("2 files skipped, and why").click()
    skipped = job.locator(".skipped-files")
    expect(skipped.locator(".name", has_text=name)).to_have_count(1)
    expect(skipped.locator(".reason", has_text=name)).to_have_count(1)
    assert page.locator("main img").count() == 0


def test_a_job_shows_its_progress_and_is_cancelled_and_retried(page: Page, site: str) -> None:
    # Many, so that the job is still at work when a busy machine gets round to the click.
    many = {f"{n:03}.txt": f"Note number {n} about owls.".encode() for n in range(1000)}
    page.goto(f"{site}/#/jobs")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    send(site, "many", many, wait=False)
    page.reload()
    job = page.locator(".job", has_text="many").first
    bar = job.get_by_role("progressbar")
    expect(bar).to_have_attribute("max", "1000")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.job')].some("
        "(job) => job.textContent.includes('many') && job.querySelector('progress').value > 2)"
    )
    job.get_by_role("button", name="Cancel the job in many").click()
    expect(job.locator(".job-state")).to_have_text("cancelled")
    job.get_by_role("button", name="Retry the job in many").click()
    expect(page.locator(".job", has_text="many").first.locator(".job-state")).to_have_text("done")
    expect(page.locator(".job", has_text="many").first).to_contain_text("1,000 documents added")


def test_a_service_that_wants_a_key_is_given_one(browser: Browser, tmp_path: Path) -> None:
    from rag_owl import db
    from rag_owl.store import keys

    data = tmp_path / "closed"
    with RagOwl.open(data, text_embedder="hashing") as owl, db.writing(owl.engine) as session:
        _, secret = keys.create(session, "the page", ["admin"])
    with serve(data, text_embedder="hashing", require_key=True) as address:
        opened = browser.new_context()
        watched = Watched(opened.new_page())
        page = watched.page
        page.goto(f"{address}/#/collections")
        dialog = page.get_by_role("dialog", name="This service asks for a key")
        dialog.get_by_label("Key").fill("owl_wrong")
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog.get_by_role("alert")).to_contain_text("not accepted")
        dialog.get_by_label("Key").fill(secret)
        page.keyboard.press("Enter")
        expect(page.get_by_text("There are none yet.")).to_be_visible()
        assert page.evaluate("Object.values(localStorage).join()") == ""
        page.reload()
        expect(page.get_by_text("There are none yet.")).to_be_visible()
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_be_visible()
        assert watched.wrong == []
        opened.close()


def send(site: str, collection: str, files: dict[str, bytes], wait: bool = True) -> None:
    parts = [("files", (name, data)) for name, data in files.items()]
    sent = httpx.post(
        f"{site}/v1/collections/{collection}/documents", files=parts, timeout=PATIENCE
    )
    assert sent.status_code == 202, sent.text
    if wait:
        job = sent.json()["job"]["id"]
        with httpx.stream("GET", f"{site}/v1/jobs/{job}/events", timeout=PATIENCE) as events:
            assert "done" in events.read().decode()


def test_the_reference_needs_no_other_server(page: Page, site: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site}/docs")
    expect(page.locator(".endpoint").first).to_be_visible()
    described = httpx.get(f"{site}/openapi.json", timeout=PATIENCE).json()["paths"]
    methods = [
        m for each in described.values() for m in each if m in ("get", "post", "put", "delete")
    ]
    expect(page.locator(".endpoint")).to_have_count(len(methods))
    upload = page.locator(".endpoint", has_text="/v1/collections/{name}/documents").nth(1)
    upload.locator("summary").click()
    expect(upload).to_contain_text("-F files=@FILE")
    expect(upload).to_contain_text('"kind": "ingest"')
    chat = page.locator(".endpoint", has_text="/v1/chat/completions")
    chat.locator("summary").click()
    expect(chat).to_contain_text('"content":"What is the capital of Japan?"')
    assert all(url.startswith(site) for url in asked)
