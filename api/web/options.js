// How a question is to be answered, where that differs from what the service is set to.

import { get } from "./api.js";
import { filterRows } from "./filters.js";
import { h } from "./dom.js";

/** A panel of fields; `value()` is what of them was chosen, by the names of POST /v1/answers. */
export function answerOptions(id) {
  const number = (name, label, min, max, hint) => {
    const input = h("input", {
      id: `opt-${name}`,
      type: "number",
      inputmode: "numeric",
      placeholder: "default",
      min,
      max,
      title: hint,
    });
    return { name, input, field: field(input, label) };
  };
  const numbers = [
    number("k", "Sources", 1, 400, "How many items are retrieved"),
    number("max_tokens", "Longest answer", 1, 100_000, "Tokens"),
    number("budget", "Text to read", 500, 100_000_000, "Characters that the model is shown at most"),
    number("seed", "Seed", 0, Number.MAX_SAFE_INTEGER, "For models that draw"),
  ];
  const model = h("select", { id: "opt-model" }, h("option", { value: "" }, "default"));
  get("v1/answerers")
    .then(({ data }) =>
      model.append(
        ...data.map((one) =>
          h("option", { value: one.name }, one.name + (one.default ? " (default)" : "")),
        ),
      ),
    )
    .catch(() => {}); // the choice stays at the default
  const supported = h("input", { type: "checkbox", role: "switch" });
  const weighed = h("input", { type: "checkbox", role: "switch" });
  const filters = filterRows();
  const element = h(
    "div",
    { id, class: "options", hidden: true },
    field(model, "Answered by"),
    numbers.map((one) => one.field),
    h(
      "div",
      { class: "switches" },
      toggle(supported, "Leave out what no source bears out"),
      toggle(weighed, "Measure what each source adds (slower)"),
    ),
    filters.element,
  );
  return {
    element,
    value() {
      const given = numbers.filter((one) => one.input.value);
      const filter = filters.value();
      return {
        ...Object.fromEntries(given.map((one) => [one.name, Number(one.input.value)])),
        ...(model.value && { model: model.value }),
        ...(supported.checked && { require_support: true }),
        ...(weighed.checked && { verify: "full" }),
        ...(filter && { filters: filter }),
      };
    },
  };
}

function field(input, label) {
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input);
}

function toggle(input, label) {
  return h("label", { class: "switch" }, input, h("span", {}, label));
}
