// Collections, what they hold, and how files come into them.

import { call, collectionPath, get, getAll } from "./api.js";
import { announce, h, icon, owl, plural, problem, replace } from "./dom.js";
import { deleteButton, deleted } from "./remove.js";
import { dropzone } from "./upload.js";

const NAME = "[a-z0-9][a-z0-9_\\-]{0,62}";

export async function collectionsView(main, { name = null }) {
  return name ? one(main, name) : all(main);
}

async function all(main) {
  const list = h("ul", { class: "collections" });
  const data = await getAll("v1/collections");
  list.append(
    ...data.map((info) =>
      h(
        "li",
        {},
        h(
          "a",
          { class: "collection", href: `#/collections/${encodeURIComponent(info.name)}` },
          h("strong", {}, info.name),
          h("span", {}, `${plural(info.documents, "document")}, ${plural(info.items, "item")}`),
        ),
      ),
    ),
  );
  const input = h("input", {
    id: "new-collection",
    required: true,
    pattern: NAME,
    maxlength: 63,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "field-notes",
    "aria-describedby": "new-hint",
  });
  const wrong = h("div", {});
  const make = async (event) => {
    event.preventDefault();
    try {
      await call("POST", "v1/collections", { json: { name: input.value } });
      location.hash = `#/collections/${encodeURIComponent(input.value)}`;
    } catch (error) {
      replace(wrong, problem(error));
    }
  };
  replace(
    main,
    h(
      "div",
      { class: "column" },
      h("h1", {}, "Collections"),
      data.length
        ? list
        : h(
            "div",
            { class: "nothing" },
            owl("open", "large"),
            h("p", {}, "There are none yet. A collection holds what questions are answered from."),
          ),
      h(
        "form",
        { class: "new-collection", onsubmit: make },
        h("label", { for: "new-collection" }, "New collection"),
        h(
          "div",
          { class: "row" },
          input,
          h("button", { type: "submit", class: "primary" }, "Make it"),
        ),
        h(
          "p",
          { id: "new-hint", class: "small-print" },
          "Small letters, digits, - and _, at most 63.",
        ),
        wrong,
      ),
    ),
  );
}

async function one(main, name) {
  const info = await get(collectionPath(name));
  const counts = h("p", { class: "lead" });
  const table = h("tbody", {});
  const more = h(
    "button",
    { type: "button", class: "plain", hidden: true, onclick: () => load(true).catch(show) },
    "Show more",
  );
  const wrong = h("div", {});
  const show = (error) => replace(wrong, problem(error));
  const count = (now) => {
    counts.textContent = `${plural(now.documents, "document")}, ${plural(now.items, "item")}`;
    if (now.text_embedder)
      counts.append(
        h(
          "span",
          { class: "small-print" },
          ` searched with ${plain(now.text_embedder)} and ${plain(now.picture_embedder)}`,
        ),
      );
  };
  let cursor = null;
  const load = async (further = false) => {
    const { data, next_cursor: next } = await get(`${collectionPath(name)}/documents`, {
      limit: 50,
      cursor: further ? cursor : null,
    });
    const rows = data.map((document) => row(name, document, refresh, show));
    if (further) table.append(...rows);
    else replace(table, rows);
    cursor = next;
    more.hidden = !next;
    holder.hidden = !table.childElementCount;
  };
  const refresh = async () => {
    count(await get(collectionPath(name)));
    await load();
  };
  const holder = h(
    "div",
    { class: "table", hidden: true },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, `Documents of ${name}`),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Document", "Kind", "Revision", "Items"].map((head) => h("th", { scope: "col" }, head)),
          h("th", { scope: "col" }, h("span", { class: "unseen" }, "Delete")),
        ),
      ),
      table,
    ),
  );
  const zone = dropzone(name, () => refresh().catch(show));
  let left = false;
  let leave = () => zone.leave();
  const gone = (job) => {
    if (left) return; // another view is shown by now: it stays
    zone.leave();
    leave = deleted(main, name, job);
  };
  count(info);
  replace(
    main,
    h(
      "div",
      { class: "column" },
      h("p", { class: "crumb" }, h("a", { href: "#/collections" }, "Collections")),
      h(
        "div",
        { class: "title-row" },
        h("h1", {}, name),
        h("a", { class: "primary", href: `#/ask/${encodeURIComponent(name)}` }, "Ask it"),
      ),
      counts,
      zone.element,
      wrong,
      holder,
      more,
      deleteButton(name, gone),
    ),
  );
  await load();
  return () => {
    left = true;
    leave();
  };
}

/** An embedder's name without its revision. */
const plain = (name) => name.split("/").at(-1).split("@")[0];

function row(collection, document, changed, show) {
  const remove = async () => {
    if (
      !confirm(`Delete ${document.name} from ${collection}? Nothing of it will be found any more.`)
    )
      return;
    try {
      await call(
        "DELETE",
        `${collectionPath(collection)}/documents/${encodeURIComponent(document.id)}`,
      );
      announce(`${document.name} is deleted.`);
      await changed();
    } catch (error) {
      show(error);
    }
  };
  return h(
    "tr",
    {},
    h(
      "th",
      { scope: "row" },
      h("span", { class: "doc-title" }, document.title || document.name),
      document.title &&
        document.title !== document.name &&
        h("span", { class: "small-print" }, document.name),
    ),
    h("td", {}, document.media_type),
    h("td", { class: "n" }, String(document.revision)),
    h("td", { class: "n" }, document.items.toLocaleString("en")),
    h(
      "td",
      {},
      h(
        "button",
        {
          type: "button",
          class: "round",
          "aria-label": `Delete ${document.name}`,
          title: "Delete",
          onclick: remove,
        },
        icon("bin"),
      ),
    ),
  );
}
