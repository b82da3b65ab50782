// Where a question is written: its words, its pictures, its video, and how it is to be answered.

import { get } from "./api.js";
import { filterRows } from "./filters.js";
import { announce, h, icon, plural, replace } from "./dom.js";

const MOST = 8; // pictures that fit the eye; the service has its own limit

export class Composer {
  /** on.ask({text, pictures, video, k, model, filters}), on.stop(), on.files(files that are no pictures) */
  constructor(on) {
    this.on = on;
    this.attached = []; // {file, url, kind}
    this.busy = false;
    this.text = h("textarea", {
      id: "question",
      rows: 1,
      maxlength: 10000,
      placeholder: "Ask a question",
      "aria-label": "Question",
      "aria-describedby": "composer-hint",
      oninput: () => this.fit(),
      onkeydown: (event) => this.pressed(event),
      onpaste: (event) => this.pasted(event),
    });
    this.picker = h("input", {
      type: "file",
      multiple: true,
      class: "unseen",
      tabindex: -1,
      "aria-hidden": "true",
      id: "attach-input",
      onchange: () => {
        this.add([...this.picker.files]);
        this.picker.value = "";
      },
    });
    this.tray = h("ul", { class: "tray", "aria-label": "Attached to the question" });
    this.sendButton = h(
      "button",
      { type: "submit", class: "send", "aria-label": "Ask" },
      icon("send"),
    );
    this.options = this.makeOptions();
    this.toggle = h(
      "button",
      {
        type: "button",
        class: "round",
        "aria-expanded": "false",
        "aria-controls": "ask-options",
        "aria-label": "Options",
        title: "Options",
        onclick: () => this.flip(),
      },
      icon("options"),
    );
    const attach = h(
      "button",
      {
        type: "button",
        class: "round",
        "aria-label": "Attach pictures or files",
        title: "Attach pictures or files",
        onclick: () => this.picker.click(),
      },
      icon("attach"),
    );
    this.element = h(
      "form",
      { class: "composer", "aria-label": "Ask", onsubmit: (event) => this.submitted(event) },
      this.tray,
      h(
        "div",
        { class: "composer-row" },
        attach,
        this.picker,
        this.text,
        this.toggle,
        this.sendButton,
      ),
      this.options,
      h(
        "p",
        { id: "composer-hint", class: "hint" },
        "Drop or paste pictures. Enter asks, Shift+Enter makes a new line.",
      ),
    );
    this.show();
  }

  makeOptions() {
    this.k = h("input", {
      id: "opt-k",
      type: "number",
      min: 1,
      max: 400,
      placeholder: "as set",
      inputmode: "numeric",
    });
    this.model = h("select", { id: "opt-model" }, h("option", { value: "" }, "as set"));
    this.filters = filterRows();
    get("v1/answerers")
      .then(({ data }) =>
        this.model.append(
          ...data.map((one) =>
            h("option", { value: one.name }, one.name + (one.default ? " (default)" : "")),
          ),
        ),
      )
      .catch(() => {}); // the choice stays at the default
    return h(
      "div",
      { id: "ask-options", class: "options", hidden: true },
      h("div", { class: "field" }, h("label", { for: "opt-k" }, "Sources"), this.k),
      h("div", { class: "field" }, h("label", { for: "opt-model" }, "Answered by"), this.model),
      this.filters.element,
    );
  }

  flip() {
    this.options.hidden = !this.options.hidden;
    this.toggle.setAttribute("aria-expanded", String(!this.options.hidden));
  }

  fit() {
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(this.text.scrollHeight + 2, 220)}px`;
  }

  pressed(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!this.busy) this.element.requestSubmit();
    }
  }

  pasted(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    this.add(files);
  }

  /** Pictures and one video go with the question; other files are for the collection. */
  add(files) {
    const others = [];
    for (const file of files) {
      const kind = file.type.split("/")[0];
      if (kind === "image" && file.type !== "image/svg+xml") {
        if (this.attached.length < MOST)
          this.attached.push({ file, kind, url: URL.createObjectURL(file) });
        else announce(`At most ${MOST} pictures with one question.`);
      } else if (kind === "video") {
        this.attached.filter((one) => one.kind === "video").forEach((one) => this.remove(one));
        this.attached.push({ file, kind, url: null });
      } else others.push(file);
    }
    if (others.length) this.on.files(others);
    if (files.length > others.length)
      announce(`${plural(this.attached.length, "file")} attached to the question.`);
    this.show();
  }

  remove(one) {
    this.attached = this.attached.filter((other) => other !== one);
    if (one.url) URL.revokeObjectURL(one.url);
    this.show();
  }

  show() {
    replace(
      this.tray,
      this.attached.map((one) =>
        h(
          "li",
          {},
          one.url
            ? h("img", { src: one.url, alt: one.file.name })
            : h("span", { class: "file" }, icon("video"), one.file.name),
          h(
            "button",
            {
              type: "button",
              class: "remove",
              "aria-label": `Remove ${one.file.name}`,
              onclick: () => (this.remove(one), this.text.focus()),
            },
            icon("close"),
          ),
        ),
      ),
    );
    this.tray.hidden = !this.attached.length;
    replace(this.sendButton, icon(this.busy ? "stop" : "send"));
    this.sendButton.setAttribute("aria-label", this.busy ? "Stop" : "Ask");
  }

  setBusy(busy) {
    this.busy = busy;
    this.show();
  }

  submitted(event) {
    event.preventDefault();
    if (this.busy) return this.on.stop();
    const text = this.text.value.trim();
    if (!text) {
      announce("Write a question first.");
      return this.text.focus();
    }
    const pictures = this.attached.filter((one) => one.kind === "image");
    const asked = {
      text,
      pictures: pictures.map((one) => one.file),
      video: this.attached.find((one) => one.kind === "video")?.file ?? null,
      k: this.k.value ? Number(this.k.value) : null,
      model: this.model.value || null,
      filters: this.filters.value(),
    };
    this.text.value = "";
    for (const one of this.attached) if (one.url) URL.revokeObjectURL(one.url);
    this.attached = [];
    this.fit();
    this.show();
    this.on.ask(asked);
  }
}
