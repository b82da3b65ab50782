// One question and its answer: written as it streams in, then laid out with its citations.

import { answerPath, call, download } from "./api.js";
import { announce, h, icon, owl, plural, problem, replace, when } from "./dom.js";
import { changes } from "./changes.js";
import { placeMarkers, segments, toUtf16 } from "./text.js";
import { clock } from "./time.js";
import { VERDICTS, best } from "./verdict.js";

let count = 0;

export class Turn {
  /** on.open(turn, index): show the evidence of that citation (null: of none). */
  constructor(asked, on) {
    this.asked = asked;
    this.on = on;
    this.id = `turn-${++count}`;
    this.retrieved = [];
    this.excluded = new Set(); // ids of items switched off for the next time
    this.answer = null;
    this.before = null; // the answer that this one is compared with
    this.text = h("p", { class: "answer-text streaming" });
    this.state = h(
      "p",
      { class: "state" },
      owl("looking"),
      h("span", {}, "Looking for what bears on it…"),
    );
    this.body = h("div", { class: "answer" }, this.state, this.text);
    this.element = h(
      "article",
      { class: "turn", "aria-labelledby": this.id },
      h("h2", { id: this.id, class: "question" }, asked.text),
      this.pictures(),
      this.body,
    );
  }

  pictures() {
    const files = [...(this.asked.pictures ?? []), this.asked.video].filter(Boolean);
    if (!files.length) return null;
    return h(
      "ul",
      { class: "asked-with", "aria-label": "Asked with" },
      files.map((file) => {
        if (!file.type.startsWith("image/")) return h("li", {}, this.ownVideo(file));
        const img = h("img", { alt: file.name, src: URL.createObjectURL(file) });
        img.addEventListener("load", () => URL.revokeObjectURL(img.src), { once: true });
        return h("li", {}, img);
      }),
    );
  }

  /** The user's own video, for the moments that an answer names. */
  ownVideo(file) {
    this.film = h("video", {
      controls: true,
      preload: "metadata",
      playsinline: true,
      "aria-label": file.name,
      src: URL.createObjectURL(file),
    });
    return this.film;
  }

  found(retrieved) {
    this.retrieved = retrieved;
    replace(
      this.state,
      owl("looking"),
      h("span", {}, `Reading ${plural(retrieved.length, "source")}…`),
    );
  }

  more(delta) {
    this.text.append(delta);
  }

  failed(error, again) {
    replace(this.body, this.text.textContent ? this.text : null, problem(error, again));
    this.text.classList.remove("streaming");
  }

  stopped() {
    replace(
      this.body,
      this.text.textContent ? this.text : null,
      h("p", { class: "state" }, "Stopped."),
    );
    this.text.classList.remove("streaming");
  }

  finish(answer) {
    this.answer = answer;
    if (answer.sources?.every((source) => source.item)) this.retrieved = answer.sources;
    this.body.classList.toggle("abstained", answer.abstained);
    replace(
      this.body,
      this.before && changes(this.before, answer, this.without ?? []),
      answer.abstained &&
        h(
          "p",
          { class: "state" },
          owl("closed"),
          h("span", {}, h("strong", {}, "No answer found. "), "Better to say so than to guess."),
        ),
      answer.reading && h("p", { class: "small-print" }, `Understood as: ${answer.reading}`),
      this.laidOut(),
      this.warnings(),
      this.actions(),
      (this.remark = h("div", { class: "remark" }, answer.rating === -1 && this.remarkForm())),
    );
    const said = answer.abstained
      ? "No answer found."
      : `Answer with ${plural(answer.citations.length, "citation")}.`;
    announce(`${said} ${answer.text}`);
  }

  /** The answer's text with what rests on evidence marked, each marker a button. */
  laidOut() {
    const { text, citations, short, moments = [], statements = [] } = this.answer;
    const places = placeMarkers(text, citations);
    const units = toUtf16(text);
    const moves = moments.map((moment) => ({
      start: units(moment.start),
      end: units(moment.end),
      moment,
    }));
    const spans = places.flatMap((place) => [
      { start: place.start, end: place.end, place },
      ...(place.at === null ? [] : [{ start: place.at, end: place.to, marker: place }]),
    ]);
    spans.push(...moves);
    const begun = new Set(citations.map((one) => one.start));
    for (const { start, end, verdict } of statements)
      if (verdict === "unsupported" && !begun.has(start))
        spans.push({ start: units(start), end: units(end), unsupported: true });
    const at = short ? text.indexOf(short) : -1;
    if (at >= 0 && short.length < text.length)
      spans.push({ start: at, end: at + short.length, short: true });
    const loose = places.filter((place) => place.at === null && !place.shared);
    const shown = [];
    let offset = 0;
    for (let { text: piece, spans: over } of segments(text, spans)) {
      offset += piece.length;
      const marker = over.find((span) => span.marker)?.marker;
      if (marker) shown.push(this.marker(marker));
      else {
        const cited = over.filter((span) => span.place);
        // A marker stands on the line of its statement.
        if (spans.some((span) => span.marker && span.start === offset))
          piece = piece.replace(/ $/, "\u00a0");
        const inner = over.some((span) => span.short) ? h("strong", {}, piece) : piece;
        if (cited.length) shown.push(h("span", { class: `cited ${best(cited)}` }, inner));
        else if (over.some((span) => span.unsupported))
          shown.push(
            h("span", { class: "cited unsupported", title: "No source bears this out" }, inner),
          );
        else
          shown.push(
            over.some((span) => span.moment) ? h("span", { class: "cited" }, inner) : inner,
          );
      }
      for (const { moment } of moves.filter((one) => one.end === offset))
        shown.push(this.moment(moment));
      for (const place of loose.filter((place) => place.end === offset))
        shown.push(this.marker(place));
    }
    this.text = h("p", { class: "answer-text" }, shown);
    return this.text;
  }

