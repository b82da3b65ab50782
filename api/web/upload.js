// Files on their way into a collection: chosen, dropped or pasted, sent, and followed as a job.

import { call, collectionPath } from "./api.js";
import { announce, h, icon, plural, problem, replace } from "./dom.js";
import { JobCard, finished } from "./jobs.js";

/** Sends the files; the job that reads them. Raises `Problem`. */
export async function upload(collection, files) {
  const body = new FormData();
  // A folder's files keep their place in it, so that two of one name stay two.
  for (const file of files) body.append("files", file, file.webkitRelativePath || file.name);
  const { job } = await call("POST", `${collectionPath(collection)}/documents`, { body });
  return job;
}

const AT_ONCE = 500; // files in one request; the service takes no more than some

/** The files in requests of about `AT_ONCE`; a picture and its text are never torn apart. */
export function batches(files) {
  const path = (file) => file.webkitRelativePath || file.name;
  const stem = (file) => path(file).replace(/\.[^./]*$/, "");
  const sorted = [...files].sort((a, b) => (path(a) < path(b) ? -1 : 1));
  const found = [];
  for (const file of sorted) {
    const last = found.at(-1);
    if (!last || (last.length >= AT_ONCE && stem(last.at(-1)) !== stem(file))) found.push([file]);
    else last.push(file);
  }
  return found;
}

/** Sends and follows; `ended(job)` when one is over. An element that shows how it goes. */
export function uploading(collection, files, ended = () => {}) {
  const state = h("div", {});
  const jobs = h("ul", { class: "jobs" });
  const leaving = new AbortController();
  const waiting = batches(files);
  let followed = Promise.resolve(); // one after the other, as they are worked
  const follow = (card) => {
    followed = followed.then(() => card.follow(leaving.signal));
  };
  const show = (job) => {
    const card = new JobCard(job, {
      followed: (now) => finished(now) && ended(now),
      retried: (fresh) => (fresh.id === job.id ? follow(card) : show(fresh)),
    });
    jobs.append(card.element);
    if (finished(job)) ended(job);
    else follow(card);
  };
  const send = async () => {
    let sent = 0;
    try {
      while (waiting.length) {
        const now = waiting[0];
        const what =
          sent || waiting.length > 1
            ? `${plural(now.length, "file")} of ${files.length}`
            : plural(files.length, "file");
        replace(state, h("p", { class: "state" }, icon("again", "turning"), `Sending ${what}…`));
        const job = await upload(collection, now);
        waiting.shift();
        sent += now.length;
        show(job);
      }
      replace(state);
      announce(`${plural(files.length, "file")} sent; they are being read.`);
    } catch (error) {
      replace(state, problem(error, send));
    }
  };
  send();
  return { element: h("div", { class: "uploading" }, state, jobs), leave: () => leaving.abort() };
}

/** In the asking view: dropped files that cannot be asked with are offered to the collection. */
export function uploadNotice(collection, files) {
  const names = files
    .slice(0, 3)
    .map((file) => file.name)
    .join(", ");
  const close = () => notice.remove();
  const notice = h(
    "div",
    { class: "notice", role: "group", "aria-label": "Files for the collection" },
    h(
      "p",
      {},
      `${names}${files.length > 3 ? ` and ${files.length - 3} more` : ""}: add to `,
      h("strong", {}, collection),
      "?",
    ),
    h(
      "div",
      { class: "row" },
      h(
        "button",
        {
          type: "button",
          class: "primary small",
          onclick: () =>
            replace(
              notice,
              h(
                "button",
                { type: "button", class: "round close", "aria-label": "Close", onclick: close },
                icon("close"),
              ),
              uploading(collection, files).element,
            ),
        },
        "Add",
      ),
      h("button", { type: "button", class: "plain small", onclick: close }, "No"),
    ),
  );
  announce(`${plural(files.length, "file")} can be added to ${collection}.`);
  return notice;
}

/** A place to drop files on, with buttons that do the same. */
export function dropzone(collection, ended) {
  const progress = h("div", {});
  const leaving = [];
  const send = (files) => {
    if (!files.length) return;
    const one = uploading(collection, files, ended);
    leaving.push(one.leave);
    progress.prepend(one.element);
  };
  const input = (folder) =>
    h("input", {
      type: "file",
      multiple: true,
      class: "unseen",
      tabindex: -1,
      "aria-hidden": "true",
      webkitdirectory: folder,
      onchange: (event) => {
        send([...event.currentTarget.files]);
        event.currentTarget.value = "";
      },
    });
  const [some, folder] = [input(false), input(true)];
  const over = (on) => zone.classList.toggle("over", on);
  const zone = h(
    "div",
    {
      class: "dropzone",
      ondragover: (event) => (event.preventDefault(), over(true)),
      ondragleave: (event) => !zone.contains(event.relatedTarget) && over(false),
      ondrop: (event) => {
        event.preventDefault();
        over(false);
        send([...event.dataTransfer.files]);
      },
    },
    h("p", {}, "Drop files here, or"),
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { type: "button", class: "primary", onclick: () => some.click() },
        icon("add"),
        "Choose files",
      ),
      h(
        "button",
        { type: "button", class: "plain", onclick: () => folder.click() },
        "Choose a folder",
      ),
    ),
    h(
      "p",
      { class: "small-print" },
      "Text, Markdown, HTML, PDF, pictures, videos, JSONL, CSV, and archives of them. A picture beside a text of the same name becomes one document.",
    ),
    some,
    folder,
  );
  return { element: h("div", {}, zone, progress), leave: () => leaving.forEach((one) => one()) };
}
