// The panel beside the answer: every source that was read, the cited ones first, each with its
// verdict, and a switch to ask again without it.

import { get, itemPath, media } from "./api.js";
import { announce, h, icon, plural, problem, replace } from "./dom.js";
import { verdict } from "./verdict.js";
import { view, where } from "./viewer.js";

const MOST_THUMBNAILS = 24; // with a key each is a request of its own
const KINDS = { passage: "text", page: "page", picture: "picture", video: "video" };

export class Evidence {
  /** on.again(turn): ask again without the switched-off sources; on.back(turn, index) */
  constructor(on) {
    this.on = on;
    this.turn = null;
    this.freed = [];
    this.list = h("div", { class: "cards" });
    this.foot = h("div", { class: "evidence-foot" });
    this.title = h("h2", { id: "evidence-title" }, "Evidence");
    this.element = h(
      "aside",
      {
        id: "evidence",
        class: "evidence",
        "aria-labelledby": "evidence-title",
        tabindex: -1,
        onkeydown: (event) => this.pressed(event),
      },
      h(
        "div",
        { class: "evidence-head" },
        this.title,
        h(
          "button",
          { type: "button", class: "plain small back", onclick: () => this.back() },
          "Back to the answer",
        ),
      ),
      this.list,
      this.foot,
    );
    this.clear();
  }

  clear() {
    this.turn = null;
    this.release();
    this.element.classList.add("empty");
    replace(
      this.list,
      h(
        "p",
        { class: "small-print" },
        "What an answer rests on appears here: the very words, the page, the picture, the second of a video.",
      ),
    );
    replace(this.foot);
  }

  release() {
    for (const free of this.freed) free();
    this.freed = [];
  }

  pressed(event) {
    if (event.key === "Escape") this.back();
  }

  back() {
    if (this.turn) this.on.back(this.turn, this.chosen);
  }

  /** While it streams: what was found, before anything of it is cited. */
  found(turn) {
    this.show(turn, null, false);
  }

  /** chosen: index of the citation to open, or null. */
  show(turn, chosen = null, focus = true) {
    this.release();
    this.turn = turn;
    this.chosen = chosen;
    this.element.classList.remove("empty");
    const citations = turn.answer?.citations ?? [];
    const cards = sources(turn.retrieved, citations);
    const cited = cards.filter((card) => card.cited.length);
    const others = cards.filter((card) => !card.cited.length);
    const group = (title, some, open) =>
      some.length > 0 &&
      h(
        "section",
        { class: "group" },
        h("h3", {}, title),
        h(
          "ul",
          {},
          some.map((card) => this.card(card, open(card))),
        ),
      );
    const rest = !turn.answer
      ? "Being read"
      : turn.answer.abstained
        ? "Read; none of it answers this"
        : "Read, not cited";
    replace(
      this.list,
      group("Cited", cited, (card) => card.cited.some((one) => one.index === chosen)),
      group(rest, others, () => false),
      turn.answer &&
        cards.length > 1 &&
        h("p", { class: "small-print" }, "Switch a source off to ask again without it."),
      !cards.length &&
        h(
          "p",
          { class: "small-print" },
          turn.answer ? "Nothing in the collection came near this question." : "Searching…",
        ),
    );
    this.showFoot();
    turn.mark(chosen);
    if (chosen === null || !focus) return;
    const open = this.list.querySelector("[aria-expanded=true]");
    open?.focus({ preventScroll: true });
    const card = open?.closest(".card");
    card?.scrollIntoView({ block: "nearest", behavior: "auto" });
    if (innerWidth < 1000) card?.scrollIntoView({ block: "start", behavior: "auto" });
  }

  card(card, open) {
    const { marker, item, cited } = card;
    const title = item.title || item.document_name;
    // A whole passage is no place: only what is cited in it is.
    const located = cited[0]?.citation.location ?? (item.kind === "passage" ? null : item.location);
    const place = [item.document_name.split("/").at(-1), where(located)].filter(Boolean).join(", ");
    const body = h("div", { class: "card-body", hidden: true });
    const expand = (on) => {
      button.setAttribute("aria-expanded", String(on));
      element.classList.toggle("open", on);
      body.hidden = !on;
      if (on && !body.childElementCount) this.fill(body, card);
    };
    const button = h(
      "button",
      {
        type: "button",
        class: "card-head",
        "aria-expanded": "false",
        onclick: () => {
          const on = button.getAttribute("aria-expanded") !== "true";
          if (on && cited.length) {
            this.chosen = cited[0].index;
            this.turn.mark(this.chosen);
          }
          expand(on);
        },
      },
      h("span", { class: "number" }, String(marker)),
      h(
        "span",
        { class: "card-title" },
        h("span", { class: "title" }, title),
        h(
          "span",
          { class: "place" },
          icon(KINDS[item.kind] ?? "text"),
          place,
        ),
      ),
      item.picture && marker <= MOST_THUMBNAILS && this.thumbnail(item),
      icon("down-arrow", "chevron"),
    );
    const quotes = cited.filter((one) => one.citation.quote);
    const element = h(
      "li",
      { class: `card${cited.length ? " is-cited" : ""}` },
      h("div", { class: "card-top" }, button, this.turn.answer && this.useSwitch(card, title)),
      cited.length > 0 &&
        h(
          "ul",
          { class: "statements", "aria-label": "Checked" },
          cited.map(({ citation }) =>
            h(
              "li",
              {},
              verdict(citation.support),
              quotes.length > 0 && citation.quote && h("q", {}, citation.quote),
              measured(citation.support),
            ),
          ),
        ),
      body,
    );
    if (open) expand(true);
    return element;
  }

