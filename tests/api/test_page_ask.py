"""Asking on the page, in a real browser over the real service, model and sample."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from tests.browser import SCRIPT, ask, drop
from tests.service import PATIENCE


def test_offsets_count_code_points_and_markers_are_told_from_text(page: Page) -> None:
    result = page.evaluate(
        """async () => {
          const { toUtf16, segments, placeMarkers, difference } = await import("/static/text.js");
          const text = "a🦉b [1] says [1]. End [2][1]";
          const units = toUtf16(text);
          const places = placeMarkers(text, [
            { start: 0, end: 12, marker: 1 }, { start: 18, end: 21, marker: 1 },
            { start: 18, end: 21, marker: 2 }, { start: 0, end: 2, marker: 7 },
          ]);
          return {
            owl: text.slice(units(1), units(2)), beyond: units(99) === text.length,
            at: places.map((place) => place.at),
            cut: segments("abcd", [{ start: 1, end: 3 }, { start: 2, end: 9 }]).map((s) => s.text),
            change: difference("It is red and big.", "It is blue and big."),
          };
        }"""
    )
    assert result["owl"] == "🦉"
    assert result["beyond"] is True
    text = "a🦉b [1] says [1]. End [2][1]"
    utf16 = [c for c in text for _ in range(2 if ord(c) > 0xFFFF else 1)]
    first = "".join(utf16).index("[1]", 8)
    assert result["at"] == [first, len(utf16) - 3, len(utf16) - 6, None]
    assert result["cut"] == ["a", "b", "c", "d"]
    assert [(part["kind"], part["text"]) for part in result["change"]] == [
        ("same", "It is "),
        ("gone", "red "),
        ("new", "blue "),
        ("same", "and big."),
    ]


def test_events_are_read_however_they_are_cut(page: Page) -> None:
    sent = (
        "event: text\r\ndata: {\r\ndata: 1}\r\n\r\n: ping\n\nevent: done\rdata:x\r\rdata: cut off"
    )
    for size in (1, 2, 7, 1000):
        got = page.evaluate(
            """async ([sent, size]) => {
              const { events } = await import("/static/sse.js");
              const bytes = new TextEncoder().encode(sent);
              const body = new ReadableStream({ start(control) {
                for (let at = 0; at < bytes.length; at += size)
                  control.enqueue(bytes.slice(at, at + size));
                control.close();
              } });
              const all = [];
              for await (const one of events(body)) all.push([one.event, one.data]);
              return all;
            }""",
            [sent, size],
        )
        assert got == [["text", "{\n1}"], ["done", "x"]]


def test_a_picture_is_asked_about_and_the_passage_is_marked(page: Page, files: Path) -> None:
    page.locator("#attach-input").set_input_files(files / "japan.png")
    expect(page.get_by_role("img", name="japan.png")).to_be_visible()
    ask(page, "What is the capital of this country?")
    answer = page.locator(".answer-text")
    expect(answer).to_contain_text("Tokyo is the capital of Japan.")
    marker = page.get_by_role("button", name="Evidence 1: Japan, supported")
    marker.click()
    evidence = page.get_by_role("complementary", name="Evidence")
    expect(evidence.locator("mark.chosen")).to_have_text("Tokyo is the capital of Japan.")
    picture = evidence.get_by_role("img", name="Picture of Japan")
    expect(picture).to_be_visible()
    assert picture.evaluate("img => img.naturalWidth") > 0
    expect(evidence.locator(".verdict").first).to_have_text("supported")
    small = evidence.locator(".card:not(.open) .thumb").first  # sources are told by their pictures
    expect(small).to_be_visible()
    page.wait_for_function("() => document.querySelector('.card:not(.open) .thumb').naturalWidth")
    # Evidence stands beside the answer.
    assert evidence.bounding_box()["x"] > answer.bounding_box()["x"] + 300  # type: ignore[index]


def test_the_text_comes_before_its_citations(page: Page) -> None:
    """What is shown while it streams: events are held back to look at the page between them."""
    page.evaluate(
        """() => {
          const real = window.fetch;
          window.fetch = async (...given) => {
            const response = await real(...given);
            if (!String(given[0]).endsWith("/v1/answers") || given[1]?.method !== "POST")
              return response;
            const whole = await response.text();
            window.gates = [];
            const body = new ReadableStream({ async start(control) {
              for (const event of whole.split(/(?<=\\r?\\n\\r?\\n)/)) {
                control.enqueue(new TextEncoder().encode(event));
                if (/^event: (retrieved|text)/.test(event))
                  await new Promise((go) => window.gates.push(go));
              }
              control.close();
            } });
            return new Response(body, { status: 200, headers: response.headers });
          };
        }"""
    )
    page.get_by_role("textbox", name="Question").fill("How much does the barn owl weigh?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_function("() => window.gates?.length === 1")
    expect(page.locator(".turn .state")).to_contain_text("Reading")
    expect(page.locator(".card").first).to_be_visible()
    assert page.locator(".answer-text").inner_text() == ""
    page.evaluate("window.gates.shift()()")
    page.wait_for_function("() => window.gates.length === 1")
    expect(page.locator(".answer-text.streaming")).to_contain_text("barn owl")
    assert page.locator(".marker").count() == 0
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.evaluate("setInterval(() => window.gates.shift()?.(), 10)")
    expect(page.locator(".marker").first).to_be_visible()


def test_code_points_before_the_passage_do_not_move_its_mark(page: Page) -> None:
    ask(page, "How many grams does the barn owl of Greyfield weigh?")
    page.locator(".marker").first.click()
    expect(page.locator("mark.chosen")).to_have_text("The barn owl of Greyfield weighs 430 grams.")


def test_a_page_opens_with_its_box(page: Page) -> None:
    ask(page, "How many steps does the lighthouse of Marrow Point have?")
    expect(page.locator(".answer-text")).to_contain_text("199 steps")
    page.locator(".marker").first.click()
    shown = page.get_by_role("img", name="Page 2 of atlas.pdf")
    expect(shown).to_be_visible()
    box = page.locator(".page .box.chosen").first.bounding_box()
    frame = shown.bounding_box()
    assert box
    assert frame
    # The second line, where the file's coordinates put it: 116 of 800 points below the top.
    middle = (box["y"] + box["height"] / 2 - frame["y"]) / frame["height"]
    assert 0.12 < middle < 0.16
    assert 0.1 < (box["x"] - frame["x"]) / frame["width"] < 0.14


def test_a_video_opens_at_its_second(page: Page) -> None:
    ask(page, "What hovers above the meadow of Elmstead?")
    expect(page.locator(".answer-text")).to_contain_text("kestrel")
    page.locator(".marker").first.click()
    player = page.locator(".video video")
    expect(player).to_be_visible()
    page.wait_for_function("() => document.querySelector('.video video')?.readyState >= 1")
    start, end = (float(part) for part in player.get_attribute("src").split("#t=")[1].split(","))  # type: ignore[union-attr]
    assert 0 <= start < 5 <= end + 1
    page.wait_for_function(
        f"() => Math.abs(document.querySelector('.video video').currentTime - {start}) < 0.3"
    )


def test_what_the_collection_cannot_answer_is_said_so(page: Page) -> None:
    ask(page, "Who won the chess world championship of 1972?")
    expect(page.locator(".turn .state")).to_contain_text("No answer found.")
    assert page.locator(".marker").count() == 0
    expect(page.locator(".group h3")).to_have_text("Read; none of it answers this")


def test_script_in_documents_questions_and_names_is_shown_as_text(page: Page) -> None:
    ask(page, f"What is the motto of the griffin {SCRIPT}?")
    expect(page.locator(".question")).to_contain_text(SCRIPT)
    page.locator(".card-head", has_text="griffin").first.click()
    evidence = page.get_by_role("complementary", name="Evidence")
    expect(evidence.locator(".passage-text").first).to_contain_text("<script>document.title")
    expect(evidence).to_contain_text("<b>griffin<b>.md")
    assert page.locator("main img[src='x'], main script, main b").count() == 0
    page.goto(page.url.split("#")[0] + "#/collections/birds")
    expect(page.locator("tbody")).to_contain_text("<b>griffin<b>.md")
    assert page.title() == "birds – rag_owl"


def test_script_in_metadata_and_comments_is_shown_as_text(page: Page, site: str) -> None:
    words = "The ptarmigan of Hollow Fell turns white in October."
    sent = httpx.post(
        f"{site}/v1/collections/hostile/documents",
        files={"files": ("ptarmigan.txt", words)},
        data={"metadata": json.dumps({"note": SCRIPT, SCRIPT: [SCRIPT]})},
    )
    job = sent.raise_for_status().json()["job"]["id"]
    assert "done" in httpx.get(f"{site}/v1/jobs/{job}/events", timeout=PATIENCE).text
    page.goto(f"{site}/#/ask/hostile")
    expect(page.get_by_role("heading", name="Ask hostile")).to_be_visible()
    ask(page, "When does the ptarmigan of Hollow Fell turn white?")
    page.locator(".card-head").first.click()
    facts = page.locator(".about dl").first
    expect(facts.locator("dt")).to_have_text(["note", SCRIPT])
    expect(facts.locator("dd")).to_have_text([SCRIPT, json.dumps([SCRIPT])])
    with httpx.Client(base_url=site, timeout=PATIENCE) as http:
        answer = http.get("/v1/answers?collection=hostile").json()["data"][0]
        rating = {"rating": -1, "comment": SCRIPT}
        http.post(f"/v1/answers/{answer['id']}/rating", json=rating).raise_for_status()
    page.goto(f"{site}/#/answers/{answer['id']}")
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("What is wrong with it?")).to_have_value(SCRIPT)
    assert page.locator("main img[src='x']").count() == 0
    assert page.title() == "Answer – rag_owl"


def test_a_source_is_switched_off_and_what_changes_is_shown(page: Page) -> None:
    ask(page, "How many grams does the barn owl of Greyfield weigh?")
    use = page.get_by_role("switch", name="Use 🦉 Field notes 🦉 as a source")
    use.focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Ask again without 1 source").click()
    changes = page.get_by_role("region", name="What changed")
    expect(changes).to_contain_text("Without 1 source: 🦉 Field notes 🦉")
    expect(changes).to_contain_text("No longer cited: 🦉 Field notes 🦉")
    expect(changes.locator("del").first).to_be_visible()
    expect(page.locator(".card", has_text="Field notes")).to_have_count(0)


def test_a_follow_up_belongs_to_the_conversation_and_is_found_again(page: Page) -> None:
    ask(page, "What is the capital of Thailand?")
    with page.expect_request(lambda request: request.method == "POST") as asked:
        ask(page, "And its currency?")
    sent = json.loads(asked.value.post_data or "")
    assert len(sent["conversation_id"]) > 8
    expect(page.locator(".answer-text").last).to_contain_text("baht")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("link", name="And its currency?").first.click()
    expect(page.locator(".question")).to_have_text(
        ["What is the capital of Thailand?", "And its currency?"]
    )
    expect(page.locator(".marker").first).to_be_visible()


def test_an_answer_is_rated_and_saved(page: Page, tmp_path: Path) -> None:
    ask(page, "What is the capital of Kenya?")
    good = page.get_by_role("button", name="Good answer")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_label("What is wrong with it?").fill("It is the wrong Kenya.")
    page.keyboard.press("Enter")
    expect(page.locator(".remark")).to_have_text("Thank you, noted.")
    good.click()
    expect(page.locator(".remark")).to_be_empty()
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as HTML").click()
    saving.value.save_as(tmp_path / "answer.html")
    saved = (tmp_path / "answer.html").read_text("utf-8")
    assert "Nairobi" in saved
    assert "<script" not in saved
    page.reload()
    page.get_by_role("link", name="What is the capital of Kenya?").first.click()
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")


def test_filters_and_options_are_sent(page: Page) -> None:
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Sources").fill("2")
    page.get_by_label("Longest answer").fill("50")
    page.get_by_label("Text to read").fill("4000")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("switch", name="Leave out what no source bears out").click()
    page.get_by_role("switch", name="Measure what each source adds").click()
    page.get_by_role("button", name="Filter by metadata").click()
    page.get_by_label("Field").fill("no-such-field")
    page.get_by_label("Value").fill("7")
    with page.expect_request(lambda request: request.method == "POST") as asked:
        ask(page, "What is the capital of Kenya?")
    sent = json.loads(asked.value.post_data or "")
    assert sent["k"] == 2
    assert (sent["max_tokens"], sent["budget"], sent["seed"]) == (50, 4000, 7)
    assert (sent["require_support"], sent["verify"]) == (True, "full")
    assert sent["filters"] == {"field": "no-such-field", "op": "==", "value": 7}
    expect(page.locator(".turn .state")).to_contain_text("No answer found.")


def test_a_choice_that_cannot_be_is_shown_to_be_corrected(page: Page) -> None:
    options = page.get_by_role("button", name="Options")
    options.click()
    page.get_by_label("Sources").fill("9999")
    options.click()
    expect(page.get_by_label("Sources")).to_be_hidden()
    page.get_by_role("textbox", name="Question").fill("What is the capital of Kenya?")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Sources")).to_be_focused()
    assert page.locator(".turn").count() == 0


def test_a_refused_question_says_why_and_can_be_tried_again(page: Page) -> None:
    page.locator("#attach-input").set_input_files(
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.get_by_role("textbox", name="Question").fill("What is this?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("picture")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_files_that_are_no_pictures_are_offered_to_the_collection(page: Page) -> None:
    drop(page, ".ask", {"heron.txt": "The heron of Millpond is called Gustav."})
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".notice .job-state")).to_have_text("done")
    ask(page, "What is the heron of Millpond called?")
    expect(page.locator(".answer-text")).to_contain_text("Gustav")


def test_a_heatmap_is_switched_on_and_off(page: Page, files: Path) -> None:
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Answered by").select_option("owl-nano")
    page.locator("#attach-input").set_input_files(files / "japan.png")
    ask(page, "What is the capital of this country?")
    expect(page.locator(".meta")).to_contain_text("owl-nano")
    page.locator(".marker").first.click()
    switch = page.get_by_role("switch", name="Heatmap: where the model looked")
    heat = page.locator(".frame .heat")
    expect(heat).to_be_hidden()
    switch.click()
    expect(heat).to_be_visible()
    page.wait_for_function("() => document.querySelector('.heat').naturalWidth > 0")
    over, under = heat.bounding_box(), page.locator(".frame img").first.bounding_box()
    assert over == under
    switch.click()
    expect(heat).to_be_hidden()
