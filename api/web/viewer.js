// One source as a reader sees it: the passage, the page, the picture or the video, with what the
// answer rests on marked in it.

import { answerPath, collectionPath, download, itemPath, key, media } from "./api.js";
import { h, icon, problem } from "./dom.js";
import { segments, toUtf16 } from "./text.js";
import { clock } from "./time.js";

export function where(location) {
  if (!location) return "";
  if (location.type === "page") return `page ${location.page}`;
  if (location.type === "video")
    return `${clock(location.start_seconds)} to ${clock(location.end_seconds)}`;
  if (location.type === "image_region")
    return location.box ? "a part of the picture" : "the picture";
  return `characters ${location.start.toLocaleString("en")} to ${location.end.toLocaleString("en")}`;
}

/**
 * What a source's card shows. cited: [{citation, index}…] of this item; chosen: the index that was
 * opened. `later` gets functions that let go of what was loaded.
 */
export function view(answer, collection, item, cited, chosen, later) {
  const first = cited.find((one) => one.index === chosen) ?? cited[0];
  const location = first?.citation.location ?? item.location;
  const text = item.text ? [passage(item, cited, chosen)] : [];
  const parts = [];
  if (item.kind === "video" || location.type === "video")
    parts.push(video(collection, item, location, later), ...text);
  else if (item.kind === "page" || location.type === "page")
    parts.push(page(collection, item, cited, chosen, later), ...text);
  else if (item.picture || item.kind === "picture") {
    const shown = picture(answer, collection, item, first, later);
    // First what is pointed at.
    parts.push(...(location.type === "text" ? [...text, shown] : [shown, ...text]));
  } else parts.push(...text);
  parts.push(about(collection, item));
  return parts;
}

/** The item's text with every cited span marked. Offsets of locations count from the document. */
function passage(item, cited, chosen) {
  const text = item.text;
  const units = toUtf16(text);
  const base = item.location.start;
  const spans = cited.flatMap(({ citation, index }) => {
    const { start, end } = citation.location;
    const quote = citation.quote;
    if (Number.isInteger(start) && Number.isInteger(end) && Number.isInteger(base)) {
      const span = { start: units(start - base), end: units(end - base), index };
      const whole = span.start === 0 && span.end === text.length;
      if (!quote || text.slice(span.start, span.end) === quote)
        return quote || !whole ? [span] : [];
    }
    const at = quote ? text.indexOf(quote) : -1;
    return at < 0 ? [] : [{ start: at, end: at + quote.length, index }];
  });
  return h(
    "blockquote",
    { class: "passage" },
    item.heading && h("p", { class: "heading" }, item.heading),
    h(
      "p",
      { class: "passage-text", tabindex: 0 },
      segments(text, spans).map(({ text: piece, spans: over }) =>
        over.length
          ? h("mark", { class: over.some((span) => span.index === chosen) ? "chosen" : "" }, piece)
          : piece,
      ),
    ),
  );
}

function overlay(box, chosen = true) {
  const element = h("span", { class: chosen ? "box chosen" : "box", "aria-hidden": "true" });
  const [left, top, right, bottom] = box;
  const percent = (fraction) => `${Math.max(0, Math.min(1, fraction)) * 100}%`;
  Object.assign(element.style, {
    left: percent(left),
    top: percent(top),
    width: percent(right - left),
    height: percent(bottom - top),
  });
  return element;
}

/** An image that is fetched with the key where there is one; says so where it cannot be shown. */
function image(path, alt, later) {
  const img = h("img", { alt, decoding: "async" });
  const frame = h("div", { class: "frame loading-frame" }, img);
  const fail = () =>
    frame.replaceChildren(h("p", { class: "small-print" }, "The picture cannot be shown."));
  img.addEventListener("error", fail, { once: true });
  img.addEventListener("load", () => frame.classList.remove("loading-frame"), { once: true });
  media(path).then(({ url, free }) => {
    later(free);
    img.src = url;
  }, fail);
  return frame;
}

