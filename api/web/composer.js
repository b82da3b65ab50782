// Where a question is written: its words, its pictures, its video, and how it is to be answered.

import { announce, h, icon, plural, replace } from "./dom.js";
import { answerOptions } from "./options.js";

const MOST = 8; // pictures that fit the eye; the service has its own limit

export class Composer {
  /** on.ask({text, pictures, video, options}), on.stop(), on.files(files that are no pictures) */
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
    this.options = answerOptions("ask-options");
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
      this.options.element,
      h(
        "p",
        { id: "composer-hint", class: "hint" },
        "Drop or paste pictures. Enter asks, Shift+Enter makes a new line.",
      ),
    );
    // What a browser will not send is shown to be corrected.
    this.element.addEventListener("invalid", () => this.flip(true), true);
    this.show();
  }

  flip(open = this.options.element.hidden) {
    this.options.element.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
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
      options: this.options.value(),
    };
    this.text.value = "";
    for (const one of this.attached) if (one.url) URL.revokeObjectURL(one.url);
    this.attached = [];
    this.fit();
    this.show();
    this.on.ask(asked);
  }
}