  thumbnail(item) {
    const { turn } = this;
    const collection = turn.answer?.collection ?? turn.asked.collection;
    const img = h("img", { class: "thumb", alt: "", loading: "lazy", decoding: "async" });
    media(`${itemPath(collection, item.id)}/thumbnail?size=128`).then(
      ({ url, free }) => {
        this.later(turn, img)(free);
        img.src = url;
      },
      () => img.remove(), // it only decorates
    );
    return img;
  }

  /** Takes what lets go of something loaded: at once where it is shown no more. */
  later(turn, element) {
    return (free) =>
      this.turn === turn && element.isConnected ? this.freed.push(free) : free();
  }

  useSwitch(card, title) {
    const input = h("input", {
      type: "checkbox",
      role: "switch",
      checked: !this.turn.excluded.has(card.item.id),
      "aria-label": `Use ${title} as a source`,
      onchange: () => {
        this.turn.excluded[input.checked ? "delete" : "add"](card.item.id);
        input.closest(".card").classList.toggle("off", !input.checked);
        this.showFoot();
        announce(`${title} is ${input.checked ? "used" : "left out when you ask again"}.`);
      },
    });
    return h("label", { class: "switch use", title: "Use this source" }, input);
  }

  showFoot() {
    const off = this.turn?.excluded.size ?? 0;
    replace(
      this.foot,
      off > 0 &&
        this.turn.answer &&
        h(
          "button",
          { type: "button", class: "primary wide", onclick: () => this.on.again(this.turn) },
          icon("again"),
          `Ask again without ${plural(off, "source")}`,
        ),
    );
  }

  async fill(body, card) {
    const turn = this.turn;
    const later = this.later(turn, body);
    try {
      const collection = turn.answer?.collection ?? turn.asked.collection;
      // A citation of an older answer may know its item by id alone.
      card.item = card.item.kind ? card.item : await get(itemPath(collection, card.item.id));
      replace(body, ...view(turn.answer, collection, card.item, card.cited, this.chosen, later));
      const mark = body.querySelector("mark.chosen");
      if (mark && mark.offsetTop > body.clientHeight) mark.scrollIntoView({ block: "nearest" });
    } catch (error) {
      replace(body, problem(error));
    }
  }
}

/** What the checks measured, in words; nothing where nothing was measured. */
function measured(support) {
  const said = [];
  // Of answers that were stored before, both are missing.
  if (support.relevance != null)
    said.push(`answers the question: ${Math.round(support.relevance * 100)} %`);
  if (support.alike != null) said.push(`shows the same: ${Math.round(support.alike * 100)} %`);
  if (support.entailment !== null) said.push(`entailed ${Math.round(support.entailment * 100)} %`);
  if (support.attention !== null) said.push(`attention ${Math.round(support.attention * 100)} %`);
  if (support.ablation_drop !== null)
    said.push(`without it ${support.ablation_drop.toFixed(1)} nats less likely`);
  return said.length > 0 && h("span", { class: "measured" }, said.join(", "));
}

/** One card for each source in the order of the markers, with the citations that point to it. */
function sources(retrieved, citations) {
  const cards = retrieved.map(({ item, marker }, at) => ({
    marker: marker ?? at + 1,
    item,
    cited: [],
  }));
  citations.forEach((citation, index) => {
    const id = citation.source.item_id;
    let card = cards.find((one) => one.item.id === id);
    if (!card) {
      const { document_id, document_name, revision, title } = citation.source;
      card = {
        marker: citation.marker,
        item: { id, document_id, document_name, revision, title, location: citation.location },
        cited: [],
      };
      cards.push(card);
    }
    card.marker = citation.marker;
    card.cited.push({ citation, index });
  });
  return cards.sort((a, b) => a.marker - b.marker);
}
