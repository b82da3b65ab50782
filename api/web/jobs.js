// Durable jobs as they run: progress, cancel, retry, and what was skipped with its reason.

import { call, get, jobPath, stream } from "./api.js";
import { announce, h, icon, owl, plural, problem, replace, when } from "./dom.js";

const STATES = {
  queued: { label: "waiting", icon: "again" },
  running: { label: "running", icon: "again" },
  done: { label: "done", icon: "check" },
  failed: { label: "failed", icon: "warning" },
  cancelled: { label: "cancelled", icon: "cross" },
};
const FOLLOWED = 3; // event streams at once: a browser opens six connections to one server
const LOOK_AGAIN = 4_000; // milliseconds between looks at jobs that no stream follows

export const finished = (job) => ["done", "failed", "cancelled"].includes(job.state);
const handled = (job) => job.done + job.skipped_count + job.failed;
/** Whose it is; a job may be of the whole installation, or of a collection that is no more. */
const whose = (job) => job.collection || (job.collection === null ? "everything" : "deleted");
/** What a job does, before the name of whose it is. */
const DOES = {
  ingest: "ingest into",
  delete: "remove what was deleted:",
  expire: "remove what is too old:",
};
/** What a job's `done` counts. */
const COUNTED = {
  delete: ["file removed", "files removed"],
  expire: ["piece removed", "pieces removed"],
  backup: ["file copied", "files copied"],
  verify: ["file checked", "files checked"],
};

/** A job's card. on.followed(job) is called at every change, on.retried(job) with the new job. */
export class JobCard {
  constructor(job, on = {}) {
    this.on = on;
    this.job = job;
    this.bar = h("progress", { "aria-label": `Progress in ${whose(job)}` });
    this.state = h("span", { class: "job-state" });
    this.counts = h("p", { class: "counts" });
    this.buttons = h("div", { class: "row" });
    this.problems = h("div", {});
    this.skipped = h("details", {
      class: "skipped",
      hidden: true,
      ontoggle: () => this.skipped.open && this.list(),
    });
    this.element = h(
      "li",
      { class: "job" },
      h(
        "div",
        { class: "job-head" },
        h(
          "span",
          { class: "job-title" },
          `${DOES[job.kind] ?? `${job.kind}:`} `,
          h("strong", {}, whose(job)),
        ),
        this.state,
      ),
      this.bar,
      this.counts,
      this.skipped,
      this.problems,
      h(
        "div",
        { class: "row job-foot" },
        h("span", { class: "small-print" }, when(job.created_at)),
        this.buttons,
      ),
    );
    this.show();
  }

  update(job) {
    const before = this.job;
    this.job = job;
    this.show();
    if (!finished(before) && finished(job)) {
      const { label } = STATES[job.state];
      announce(`The job in ${whose(job)} is ${label}: ${this.counts.textContent}`);
    }
    this.on.followed?.(job);
  }

  show() {
    const { job } = this;
    const { label, icon: name } = STATES[job.state] ?? STATES.queued;
    this.element.dataset.state = job.state;
    replace(this.state, icon(name), label);
    if (job.found) {
      this.bar.max = job.found;
      this.bar.value = finished(job) && job.state === "done" ? job.found : handled(job);
    } else if (finished(job)) {
      this.bar.max = 1;
      this.bar.value = job.state === "done" ? 1 : 0;
    } else this.bar.removeAttribute("value");
    this.bar.hidden = finished(job);
    const parts =
      job.kind === "ingest"
        ? [plural(job.added, "document") + " added"]
        : [plural(job.done, ...(COUNTED[job.kind] ?? ["done", "done"]))];
    if (job.updated) parts.push(`${job.updated.toLocaleString("en")} updated`);
    if (job.unchanged) parts.push(`${job.unchanged.toLocaleString("en")} unchanged`);
    if (job.skipped_count) parts.push(`${job.skipped_count.toLocaleString("en")} skipped`);
    if (job.failed) parts.push(`${job.failed.toLocaleString("en")} failed`);
    if (!finished(job) && job.found) parts.push(`of ${job.found.toLocaleString("en")} found`);
    else if (job.state === "running")
      parts.push(job.kind === "ingest" ? "looking for files" : "at work");
    if (job.rate && !finished(job))
      parts.push(`${job.rate.toLocaleString("en", { maximumSignificantDigits: 3 })} a second`);
    if (job.expected_end)
      parts.push(`until about ${new Date(job.expected_end * 1000).toLocaleTimeString()}`);
    this.counts.textContent = parts.join(", ");
    replace(this.problems, job.error && h("p", { class: "warning" }, icon("warning"), job.error));
    this.showSkipped();
    this.showButtons();
  }

