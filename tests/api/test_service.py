"""Documents, items, jobs, search over HTTP: what goes in comes out, page by page, as it was."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from rag_owl import RagOwl, db
from rag_owl.rows import GenerationRow
from rag_owl.store import collections
from rag_owl.store import jobs as job_rows
from tests.service import PATIENCE, finished, opened, png, problem, running, upload

HTML = b"<!doctype html><html><body><script>alert(1)</script><p>A tawny owl.</p></body></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
FLAG = png((188, 0, 45), (600, 400))


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, module_on_each_database: None
) -> Iterator[TestClient]:
    with running(tmp_path_factory.mktemp("service") / "data") as opened_client:
        upload(
            opened_client,
            "flags",
            {
                "japan.png": FLAG,
                "japan.txt": b"Japan has a red disk on white.",
                "owls.txt": b"The boreal owl nests in old woodpecker holes.",
                "page.html": HTML,
                "drawing.svg": SVG,
            },
            data={"metadata": json.dumps({"year": 1999})},
        )
        upload(
            opened_client,
            "flags",
            {
                "rows.jsonl": b"".join(
                    b'{"text": "owl number %d", "n": %d}\n' % (n, n) for n in range(9)
                )
            },
        )
        yield opened_client


def listed(client: TestClient, url: str, **parameters: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = client.get(url, params={"limit": 2, **parameters, **more}).json()
        assert len(page["data"]) <= 2
        found += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def document(client: TestClient, name: str) -> dict[str, Any]:
    return next(
        each for each in listed(client, "/v1/collections/flags/documents") if each["name"] == name
    )


def content(client: TestClient, name: str, **more: Any) -> Any:
    found = document(client, name)
    return client.get(f"/v1/collections/flags/documents/{found['id']}/content", **more)


# --- lists ----------------------------------------------------------------------------------------


def test_documents_page_by_page(client: TestClient) -> None:
    found = listed(client, "/v1/collections/flags/documents")
    assert len({each["id"] for each in found}) == len(found) == 12
    assert found[0]["name"] == "japan.png"
    one = client.get(f"/v1/collections/flags/documents/{found[0]['id']}").json()
    assert one == found[0]


def test_lists_are_filtered_by_metadata(client: TestClient) -> None:
    def names(url: str, wanted: dict[str, Any]) -> list[str]:
        found = listed(client, url, filter=json.dumps(wanted))
        return [each.get("name") or each["document_name"] for each in found]

    old = {"field": "year", "op": "<", "value": 2000}
    assert "owls.txt" in names("/v1/collections/flags/documents", old)
    few = {"field": "n", "op": "in", "value": [3, 5]}
    assert len(names("/v1/collections/flags/documents", few)) == 2
    assert len(names("/v1/collections/flags/items", few)) == 2
    assert names("/v1/collections/flags/items", {"field": "n", "op": ">", "value": 99}) == []


def test_items_of_one_document(client: TestClient) -> None:
    japan = document(client, "japan.png")
    items = listed(client, "/v1/collections/flags/items", document=japan["id"])
    assert len(items) == japan["items"] == 1
    assert items[0]["text"] == "Japan has a red disk on white."
    again = client.get(f"/v1/collections/flags/items/{items[0]['id']}").json()
    assert again == items[0]
    problem(client.get("/v1/collections/flags/items?document=nope"), 404)


def test_collections_are_listed_by_name(client: TestClient) -> None:
    for name in ("a", "zebra"):
        assert client.post("/v1/collections", json={"name": name}).status_code == 201
    names = [each["name"] for each in listed(client, "/v1/collections")]
    assert names == sorted(names)
    assert {"a", "flags", "zebra"} <= set(names)
    assert client.post("/v1/collections", json={"name": "a"}).status_code == 200


# --- bytes ----------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_came(client: TestClient) -> None:
    answer = content(client, "owls.txt")
    assert answer.content == b"The boreal owl nests in old woodpecker holes."
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == 'inline; filename="owls.txt"'


@pytest.mark.parametrize("name", ["page.html", "rows.jsonl"])
def test_what_a_browser_could_run_is_an_attachment(client: TestClient, name: str) -> None:
    if name == "rows.jsonl":
        row = next(
            each for each in listed(client, "/v1/collections/flags/documents")
            if each["name"].startswith(name)
        )  # fmt: skip
        answer = client.get(f"/v1/collections/flags/documents/{row['id']}/content")
        problem(answer, 404, "document_id")
        return
    answer = content(client, name)
    assert answer.content == HTML
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


def test_svg_is_skipped_with_a_reason(client: TestClient) -> None:
    job = next(each for each in listed(client, "/v1/jobs") if each["skipped_count"])
    skipped = listed(client, f"/v1/jobs/{job['id']}/skipped")
    assert skipped[0]["name"] == "drawing.svg"
    assert "cannot be read" in skipped[0]["reason"]


def item_with_picture(client: TestClient) -> str:
    return next(
        f"/v1/collections/flags/items/{each['id']}"
        for each in listed(client, "/v1/collections/flags/items")
        if each["picture"]
    )


def test_ranges_and_etags(client: TestClient) -> None:
    url = item_with_picture(client) + "/media"
    whole = client.get(url)
    assert whole.content == FLAG
    etag = whole.headers["etag"]
    assert etag == f'"{hashlib.sha256(FLAG).hexdigest()}"'
    part = client.get(url, headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, FLAG[8:16])
    assert part.headers["content-range"] == f"bytes 8-15/{len(FLAG)}"
    last = client.get(url, headers={"Range": "bytes=-4"})
    assert (last.status_code, last.content) == (206, FLAG[-4:])
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        same = client.get(url, headers={"If-None-Match": known})
        assert (same.status_code, same.content) == (304, b"")
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    changed = client.get(url, headers={"Range": "bytes=8-15", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, FLAG)
    head = client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(FLAG))


@pytest.mark.parametrize("given", ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "x"])
def test_what_is_no_range_gets_the_whole(client: TestClient, given: str) -> None:
    answer = client.get(item_with_picture(client) + "/media", headers={"Range": given})
    assert (answer.status_code, answer.content) == (200, FLAG)


@pytest.mark.parametrize("given", ["bytes=99999999-", "bytes=-0"])
def test_a_range_beyond_the_end(client: TestClient, given: str) -> None:
    answer = client.get(item_with_picture(client) + "/media", headers={"Range": given})
    problem(answer, 416, "Range")
    assert answer.headers["content-range"] == f"bytes */{len(FLAG)}"


def test_thumbnails_are_small_and_kept(client: TestClient) -> None:
    url = item_with_picture(client) + "/thumbnail"
    first = client.get(url, params={"size": 100})
    assert first.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(first.content)).size) == 128
    assert client.get(url, params={"size": 128}).headers["etag"] == first.headers["etag"]
    assert client.get(url).headers["etag"] != first.headers["etag"]
    again = client.get(url, params={"size": 100}, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    kept = opened(client).folder / "thumbnails"
    assert len(list(kept.rglob("*.jpg"))) == 2


def test_what_has_no_picture_says_so(client: TestClient) -> None:
    item = next(
        each for each in listed(client, "/v1/collections/flags/items") if not each["picture"]
    )
    for what in ("media", "thumbnail", "page"):
        problem(client.get(f"/v1/collections/flags/items/{item['id']}/{what}"), 404, "item_id")


# --- changes --------------------------------------------------------------------------------------


def test_the_same_name_again_is_a_new_revision(client: TestClient) -> None:
    upload(client, "revised", {"a.txt": b"Owls were white."})
    (first,) = listed(client, "/v1/collections/revised/documents")
    same = upload(client, "revised", {"a.txt": b"Owls were white."})
    assert (same["unchanged"], same["added"], same["updated"]) == (1, 0, 0)
    changed = upload(client, "revised", {"a.txt": b"Owls were brown."})
    assert (changed["unchanged"], changed["added"], changed["updated"]) == (0, 0, 1)
    (second,) = listed(client, "/v1/collections/revised/documents")
    assert (second["id"], second["revision"]) == (first["id"], 2)
    hits = client.post("/v1/collections/revised/search", json={"query": "owls"}).json()["data"]
    assert [hit["item"]["text"] for hit in hits] == ["Owls were brown."]


def test_put_replaces_whatever_its_name(client: TestClient) -> None:
    upload(client, "put", {"a.txt": b"Owls were white.", "b.txt": b"Eagles are large."})
    first = listed(client, "/v1/collections/put/documents")[0]
    url = f"/v1/collections/put/documents/{first['id']}"
    sent = client.put(url, files={"files": ("renamed.md", b"# Owls\n\nOwls are brown now.")})
    assert sent.status_code == 202
    assert finished(client, sent.json()["job"]["id"])["updated"] == 1
    now = client.get(url).json()
    assert (now["revision"], now["name"], now["media_type"]) == (2, "renamed.md", "text/markdown")
    assert len(listed(client, "/v1/collections/put/documents")) == 2
    old = client.get(f"/v1/collections/put/items/{first['id']}.1.0")
    assert old.json()["text"] == "Owls were white."  # what was cited stays


def test_put_takes_one_document(client: TestClient) -> None:
    url = f"/v1/collections/flags/documents/{document(client, 'owls.txt')['id']}"
    two = [("files", ("a.txt", b"a")), ("files", ("b.txt", b"b"))]
    problem(client.put(url, files=two), 413, "files")
    rows = {"files": ("rows.jsonl", b'{"text": "a"}\n{"text": "b"}\n')}
    problem(client.put(url, files=rows), 422, "files")
    problem(client.put("/v1/collections/flags/documents/nope", files=rows), 404)


def test_delete(client: TestClient) -> None:
    upload(client, "gone", {"a.txt": b"A very rare owl."})
    (first,) = listed(client, "/v1/collections/gone/documents")
    url = f"/v1/collections/gone/documents/{first['id']}"
    assert client.delete(url).status_code == 204
    problem(client.get(url), 404)
    problem(client.delete(url), 404)
    hits = client.post("/v1/collections/gone/search", json={"query": "owl"}).json()["data"]
    assert hits == []


# --- search and jobs ------------------------------------------------------------------------------


def test_search(client: TestClient) -> None:
    def first(**wanted: Any) -> dict[str, Any]:
        found = client.post("/v1/collections/flags/search", json=wanted)
        assert found.status_code == 200, found.text
        hit: dict[str, Any] = found.json()["data"][0]
        return hit

    assert first(query="nests in woodpecker holes")["item"]["document_name"] == "owls.txt"
    shown = first(images=[data_url(FLAG)], k=1)
    assert shown["item"]["document_name"] == "japan.png"
    assert "picture" in shown["channels"]
    assert first(query="owl", channels=["words"], k=1)["channels"] == ["words"]
    numbered = first(query="owl", filters={"field": "n", "op": "==", "value": 4})
    assert numbered["item"]["text"].endswith("4")


def data_url(data: bytes) -> str:
    import base64

    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def test_a_search_says_what_it_left_out(client: TestClient) -> None:
    path = "/v1/collections/lost/search"
    upload(client, "lost", {"owl.md": b"The owl sleeps in the barn.", "red.png": png()})
    assert client.post(path, json={"query": "owl"}).json()["notes"] == []
    owl = opened(client)
    with db.writing(owl.engine) as session:
        key = collections.get(session, "lost").key
        row = session.query(GenerationRow).filter_by(collection_key=key).one()
        row.picture_embedder = "/nowhere/clip@1"
        collections.touch(session, key)
    found = client.post(path, json={"query": "owl"}).json()
    assert found["data"][0]["item"]["document_name"] == "owl.md"
    assert "--picture-embedder" in found["notes"][0]
    asked = {"collection": "lost", "question": "Where does the owl sleep?"}
    assert client.post("/v1/answers", json=asked).json()["notes"] == found["notes"]
    refused = problem(client.post(path, json={"images": [data_url(png())]}), 404, "model")
    assert "--picture-embedder" in refused["detail"]
    client.delete("/v1/collections/lost")


def test_jobs_are_listed_and_filtered(client: TestClient) -> None:
    everything = listed(client, "/v1/jobs")
    assert [job["created_at"] for job in everything] == sorted(
        (job["created_at"] for job in everything), reverse=True
    )
    mine = listed(client, "/v1/jobs", collection="flags", state="done")
    assert {job["collection"] for job in mine} == {"flags"}
    assert listed(client, "/v1/jobs", collection="flags", state="failed") == []
    problem(client.get("/v1/jobs?collection=nowhere"), 404)
    problem(client.get("/v1/jobs?state=lost"), 422, "state.0")


def test_a_job_is_followed_to_its_end(client: TestClient) -> None:
    files = [("files", (f"{n}.txt", b"Owl number %d sleeps." % n)) for n in range(20)]
    sent = client.post("/v1/collections/followed/documents", files=files).json()
    events = []
    with client.stream("GET", f"/v1/jobs/{sent['job']['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
    assert [name for name, _ in events[:-1]] == ["job"] * (len(events) - 1)
    name, last = events[-1]
    assert (name, last["state"], last["added"]) == ("done", "done", 20)
    problem(client.get("/v1/jobs/nope/events"), 404)


def test_a_finished_job_cannot_be_retried_or_harmed(client: TestClient) -> None:
    job = upload(client, "jobs", {"a.txt": b"An owl."})
    problem(client.post(f"/v1/jobs/{job['id']}/retry"), 409)
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "done"


def test_no_upload_is_left_over(client: TestClient) -> None:
    owl = opened(client)

    def left_over() -> set[str]:
        left = {path.name for path in (owl.folder / "uploads").iterdir()}
        with db.reading(owl.engine) as session:  # of jobs that are cancelled, for a retry
            return left - job_rows.uploads_in_use(session)

    until = time.monotonic() + PATIENCE  # the last one's job may be ending
    while left_over() and time.monotonic() < until:
        time.sleep(0.05)
    assert left_over() == set()


# --- health ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("module_on_each_database")
def test_ready_means_that_no_question_waits_for_a_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "owl.txt").write_text("The tawny owl weighs 500 grams.")
    with RagOwl.open(tmp_path / "data") as owl:
        owl.ingest("owls", [tmp_path / "owl.txt"])
    caplog.set_level(logging.INFO, "sentence_transformers")
    with RagOwl.open(tmp_path / "data") as owl:
        owl.warm_up()
        assert "Loading SentenceTransformer" in caplog.text
        caplog.clear()
        assert not owl.ask("owls", "How much does the tawny owl weigh?").abstained
        assert "Loading" not in caplog.text


def test_health_readiness_and_figures(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    until = time.monotonic() + PATIENCE
    while (ready := client.get("/readyz")).status_code == 503 and time.monotonic() < until:
        assert ready.json() == {"ready": False, "waiting_for": ["models"]}
        time.sleep(0.1)
    assert ready.json() == {"ready": True, "waiting_for": []}
    figures = client.get("/metrics").text
    assert 'rag_owl_requests_total{method="GET",route="/healthz",status="200"}' in figures
    assert 'rag_owl_jobs{state="done"}' in figures
    assert "flags" not in figures  # collections are nobody's business there


@pytest.mark.usefixtures("module_on_each_database")
def test_the_service_goes_on_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "data") as client:
        upload(client, "kept", {"a.txt": b"An owl that stays."})
    with running(tmp_path / "data") as client:
        assert client.get("/v1/collections/kept").json()["documents"] == 1


def test_a_wrong_method_is_told_the_right_ones(client: TestClient) -> None:
    answer = client.patch("/v1/collections/flags/documents/x")
    problem(answer, 405)
    assert answer.headers["allow"] == "DELETE, GET, PUT"
