// Which view is shown, by the address's hash, and what stands around all of them.

import { key } from "./api.js";
import { askView } from "./ask.js";
import { collectionsView } from "./collections.js";
import { announce, h, icon, problem, replace } from "./dom.js";
import { jobsView } from "./jobs.js";

const main = document.getElementById("main");
let leave = null;
let visit = 0;

function route() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").map(part);
  if (parts[0] === "collections")
    return {
      view: "collections",
      title: parts[1] || "Collections",
      show: () => collectionsView(main, { name: parts[1] || null }),
    };
  if (parts[0] === "jobs") return { view: "jobs", title: "Jobs", show: () => jobsView(main) };
  if (parts[0] === "answers" && parts[1])
    return { view: "ask", title: "Answer", show: () => askView(main, { answer: parts[1] }) };
  return { view: "ask", title: "Ask", show: () => askView(main, { collection: parts[1] || null }) };
}

function part(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a lone % is no escape
  }
}

async function show(first = false) {
  const mine = ++visit;
  leave?.();
  leave = null;
  const { view, title, show: build } = route();
  for (const link of document.querySelectorAll("nav a"))
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  document.title = `${title} – rag_owl`;
  try {
    const left = await build();
    if (mine !== visit) return left?.(); // somebody went on while it was made
    leave = left;
    if (!first && !main.contains(document.activeElement)) main.focus();
  } catch (error) {
    if (mine === visit)
      replace(
        main,
        h(
          "div",
          { class: "column" },
          h("h1", {}, title),
          problem(error, () => show()),
        ),
      );
  }
}

const THEMES = [
  { name: null, label: "as the system", icon: "theme" },
  { name: "light", label: "light", icon: "sun" },
  { name: "dark", label: "dark", icon: "moon" },
];

function theme() {
  const button = document.getElementById("theme");
  const now = () =>
    THEMES.find((one) => one.name === (document.documentElement.dataset.theme ?? null)) ??
    THEMES[0];
  const paint = () => {
    replace(button, icon(now().icon));
    button.setAttribute("aria-label", `Theme: ${now().label}`);
    button.title = `Theme: ${now().label}`;
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(now()) + 1) % THEMES.length];
    if (next.name) document.documentElement.dataset.theme = next.name;
    else delete document.documentElement.dataset.theme;
    if (next.name) localStorage.setItem("rag-owl-theme", next.name);
    else localStorage.removeItem("rag-owl-theme");
    paint();
    announce(`Theme: ${next.label}`);
  });
  paint();
}

function keys() {
  const forget = document.getElementById("forget-key");
  forget.hidden = !key.get();
  forget.addEventListener("click", () => {
    key.forget();
    forget.hidden = true;
    show();
  });
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash names views
  main.focus();
});
// A file dropped beside every place for it would replace the page.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
addEventListener("hashchange", () => show());
theme();
keys();
show(true);
