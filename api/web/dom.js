// Elements from JavaScript values. Every string becomes a text node or an attribute's value, never
// markup: nothing that a document, a question or a file name holds can become structure.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open", "selected", "muted"]);

/** An element. `on…` are listeners, null and false leave a name out, the rest are attributes. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children
      .flat(Infinity)
      .filter((child) => child !== null && child !== false && child !== undefined && child !== ""),
  );
  return element;
}

/** One of the pictograms that index.html defines; it says nothing to a screen reader. */
export function icon(name, extra = "") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon ${extra}`.trim());
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** The owl: `eyes` is "open", "looking" (it searches) or "closed" (it found nothing). */
export function owl(eyes = "open", extra = "") {
  const mark = icon(eyes === "closed" ? "owl-closed" : "owl", `owl owl-${eyes} ${extra}`);
  if (eyes === "looking") {
    mark.replaceChildren(
      ...[...document.querySelector("#i-owl").children].map((c) => c.cloneNode(true)),
    );
    mark.setAttribute("viewBox", "0 0 64 64");
  }
  return mark;
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return parent;
}

/** Said by a screen reader, seen by nobody. */
export function announce(message) {
  const status = document.getElementById("announce");
  status.textContent = "";
  // In a later frame, so that the same words twice are said twice.
  requestAnimationFrame(() => (status.textContent = message));
}

export const plural = (n, one, many = `${one}s`) =>
  `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export function when(seconds) {
  if (!seconds) return "";
  return new Date(seconds * 1000).toLocaleString(undefined, {
    dateStyle: "medium",
    timeStyle: "short",
  });
}

/** A place to show what went wrong, with a way to try again where there is one. */
export function problem(error, again = null) {
  return h(
    "div",
    { class: "problem", role: "alert" },
    icon("warning"),
    h(
      "div",
      {},
      h("p", {}, error.message),
      again && h("button", { type: "button", class: "plain", onclick: again }, "Try again"),
    ),
  );
}
