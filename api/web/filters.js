// Rows of "field, comparison, value" that together make a metadata filter.

import { h, icon } from "./dom.js";

const COMPARISONS = ["==", "!=", "<", "<=", ">", ">=", "in", "exists"];

/** `1990` is a number, `true` a truth value, `"1990"` the text, anything else the text as it is. */
function parse(text) {
  try {
    const value = JSON.parse(text);
    if (["number", "boolean", "string"].includes(typeof value)) return value;
  } catch {
    // no JSON: a text
  }
  return text;
}

function condition({ field, op, value }) {
  if (op === "in") return { field, op, value: value.split(",").map((one) => parse(one.trim())) };
  if (op === "exists") return { field, op, value: value.trim() !== "false" };
  return { field, op, value: parse(value.trim()) };
}

export function filterRows() {
  const rows = h("div", { class: "filter-rows" });
  const add = () => {
    const row = h(
      "div",
      { class: "filter-row", role: "group", "aria-label": "Filter" },
      h("input", { placeholder: "field", "aria-label": "Field", class: "filter-field" }),
      h(
        "select",
        { "aria-label": "Comparison" },
        COMPARISONS.map((op) => h("option", { value: op }, op)),
      ),
      h("input", { placeholder: "value", "aria-label": "Value" }),
      h(
        "button",
        {
          type: "button",
          class: "round",
          "aria-label": "Remove filter",
          onclick: () => row.remove(),
        },
        icon("close"),
      ),
    );
    rows.append(row);
    row.querySelector("input").focus();
  };
  const element = h(
    "div",
    { class: "filters" },
    h("span", { class: "label" }, "Only where"),
    rows,
    h(
      "button",
      { type: "button", class: "plain small", onclick: add },
      icon("add"),
      "Filter by metadata",
    ),
  );
  return {
    element,
    /** The filter as the service reads it, or null. */
    value() {
      const conditions = [...rows.children]
        .map((row) => {
          const [field, op, value] = row.querySelectorAll("input, select");
          return { field: field.value.trim(), op: op.value, value: value.value };
        })
        .filter((one) => one.field)
        .map(condition);
      if (!conditions.length) return null;
      return conditions.length === 1 ? conditions[0] : { and: conditions };
    },
  };
}
