// A whole collection goes: asked once more by name, then followed as the job that removes it.

import { call, collectionPath, get, jobPath } from "./api.js";
import { announce, h, icon, plural, problem, replace } from "./dom.js";
import { JobCard } from "./jobs.js";

/** The button that asks and deletes. gone(job): the collection is deleted, the job removes it. */
export function deleteButton(name, gone) {
  const dialog = h("dialog", { class: "sure", "aria-labelledby": "sure-title" });
  let looking = false;
  const open = h(
    "button",
    {
      type: "button",
      class: "plain danger",
      "aria-haspopup": "dialog",
      onclick: async () => {
        if (looking) return; // pressed twice
        looking = true;
        replace(wrong);
        try {
          // Counted now: the question is about what is there, not about what was.
          ask(dialog, await get(collectionPath(name)), gone);
        } catch (error) {
          replace(wrong, problem(error));
        } finally {
          looking = false;
        }
      },
    },
    icon("bin"),
    "Delete this collection…",
  );
  const wrong = h("div", {});
  return h("div", { class: "delete-collection" }, open, wrong, dialog);
}

function ask(dialog, info, gone) {
  const { name } = info;
  const wrong = h("div", {});
  const cancel = h(
    "button",
    { type: "button", class: "plain", onclick: () => dialog.close() },
    "Cancel",
  );
  const remove = h(
    "button",
    { type: "submit", class: "primary danger" },
    `Delete ${plural(info.documents, "document")}`,
  );
  const send = async (event) => {
    event.preventDefault();
    remove.disabled = true;
    try {
      const job = await call("DELETE", collectionPath(name));
      dialog.close();
      gone(job);
    } catch (error) {
      remove.disabled = false;
      replace(wrong, problem(error));
    }
  };
  replace(
    dialog,
    h(
      "form",
      { method: "dialog", onsubmit: send },
      h("h2", { id: "sure-title" }, "Delete ", h("span", { class: "name" }, name), "?"),
      h(
        "p",
        { id: "sure-what" },
        `It holds ${plural(info.documents, "document")} with ${plural(info.items, "item")}. They ` +
          "are deleted for good, and so is every answer that was given from them. There is no way " +
          "back but a backup.",
      ),
      wrong,
      h("div", { class: "row end" }, cancel, remove),
    ),
  );
  dialog.setAttribute("aria-describedby", "sure-what");
  dialog.showModal();
  cancel.focus(); // Enter at once deletes nothing
}

/** Shows that the collection is gone and how the rest of it goes; what stops following it. */
export function deleted(main, name, job) {
  const leaving = new AbortController();
  const card = new JobCard(job);
  const list = h("ul", { class: "jobs" }, card.element);
  const heading = h("h1", { tabindex: -1 }, h("span", { class: "name" }, name), " is deleted");
  // The view's address names what is no more: there is nothing to come back to.
  history.replaceState(null, "", "#/collections");
  document.title = `${name} is deleted – rag_owl`;
  replace(
    main,
    h(
      "div",
      { class: "column" },
      h("p", { class: "crumb" }, h("a", { href: "#/collections", onclick: back }, "Collections")),
      heading,
      h(
        "p",
        { class: "lead" },
        "Nothing of it is found any more. A job removes its files and vectors.",
      ),
      list,
    ),
  );
  heading.focus();
  announce(`${name} is deleted.`);
  get(jobPath(job.id)).then(
    () => card.follow(leaving.signal),
    // A key for certain collections does not see the jobs of one that is no more.
    () => list.remove(),
  );
  return () => leaving.abort();
}

/** The address is that of the list already: following the link would change nothing. */
function back(event) {
  // In another tab or window it is a link as any other.
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  dispatchEvent(new HashChangeEvent("hashchange"));
}