function page(collection, item, cited, chosen, later) {
  const number = (cited[0]?.citation.location ?? item.location).page;
  const frame = image(
    `${itemPath(collection, item.id)}/page`,
    `Page ${number} of ${item.document_name}`,
    later,
  );
  frame.classList.add("paper");
  for (const { citation, index } of cited)
    for (const box of citation.location.boxes ?? []) frame.append(overlay(box, index === chosen));
  return h("figure", { class: "page" }, frame, h("figcaption", {}, `Page ${number}`));
}

function picture(answer, collection, item, first, later) {
  const frame = image(
    `${itemPath(collection, item.id)}/media`,
    `Picture of ${item.title || item.document_name}`,
    later,
  );
  const location = first?.citation.location;
  const switches = [];
  if (location?.type === "image_region" && location.box) {
    const box = overlay(location.box);
    frame.append(box);
    switches.push(flip("Box", (on) => (box.hidden = !on)));
  }
  if (location?.heatmap_url) {
    const heat = h("img", { class: "heat", alt: "", hidden: true });
    frame.append(heat);
    let loaded = null;
    const show = (on) => {
      heat.hidden = !on;
      loaded ??= media(`${answerPath(answer.id)}/citations/${first.index}/heatmap`).then(
        ({ url, free }) => {
          later(free);
          heat.src = url;
        },
        (error) => frame.after(problem(error)),
      );
    };
    // Off at first: the model has to look once more for it.
    switches.push(flip("Heatmap: where the model looked", show, false));
  }
  return h(
    "figure",
    { class: "picture" },
    frame,
    switches.length > 0 && h("figcaption", { class: "switches" }, switches),
  );
}

function flip(label, change, checked = true) {
  const input = h("input", {
    type: "checkbox",
    role: "switch",
    checked,
    onchange: () => change(input.checked),
  });
  return h("label", { class: "switch" }, input, h("span", {}, label));
}

function video(collection, item, location, later) {
  const start = location.start_seconds ?? 0;
  const end = location.end_seconds ?? start;
  const player = h("video", {
    controls: true,
    preload: "metadata",
    playsinline: true,
    "aria-label": `Video ${item.document_name}, from ${clock(start)}`,
  });
  const box = h("div", { class: "frame" }, player);
  const fail = () =>
    box.replaceChildren(h("p", { class: "small-print" }, "The video cannot be played here."));
  media(`${itemPath(collection, item.id)}/media`).then(({ url, free }) => {
    later(free);
    player.addEventListener("error", fail, { once: true });
    player.src = `${url}#t=${start},${end}`;
  }, fail);
  const play = () => {
    player.currentTime = start;
    player.play().catch(() => {}); // the browser may refuse; its own controls remain
  };
  return h(
    "figure",
    { class: "video" },
    box,
    h(
      "figcaption",
      {},
      h(
        "button",
        { type: "button", class: "plain small", onclick: play },
        icon("video"),
        `Play from ${clock(start)}`,
      ),
    ),
  );
}

function about(collection, item) {
  const path = `${collectionPath(collection)}/documents/${encodeURIComponent(item.document_id)}/content`;
  const name = item.document_name.split("/").at(-1);
  const open = async (event) => {
    if (!key.get()) return; // a plain link does
    event.preventDefault();
    const line = event.currentTarget;
    try {
      await download(path, name);
    } catch (error) {
      line.after(problem(error));
    }
  };
  const known = Object.entries(item.metadata ?? {}).slice(0, 12);
  return h(
    "div",
    { class: "about" },
    h(
      "p",
      { class: "small-print" },
      h("a", { href: path, target: "_blank", rel: "noopener", onclick: open }, item.document_name),
      `, revision ${item.revision}`,
    ),
    known.length > 0 &&
      h(
        "dl",
        {},
        known.map(([field, value]) => [
          h("dt", {}, field),
          h("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
        ]),
      ),
  );
}
