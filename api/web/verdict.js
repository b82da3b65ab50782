// How the check of a citation came out: a pictogram and a word, never a colour alone.

import { h, icon } from "./dom.js";

export const VERDICTS = {
  supported: { icon: "check", label: "supported" },
  partly: { icon: "partly", label: "partly supported" },
  unsupported: { icon: "cross", label: "not supported" },
  unchecked: { icon: "question", label: "not checked" },
};

export function verdict(support) {
  const { icon: name, label } = VERDICTS[support.verdict] ?? VERDICTS.unchecked;
  return h(
    "span",
    { class: `verdict ${support.verdict}` },
    icon(name),
    support.contradicted ? "contradicted" : label,
  );
}

/** The verdict to show of a statement that several citations stand for: the best of them. */
export function best(spans) {
  const order = ["supported", "partly", "unchecked", "unsupported"];
  const all = spans.map((span) => span.place.citation.support.verdict);
  return order.find((one) => all.includes(one)) ?? "unchecked";
}
