// What another choice of sources changed in an answer.

import { h, plural } from "./dom.js";
import { difference } from "./text.js";

/** A section that sets two answers against each other; without: titles that were switched off. */
export function changes(before, now, without) {
  const cites = (answer) =>
    new Set(answer.citations.map((one) => one.source.title || one.source.document_name));
  const [had, has] = [cites(before), cites(now)];
  const gone = [...had].filter((title) => !has.has(title));
  const fresh = [...has].filter((title) => !had.has(title));
  const parts = difference(
    before.text.replace(/\s?\[\d+\]/g, ""),
    now.text.replace(/\s?\[\d+\]/g, ""),
  );
  const same = parts.every((part) => part.kind === "same");
  const tags = { same: "span", gone: "del", new: "ins" };
  return h(
    "section",
    { class: "changes", "aria-label": "What changed" },
    h("h3", {}, `Without ${plural(without.length, "source")}: ${without.join(", ")}`),
    same
      ? h("p", {}, "The answer stays the same.")
      : h(
          "p",
          { class: "diff" },
          parts.map(({ kind, text }) => [h(tags[kind], {}, text.trimEnd()), " "]),
        ),
    gone.length > 0 && h("p", { class: "small-print" }, `No longer cited: ${gone.join(", ")}.`),
    fresh.length > 0 && h("p", { class: "small-print" }, `Cited now: ${fresh.join(", ")}.`),
  );
}