  /** A stretch of the user's own video that a statement rests on. */
  moment({ start_seconds: start, end_seconds: end }) {
    const seek = () => {
      this.film.currentTime = start;
      this.film.play().catch(() => {}); // the browser may refuse; its own controls remain
      this.film.scrollIntoView({ block: "nearest" });
    };
    return h(
      "button",
      {
        type: "button",
        class: "marker moment",
        disabled: !this.film,
        "aria-label": `Your video, ${clock(start)} to ${clock(end)}`,
        onclick: seek,
      },
      clock(start),
    );
  }

  marker(place) {
    const { citation, index } = place;
    const { label } = VERDICTS[citation.support.verdict] ?? VERDICTS.unchecked;
    const button = h(
      "button",
      {
        type: "button",
        class: `marker ${citation.support.verdict}`,
        "data-index": index,
        "aria-label": `Evidence ${citation.marker}: ${citation.source.title || citation.source.document_name}, ${label}`,
        "aria-controls": "evidence",
        onclick: () => this.on.open(this, index),
      },
      String(citation.marker),
    );
    return button;
  }

  /** Marks the citation whose evidence is open; null: none. */
  mark(index) {
    for (const button of this.element.querySelectorAll(".marker"))
      button.classList.toggle("open", index !== null && Number(button.dataset.index) === index);
  }

  warnings() {
    const { text, statements, dangling_markers: dangling, left_out: left, notes } = this.answer;
    const said = [...(notes ?? [])];
    if (dangling?.length)
      said.push(
        `${dangling.map((n) => `[${n}]`).join(", ")} in this answer points to no source; do not trust it.`,
      );
    for (const { start, end, contradicted_by: against = [] } of statements ?? [])
      if (against.length)
        said.push(
          `${against.map((n) => `[${n}]`).join(", ")} says otherwise than “${Array.from(text).slice(start, end).join("")}”.`,
        );
    if (left?.length)
      said.push(
        `${plural(left.length, "source")} did not fit and ${left.length === 1 ? "was" : "were"} not read whole.`,
      );
    return said.map((text) => h("p", { class: "warning" }, icon("warning"), text));
  }

  actions() {
    const { id, model, created_at: created } = this.answer;
    const rate = (value, name, label) =>
      h(
        "button",
        {
          type: "button",
          class: "round",
          "aria-label": label,
          title: label,
          "aria-pressed": String(this.answer.rating === value),
          "data-rating": value,
          onclick: () => this.rate(value),
        },
        icon(name),
      );
    return h(
      "div",
      { class: "actions", role: "group", "aria-label": "This answer" },
      rate(1, "up", "Good answer"),
      rate(-1, "down", "Bad answer"),
      h(
        "button",
        { type: "button", class: "plain small copy", onclick: () => this.copy() },
        icon("copy"),
        "Copy",
      ),
      h(
        "button",
        {
          type: "button",
          class: "plain small",
          onclick: (event) => this.save(event.currentTarget),
        },
        icon("save"),
        "Save as HTML",
      ),
      h(
        "button",
        {
          type: "button",
          class: "plain small evidence-jump",
          onclick: () => this.on.open(this, this.answer.citations.length ? 0 : null),
        },
        icon("text"),
        "Evidence",
      ),
      h("span", { class: "meta" }, `${model}, ${when(created)}`),
    );
  }

  sendRating(rating, comment = null) {
    const json = { rating, ...(comment && { comment }) };
    return call("POST", `${answerPath(this.answer.id)}/rating`, { json });
  }

  async rate(value) {
    const rating = this.answer.rating === value ? 0 : value;
    try {
      await this.sendRating(rating);
    } catch (error) {
      return this.body.append(problem(error));
    }
    this.answer.rating = rating;
    this.answer.rating_comment = null;
    replace(this.remark, rating === -1 && this.remarkForm());
    for (const button of this.body.querySelectorAll("[data-rating]"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.rating) === rating));
    announce(rating === 0 ? "Rating taken back." : "Thank you, rated.");
  }

  /** What somebody has to say about a bad answer. */
  remarkForm() {
    const input = h("input", {
      "aria-label": "What is wrong with it?",
      placeholder: "What is wrong with it?",
      maxlength: 2000,
      value: this.answer.rating_comment ?? "",
    });
    const send = async (event) => {
      event.preventDefault();
      const comment = input.value.trim();
      if (!comment) return input.focus();
      try {
        await this.sendRating(-1, comment);
        this.answer.rating_comment = comment;
        announce("Thank you, noted.");
        replace(this.remark, h("p", { class: "small-print" }, "Thank you, noted."));
      } catch (error) {
        this.remark.append(problem(error));
      }
    };
    return h(
      "form",
      { class: "row", onsubmit: send },
      input,
      h("button", { type: "submit", class: "plain" }, "Send"),
    );
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.answer.text);
      announce("Copied.");
    } catch {
      announce("The browser did not allow to copy.");
    }
  }

  async save(button) {
    button.disabled = true;
    try {
      await download(
        `${answerPath(this.answer.id)}/html`,
        `answer-${this.answer.id.slice(0, 8)}.html`,
      );
      announce("Saved.");
    } catch (error) {
      this.body.append(problem(error));
    }
    button.disabled = false;
  }
}
