"""Questions over HTTP: JSON, multipart, streams, conversations, replay, rating, the saved file."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from rag_owl import RagOwl
from tests.browser import serve
from tests.model_server import KEY, MODEL, ModelServer, Send, delta, error, streamed
from tests.service import PATIENCE, png, problem

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quotes" \''
TEXTS = {
    "elf": "Elf owl\n\nThe elf owl weighs 40 grams. The elf owl lives in the Sonoran desert.",
    "eagle": "Eagle owl\n\nThe eagle owl weighs 2700 grams. The eagle owl nests on cliffs.",
    "hostile": f"{HOSTILE}\n\nThe motto of the griffin is {HOSTILE} indeed.",
}


@pytest.fixture(scope="module")
def model_server() -> Iterator[ModelServer]:
    def reply(request: dict[str, Any]) -> Send:
        asked = request["messages"][-1]["content"][-1]["text"]
        if "overload" in asked:
            return error(429, "busy", **{"Retry-After": "90"})
        if "break" in asked:
            return Send([delta(content="The elf owl ")])
        if "boast" in asked:
            said = "The elf owl weighs 40 grams. [1] It weighs ninety tons [7]. It swims. [1]"
            return streamed(*(said[i : i + 5] for i in range(0, len(said), 5)))
        if "slowly" in asked:
            return Send([b": still here\n\n", *([0.1, b": still here\n\n"] * 6_000)])
        return streamed("The elf owl ", "weighs 40 grams ", "[1].", " ")

    with ModelServer(reply) as server:
        yield server


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    model_server: ModelServer,
    module_on_each_database: None,
) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("answers")
    (folder / "owls").mkdir()
    for number, (name, text) in enumerate(TEXTS.items()):
        (folder / "owls" / f"{name}.txt").write_text(text)
        picture = png((80 * number, 200 - 90 * number, 60))
        (folder / "owls" / f"{name}.png").write_bytes(picture)
    settings: dict[str, Any] = {"model": "sentences", "picture_embedder": "descriptor"}
    with RagOwl.open(folder / "data", **settings) as owl:
        assert owl.ingest("owls", [folder / "owls"]).added == 3
    remote = {
        "big": {"base_url": model_server.url, "model": MODEL, "api_key_env": "TEST_MODEL_KEY"},
        "keyless": {"base_url": model_server.url, "model": MODEL, "api_key_env": "TEST_NO_KEY"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_MODEL_KEY", KEY)
        with serve(
            folder / "data", remote_models=remote, waiting_questions=3, remote_calls=1, **settings
        ) as address:
            yield httpx.Client(base_url=address, timeout=PATIENCE)


def ask(site: httpx.Client, question: str, **more: Any) -> dict[str, Any]:
    answered = site.post("/v1/answers", json={"collection": "owls", "question": question, **more})
    assert answered.status_code == 200, answered.text
    found: dict[str, Any] = answered.json()
    return found


def events(site: httpx.Client, question: str, **more: Any) -> list[tuple[str, Any]]:
    body = {"collection": "owls", "question": question, "stream": True, **more}
    found = []
    with site.stream("POST", "/v1/answers", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


WEIGHT = "How much does the elf owl weigh?"


# --- what works -----------------------------------------------------------------------------------


def test_an_answer_comes_with_its_evidence_and_is_shown_again(site: httpx.Client) -> None:
    answer = ask(site, WEIGHT)
    assert answer["text"].startswith("The elf owl weighs 40 grams. [")
    (citation,) = answer["citations"]
    assert citation["quote"] == "The elf owl weighs 40 grams."
    shown = answer["sources"][citation["marker"] - 1]
    assert shown["marker"] == citation["marker"]
    assert shown["item"]["id"] == citation["source"]["item_id"]
    assert citation["location"].get("heatmap_url") is None
    assert site.get(f"/v1/answers/{answer['id']}").json() == answer
    listed = site.get("/v1/answers", params={"collection": "owls", "limit": 1}).json()
    assert listed["data"][0]["id"] == answer["id"]
    assert "sources" not in listed["data"][0]


def test_the_list_is_paged_and_of_one_conversation(site: httpx.Client) -> None:
    first = ask(site, WEIGHT)
    conversation = first["conversation_id"]
    second = ask(site, "Where does it live?", conversation_id=conversation)
    assert "Sonoran" in second["text"]
    assert "elf owl" in second["reading"]
    wanted = {"conversation_id": conversation, "limit": 1}
    page = site.get("/v1/answers", params=wanted).json()
    assert [each["id"] for each in page["data"]] == [second["id"]]
    rest = site.get("/v1/answers", params={**wanted, "cursor": page["next_cursor"]}).json()
    assert [each["id"] for each in rest["data"]] == [first["id"]]
    assert rest["next_cursor"] is None
    assert site.get("/v1/answers", params={"conversation_id": "none"}).json()["data"] == []
    problem(site.get("/v1/answers", params={"cursor": "zzz"}), 422, "cursor")
    problem(site.get("/v1/answers", params={"collection": "birds"}), 404)


def test_multipart_carries_pictures_and_the_request(site: httpx.Client) -> None:
    red = png((0, 200, 60), (200, 140))
    described = json.dumps({"collection": "owls", "question": "What does this owl weigh?"})
    for request in (("request", (None, described)), ("request", ("blob", described))):
        sent = site.post("/v1/answers", files=[request, ("images", ("photo.png", red))])
        assert sent.status_code == 200, sent.text
        assert "40 grams" in sent.json()["text"]
        assert len(sent.json()["pictures"]) == 1
    inline = ask(site, "What does this owl weigh?", images=[data_url(red)])
    assert inline["text"] == sent.json()["text"]


def test_events_come_in_order_and_text_never_changes(site: httpx.Client) -> None:
    for model in ("sentences", "big"):
        found = events(site, WEIGHT, model=model)
        kinds = [name for name, _ in found]
        assert kinds[0] == "retrieved"
        assert kinds == sorted(kinds, key=["retrieved", "text", "citation", "done"].index)
        done = found[-1][1]
        assert "".join(data["delta"] for name, data in found if name == "text") == done["text"]
        assert [data for name, data in found if name == "citation"] == done["citations"]
        assert found[0][1]["data"] == done["sources"]
        assert site.get(f"/v1/answers/{done['id']}").json() == done
    assert len([name for name in kinds if name == "text"]) == 4
    assert done["usage"] == {"prompt_tokens": 40, "completion_tokens": 7}


def test_statements_without_support_are_marked_or_left_out(site: httpx.Client) -> None:
    boast = {"model": "big", "k": 1, "filters": None}
    marked = ask(site, "boast of the elf owl weighs grams", **boast)
    said = [(marked["text"][s["start"] : s["end"]], s["verdict"]) for s in marked["statements"]]
    assert said[0] == ("The elf owl weighs 40 grams.", "supported")
    assert said[1] == ("It weighs ninety tons [7].", "unsupported")
    assert marked["dangling_markers"] == [7]
    found = events(site, "boast of the elf owl weighs grams", **boast, require_support=True)
    done = found[-1][1]
    assert "".join(data["delta"] for name, data in found if name == "text") == done["text"]
    assert done["text"].startswith("The elf owl weighs 40 grams. [1]")
    assert done["text"] == done["text"].strip()
    assert "tons" not in done["text"]
    assert any("without support" in note for note in done["notes"])
    assert site.get(f"/v1/answers/{done['id']}").json() == done
    again = site.post(f"/v1/answers/{done['id']}/replay").json()
    assert again["text"] == done["text"]


def test_a_model_that_cannot_be_asked_without_an_item_says_so(site: httpx.Client) -> None:
    answer = ask(site, WEIGHT, verify="full")
    assert "sentences cannot be asked again without one of its sources." in answer["notes"]
    assert answer["citations"][0]["support"]["ablation_drop"] is None
    measured = ask(site, WEIGHT, model="owl-nano", verify="full")
    drops = [citation["support"]["ablation_drop"] for citation in measured["citations"]]
    assert measured["abstained"] or all(drop > 0 for drop in drops)
    body = {"collection": "owls", "question": WEIGHT, "verify": "twice"}
    problem(site.post("/v1/answers", json=body), 422, "verify")


def test_an_item_switched_off_changes_the_answer_and_it_says_what(site: httpx.Client) -> None:
    answer = ask(site, WEIGHT, k=2)
    used = answer["citations"][0]["source"]["item_id"]
    replayed = site.post(f"/v1/answers/{answer['id']}/replay", json={"exclude_items": [used]})
    assert replayed.status_code == 200, replayed.text
    now = replayed.json()
    changes = now["changes"]
    assert changes["previous"] == now["replay_of"] == answer["id"]
    assert used in changes["sources"]["removed"]
    assert len(changes["sources"]["added"]) == 1
    assert used in changes["cited"]["removed"]
    assert changes["text"] is True
    same = site.post(f"/v1/answers/{answer['id']}/replay").json()
    assert same["changes"]["text"] is False
    assert same["text"] == answer["text"]
    asked = ask(site, WEIGHT, exclude_items=[used])
    assert used not in [source["item"]["id"] for source in asked["sources"]]


def test_an_answer_is_rated(site: httpx.Client) -> None:
    address = f"/v1/answers/{ask(site, WEIGHT)['id']}"
    rated = site.post(f"{address}/rating", json={"rating": 1, "comment": "Well said."})
    assert (rated.json()["rating"], rated.json()["rating_comment"]) == (1, "Well said.")
    assert site.get(address).json()["rating"] == 1
    problem(site.post(f"{address}/rating", json={"rating": 2}), 422, "rating")
    problem(site.post("/v1/answers/none/rating", json={"rating": 1}), 404)


def test_the_saved_file_is_whole_and_runs_nothing(site: httpx.Client) -> None:
    question = f"What is the motto of the griffin {HOSTILE}?"
    answer = ask(site, question, images=[data_url(png((160, 20, 60)))])
    saved = site.get(f"/v1/answers/{answer['id']}/html")
    assert saved.status_code == 200
    assert saved.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in saved.headers["content-security-policy"]
    page = saved.text
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "onerror=alert" not in page.replace("onerror=alert(2)&gt;", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count('src="data:image/jpeg;base64,') >= 2
    assert "http://" not in page
    assert "https://" not in page
    assert "<mark>" in page
    assert "&quot;quotes&quot;" in page
    problem(site.get("/v1/answers/none/html"), 404)


def test_the_answerers_are_those_that_were_registered(site: httpx.Client) -> None:
    listed = site.get("/v1/answerers").json()["data"]
    assert [each["name"] for each in listed] == ["sentences", "owl-nano", "big", "keyless"]
    assert [each["default"] for each in listed] == [True, False, False, False]
    for name in ("/etc", "../big", "mPLUG/mPLUG-Owl3-2B-241014", "Big", "."):
        body = {"collection": "owls", "question": WEIGHT, "model": name}
        found = problem(site.post("/v1/answers", json=body), 404, "model")
        assert "sentences, owl-nano, big" in found["detail"]


def test_a_heatmap_lies_over_the_items_picture(site: httpx.Client) -> None:
    answer = ask(site, WEIGHT, model="owl-nano", images=[data_url(png((0, 200, 60), (90, 60)))])
    if not answer["citations"]:
        pytest.skip("owl-nano found no answer here")
    number = len(answer["citations"]) - 1
    address = answer["citations"][number]["location"]["heatmap_url"]
    found = site.get(address)
    assert found.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(found.content)) as picture:
        assert picture.mode == "RGBA"
        assert picture.size[0] / picture.size[1] == pytest.approx(1.5, abs=0.05)
        low, high = picture.getchannel("A").getextrema()
        assert low < high
    problem(site.get(f"/v1/answers/{answer['id']}/citations/99/heatmap"), 404, "n")
    other = ask(site, WEIGHT)
    problem(site.get(f"/v1/answers/{other['id']}/citations/0/heatmap"), 404, "n")


# --- what fails -----------------------------------------------------------------------------------

GOOD = {"collection": "owls", "question": WEIGHT}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({**GOOD, "question": ""}, 422, "question"),
        ({**GOOD, "question": "  \n"}, 422, "question"),
        ({**GOOD, "question": "x" * 10_001}, 422, "question"),
        ({**GOOD, "question": 7}, 422, "question"),
        ({**GOOD, "question": "a\0b"}, 422, "question"),
        ({"question": WEIGHT}, 422, "collection"),
        ({**GOOD, "collection": "birds"}, 404, None),
        ({**GOOD, "collection": "../owls"}, 422, "collection"),
        ({**GOOD, "k": 0}, 422, "k"),
        ({**GOOD, "k": "5"}, 422, "k"),
        ({**GOOD, "seed": -1}, 422, "seed"),
        ({**GOOD, "max_tokens": 0}, 422, "max_tokens"),
        ({**GOOD, "budget": 499}, 422, "budget"),
        ({**GOOD, "budget": 24_001}, 422, "budget"),
        ({**GOOD, "modle": "x"}, 422, "modle"),
        ({**GOOD, "conversation_id": "none"}, 404, None),
        ({**GOOD, "exclude_items": [7]}, 422, "exclude_items.0"),
        ({**GOOD, "filters": {"field": "year", "op": "~", "value": 1}}, 422, "filters"),
        ({**GOOD, "images": ["http://169.254.169.254/"]}, 422, "images.0"),
        ({**GOOD, "images": ["data:image/png;base64,???"]}, 422, "images.0"),
        ({**GOOD, "images": [data_url(png()[:60])]}, 422, "images.0"),
        ({**GOOD, "images": [data_url(png((1, 1, 1), (8, 8)))] * 1_000}, 422, "images"),
        ({**GOOD, "video": data_url(b"no film")}, 422, "video"),
        ([], 422, "body"),
        ("x", 422, "body"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_questions_are_named(
    site: httpx.Client, body: Any, status: int, field: str | None, stream: bool
) -> None:
    if isinstance(body, dict) and stream:
        body = {**body, "stream": True}
    problem(site.post("/v1/answers", json=body), status, field)


def test_bad_bodies_are_named(site: httpx.Client) -> None:
    kind = {"Content-Type": "application/json"}
    problem(site.post("/v1/answers", content=b"{", headers=kind), 400, "body")
    problem(site.post("/v1/answers", content=b"\xff\xfe", headers=kind), 400, "body")
    problem(site.post("/v1/answers", content=b"[" * 100_000, headers=kind), 400, "body")
    problem(site.post("/v1/answers", content=b"{}"), 415, "Content-Type")
    problem(site.post("/v1/answers", data={"question": "x"}), 415, "Content-Type")
    form = json.dumps(GOOD).encode()
    for files, field in (
        ([("images", ("a.png", png()))], "request"),
        ([("request", (None, b"{}"))], "collection"),
        ([("request", (None, form)), ("request", (None, form))], "request"),
        ([("request", (None, form)), ("images", (None, b"text"))], "images.0"),
        ([("request", (None, form)), ("other", (None, b"text"))], "other"),
    ):
        problem(site.post("/v1/answers", files=files), 422, field)  # type: ignore[arg-type]
    many = [("request", (None, form)), *[("images", ("a.png", png((1, 1, 1), (4, 4))))] * 40]
    assert site.post("/v1/answers", files=many).status_code in (400, 413, 422)  # type: ignore[arg-type]
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"--x\r\nhalf", b"nothing"):
        assert 400 <= site.post("/v1/answers", content=body, headers=broken).status_code < 500


def test_a_model_server_that_fails_is_a_problem_without_its_address(
    site: httpx.Client, model_server: ModelServer
) -> None:
    busy = site.post("/v1/answers", json={**GOOD, "question": "overload?", "model": "big"})
    assert problem(busy, 503)["detail"] == "the server of model 'big' is overloaded (429)"
    assert busy.headers["retry-after"] == "90"
    broken = site.post("/v1/answers", json={**GOOD, "question": "break?", "model": "big"})
    found = problem(broken, 502)
    assert "broke off after 12 characters" in found["detail"]
    assert "127.0.0.1" not in json.dumps(found)
    keyless = site.post("/v1/answers", json={**GOOD, "model": "keyless"})
    assert "TEST_NO_KEY" not in json.dumps(problem(keyless, 500))


def test_a_stream_that_breaks_ends_with_an_error(site: httpx.Client) -> None:
    found = events(site, "break?", model="big")
    assert [name for name, _ in found] == ["retrieved", "text", "error"]
    assert found[-1][1]["status"] == 502


def test_a_client_that_goes_frees_its_place(site: httpx.Client, model_server: ModelServer) -> None:
    """One at a time is asked of the model server here, and three may wait."""
    body = {**GOOD, "question": "Answer slowly", "model": "big"}
    port = site.base_url.port

    def ask_slowly(stream: bool) -> socket.socket:
        asking = socket.create_connection(("127.0.0.1", port), PATIENCE)
        data = json.dumps({**body, "stream": stream}).encode()
        asking.sendall(
            b"POST /v1/answers HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (port, len(data), data)
        )
        return asking

    def wait_for_places_taken(count: int) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            lines = site.get("/metrics").text.splitlines()
            taken = sum(float(x.split()[-1]) for x in lines if x.startswith("rag_owl_lane{"))
            if taken == count:
                return
            assert time.monotonic() < until
            time.sleep(0.02)

    for stream in (True, False):
        model_server.gone.clear()
        before = len(model_server.requests)
        asking = [ask_slowly(stream) for _ in range(4)]
        wait_for_places_taken(4)
        until = time.monotonic() + PATIENCE
        while len(model_server.requests) == before:  # or the model server hears of none of them
            assert time.monotonic() < until
            time.sleep(0.02)
        full = site.post("/v1/answers", json=body)  # a place for each of them, none for a fifth
        assert problem(full, 503)["detail"]
        assert int(full.headers["retry-after"]) >= 1
        for each in asking:
            each.close()
        assert model_server.gone.wait(PATIENCE)
        wait_for_places_taken(0)
        assert ask(site, WEIGHT, model="big")["text"] == "The elf owl weighs 40 grams [1]. "


def test_figures_tell_of_the_stages(site: httpx.Client) -> None:
    ask(site, WEIGHT)
    events(site, WEIGHT, model="big")
    written = site.get("/metrics").text
    for line in (
        'rag_owl_stage_seconds_count{model="sentences",stage="retrieve"}',
        'rag_owl_stage_seconds_count{model="big",stage="first_token"}',
        'rag_owl_stage_seconds_count{model="big",stage="token"}',
        'rag_owl_events_total{model="sentences",what="answers"}',
        'rag_owl_events_total{model="big",what="tokens"}',
    ):
        assert line in written, line


def test_two_streams_at_once_stay_apart(site: httpx.Client, tmp_path: Path) -> None:
    found: dict[str, list[tuple[str, Any]]] = {}

    def run(name: str) -> None:
        found[name] = events(site, f"How much does the {name} owl weigh?")

    threads = [threading.Thread(target=run, args=(name,)) for name in ("elf", "eagle")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "40 grams" in found["elf"][-1][1]["text"]
    assert "2700 grams" in found["eagle"][-1][1]["text"]