  showSkipped() {
    const { skipped_count: count } = this.job;
    this.skipped.hidden = !count;
    if (!count || this.skipped.dataset.count === String(count)) return;
    this.skipped.dataset.count = count;
    replace(this.skipped, h("summary", {}, `${plural(count, "file")} skipped, and why`));
    if (this.skipped.open) this.list();
  }

  /** The skipped files, page by page. */
  async list(cursor = null) {
    if (!cursor && this.skipped.querySelector("ul")) return;
    const list =
      this.skipped.querySelector("ul") ?? h("ul", { class: "skipped-files", tabindex: 0 });
    this.skipped.append(list);
    try {
      const { data, next_cursor: next } = await get(`${jobPath(this.job.id)}/skipped`, {
        limit: 50,
        cursor,
      });
      list.append(
        ...data.map((one) =>
          h(
            "li",
            {},
            h("span", { class: "name" }, one.name),
            h("span", { class: "reason" }, one.reason),
          ),
        ),
      );
      const more =
        next &&
        h(
          "button",
          { type: "button", class: "plain small", onclick: () => (more.remove(), this.list(next)) },
          "Show more",
        );
      if (more) this.skipped.append(more);
    } catch (error) {
      list.replaceWith(problem(error));
    }
  }

  showButtons() {
    const { job } = this;
    const act = (verb, label) =>
      h(
        "button",
        {
          type: "button",
          class: "plain small",
          "aria-label": `${label} the job in ${whose(job)}`,
          onclick: async (event) => {
            event.currentTarget.disabled = true;
            try {
              const changed = await call("POST", `${jobPath(job.id)}/${verb}`);
              if (changed?.id && changed.id !== job.id) this.on.retried?.(changed);
              else {
                if (changed?.id) this.update(changed);
                if (verb === "retry") this.on.retried?.(this.job);
              }
              announce(
                verb === "cancel" ? "It stops after the batch at hand." : "It is tried again.",
              );
            } catch (error) {
              this.problems.append(problem(error));
              this.showButtons();
            }
          },
        },
        icon(verb === "cancel" ? "close" : "again"),
        label,
      );
    const again = ["failed", "cancelled"].includes(job.state);
    replace(
      this.buttons,
      // What is deleted is gone already: a job that stopped half way would only leave its bytes.
      !finished(job) && job.kind !== "delete" && act("cancel", "Cancel"),
      again && act("retry", "Retry"),
    );
  }

  /** Follows the job until it ends, by its event stream, or by asking where that breaks. */
  async follow(signal) {
    while (!finished(this.job) && !signal.aborted) {
      try {
        for await (const { event, data } of stream("GET", `${jobPath(this.job.id)}/events`, {
          signal,
        })) {
          if (event === "job" || (event === "done" && data?.id)) this.update(data);
        }
        this.update(await get(jobPath(this.job.id)));
      } catch (error) {
        if (error.name === "AbortError") return;
        if (error.status >= 400 && error.status < 500)
          return replace(this.problems, problem(error));
      }
      if (!finished(this.job)) await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN));
    }
  }
}

export async function jobsView(main) {
  const leaving = new AbortController();
  const list = h("ul", { class: "jobs" });
  const cards = new Map();
  const following = new Set();
  let cursor = null;

  const followSome = () => {
    for (const card of cards.values()) {
      if (following.size >= FOLLOWED) return;
      if (finished(card.job) || following.has(card)) continue;
      following.add(card);
      card.follow(leaving.signal).finally(() => {
        following.delete(card);
        if (!leaving.signal.aborted) followSome();
      });
    }
  };
  const add = (job, first = false) => {
    if (cards.has(job.id)) return cards.get(job.id).update(job);
    const card = new JobCard(job, {
      retried: (fresh) => {
        add(fresh, true);
        followSome();
      },
    });
    cards.set(job.id, card);
    if (first) list.prepend(card.element);
    else list.append(card.element);
  };
  const more = h(
    "button",
    {
      type: "button",
      class: "plain",
      hidden: true,
      onclick: () => load().catch((error) => list.after(problem(error))),
    },
    "Show older jobs",
  );
  const load = async () => {
    const { data, next_cursor: next } = await get("v1/jobs", { limit: 20, cursor });
    data.forEach((job) => add(job));
    cursor = next;
    more.hidden = !next;
    followSome();
  };

  await load();
  replace(
    main,
    h(
      "div",
      { class: "column" },
      h("h1", {}, "Jobs"),
      h(
        "p",
        { class: "lead" },
        "Files are read, and all that takes long is done, by durable jobs: one that is " +
          "interrupted goes on where it was.",
      ),
      cards.size
        ? list
        : h(
            "div",
            { class: "nothing" },
            owl("open", "large"),
            h("p", {}, "There are no jobs yet. "),
            h("a", { class: "primary", href: "#/collections" }, "Add files to a collection"),
          ),
      more,
    ),
  );
  return () => leaving.abort();
}
