// The view where questions are asked: the conversation, the composer, and the evidence beside.

import { answerPath, call, get, getAll, stream } from "./api.js";
import { Composer } from "./composer.js";
import { announce, h, icon, owl, plural, problem, replace, when } from "./dom.js";
import { Evidence } from "./evidence.js";
import { Turn } from "./turn.js";
import { uploadNotice } from "./upload.js";

const CHOSEN = "rag-owl-collection";

export async function askView(main, { collection = null, answer = null }) {
  const known = await getAll("v1/collections");
  const view = new Ask(main, known);
  if (answer) await view.reopen(answer);
  else view.choose(collection ?? localStorage.getItem(CHOSEN));
  return () => view.leave();
}

class Ask {
  constructor(main, known) {
    this.known = known;
    this.turns = [];
    this.conversation = null;
    this.running = null;
    this.evidence = new Evidence({
      again: (turn) => this.again(turn),
      back: (turn, index) => this.back(turn, index),
    });
    this.composer = new Composer({
      ask: (asked) => this.ask(asked),
      stop: () => this.running?.abort(),
      files: (files) => this.offer(files),
    });
    this.picker = h(
      "select",
      { id: "collection", onchange: () => this.choose(this.picker.value) },
      known.map((one) => h("option", { value: one.name }, one.name)),
    );
    this.fresh = h(
      "button",
      { type: "button", class: "plain small", hidden: true, onclick: () => this.restart() },
      icon("add"),
      "New conversation",
    );
    this.thread = h("section", { class: "thread", "aria-label": "Conversation", tabindex: 0 });
    this.notices = h("div", { class: "notices" });
    this.earlier = h("section", { class: "earlier", "aria-label": "Asked before" });
    this.element = h(
      "div",
      { class: "ask" },
      h(
        "div",
        { class: "ask-head" },
        h("h1", { class: "unseen" }, "Ask"),
        h("label", { for: "collection" }, "Collection"),
        this.picker,
        this.fresh,
      ),
      this.thread,
      this.evidence.element,
      h("div", { class: "ask-foot" }, this.notices, this.composer.element),
      this.earlier,
    );
    this.element.addEventListener("dragover", (event) => this.dragged(event, true));
    this.element.addEventListener("dragleave", (event) => this.dragged(event, false));
    this.element.addEventListener("drop", (event) => this.dropped(event));
    replace(main, this.element);
    document.addEventListener("keydown", (this.shortcut = (event) => this.slash(event)));
  }

  leave() {
    this.running?.abort();
    this.evidence.release();
    document.removeEventListener("keydown", this.shortcut);
  }

  slash(event) {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.composer.text.focus();
  }

  choose(name) {
    const info = this.known.find((one) => one.name === name) ?? this.known[0];
    this.collection = info?.name ?? null;
    if (info) {
      this.picker.value = info.name;
      localStorage.setItem(CHOSEN, info.name);
    }
    this.restart();
  }

  restart() {
    this.running?.abort();
    this.turns = [];
    this.conversation = null;
    this.fresh.hidden = true;
    this.evidence.clear();
    this.element.classList.add("unasked");
    this.welcome();
    if (this.collection && innerWidth >= 1000) this.composer.text.focus();
  }

  async welcome() {
    const info = this.known.find((one) => one.name === this.collection);
    replace(this.earlier);
    if (!info) {
      replace(
        this.thread,
        h(
          "div",
          { class: "welcome" },
          owl("open", "large"),
          h("h2", {}, "Nothing to ask yet"),
          h("p", {}, "Make a collection and give it some pictures, pages, texts or videos."),
          h("a", { class: "primary", href: "#/collections" }, "Make a collection"),
        ),
      );
      return;
    }
    replace(
      this.thread,
      h(
        "div",
        { class: "welcome" },
        owl("open", "large"),
        h("h2", {}, `Ask ${info.name}`),
        h(
          "p",
          {},
          `It holds ${plural(info.documents, "document")}. An answer says which of them it rests on, and where in them.`,
        ),
      ),
    );
    const { data } = await get("v1/answers", { collection: info.name, limit: 6 }).catch(() => ({
      data: [],
    }));
    if (!data.length || this.collection !== info.name) return;
    replace(
      this.earlier,
      h("h2", {}, "Asked before"),
      h(
        "ul",
        {},
        data
          .slice(0, 6)
          .map((one) =>
            h(
              "li",
              {},
              h("a", { href: `#/answers/${encodeURIComponent(one.id)}` }, one.question),
              h("span", { class: "small-print" }, when(one.created_at)),
            ),
          ),
      ),
    );
  }

  /** An answer of earlier, and with it its conversation. */
  async reopen(id) {
    const chosen = await get(answerPath(id));
    this.choose(chosen.collection);
    let all = [chosen];
    if (chosen.conversation_id) {
      const { data } = await get("v1/answers", {
        conversation_id: chosen.conversation_id,
        limit: 50,
      });
      if (data.some((one) => one.id === id)) all = data.sort((a, b) => a.created_at - b.created_at);
    }
    // A list may leave the sources out; one answer has them.
    const whole = await Promise.all(
      all.map((one) => (one.sources ? one : get(answerPath(one.id)))),
    );
    for (const answer of whole)
      this.begin({ text: answer.question, pictures: [], video: null }).finish(answer);
    this.conversation = chosen.conversation_id;
    const turn = this.turns.find((one) => one.answer.id === id) ?? this.turns.at(-1);
    this.evidence.show(turn, turn.answer.citations.length ? 0 : null, false);
    turn.element.scrollIntoView({ block: "start" });
  }

  begin(asked) {
    if (!this.turns.length) replace(this.thread);
    this.element.classList.remove("unasked");
    const turn = new Turn(
      { ...asked, collection: this.collection },
      { open: (which, index) => this.evidence.show(which, index) },
    );
    this.turns.push(turn);
    this.thread.append(turn.element);
    this.fresh.hidden = false;
    return turn;
  }

  async ask(asked) {
    if (!this.collection) return announce("Choose a collection first.");
    const turn = this.begin(asked);
    await this.run(
      turn,
      async (signal) => {
        const given = { ...request(turn.asked, this.conversation), signal };
        for await (const { event, data } of stream("POST", "v1/answers", given)) {
          if (event === "retrieved") {
            turn.found(data.data);
            this.evidence.found(turn);
          } else if (event === "text") turn.more(data.delta);
          else if (event === "error") throw new Error(data.detail || data.title);
          else if (event === "done") return data;
        }
        throw new Error("The connection ended before the answer was complete.");
      },
      () => this.ask(asked),
    );
  }

  /** The same question, after the same turns, without the sources that were switched off. */
  async again(before) {
    if (this.running) return;
    const off = [...before.excluded];
    const turn = this.begin(before.asked);
    turn.before = before.answer;
    const titles = new Map(
      before.retrieved.map(({ item }) => [item.id, item.title || item.document_name]),
    );
    turn.without = off.map((id) => titles.get(id) ?? id);
    const excluded = [...(before.answer.exclude_items ?? []), ...off];
    await this.run(
      turn,
      (signal) =>
        call("POST", `${answerPath(before.answer.id)}/replay`, {
          json: { exclude_items: excluded },
          signal,
        }),
      () => this.again(before),
    );
  }

  /** Shows how `work` goes; it gives the answer. repeat: does it once more, in a new turn. */
  async run(turn, work, repeat) {
    this.follow(turn.element);
    announce("Asking.");
    this.evidence.found(turn);
    this.composer.setBusy(true);
    const running = (this.running = new AbortController());
    try {
      const answer = await work(running.signal);
      this.conversation = answer.conversation_id ?? this.conversation;
      turn.finish(answer);
      this.evidence.show(turn, answer.citations.length ? 0 : null, false);
    } catch (error) {
      if (error.name === "AbortError") turn.stopped();
      else
        turn.failed(error, () => {
          turn.element.remove();
          this.turns = this.turns.filter((one) => one !== turn);
          repeat();
          this.composer.text.focus();
        });
    } finally {
      if (this.running === running) {
        this.running = null;
        this.composer.setBusy(false);
      }
      this.follow(turn.element);
    }
  }

  back(turn, index) {
    const marker = turn.element.querySelector(`.marker[data-index="${index ?? 0}"]`);
    (marker ?? this.composer.text).focus();
    turn.element.scrollIntoView({ block: "nearest" });
  }

  follow(element) {
    element.scrollIntoView({ block: "start", behavior: "auto" });
  }

  /** Files that are no pictures cannot be shown with a question; they can join the collection. */
  offer(files) {
    if (this.collection) this.notices.append(uploadNotice(this.collection, files));
  }

  dragged(event, over) {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    if (!over && this.element.contains(event.relatedTarget)) return;
    this.element.classList.toggle("dropping", over);
  }

  dropped(event) {
    this.element.classList.remove("dropping");
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    this.composer.add(files);
    this.composer.text.focus();
  }
}

/** The body of POST /v1/answers: JSON, or multipart where files go with it. */
function request(asked, conversation) {
  const json = {
    collection: asked.collection,
    question: asked.text,
    stream: true,
    ...asked.options,
    ...(conversation && { conversation_id: conversation }),
  };
  if (!asked.pictures?.length && !asked.video) return { json };
  const body = new FormData();
  body.append("request", new Blob([JSON.stringify(json)], { type: "application/json" }));
  for (const file of asked.pictures) body.append("images", file, file.name);
  if (asked.video) body.append("video", asked.video, asked.video.name);
  return { body };
}
