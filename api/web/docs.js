// The reference at /docs, made from openapi.json: nothing is loaded from another server.

import { h, problem, replace } from "./dom.js";

const METHODS = ["get", "post", "put", "delete", "head"];

let document_ = null;

/** A part of the document, with its reference followed. */
function resolve(part) {
  if (!part?.$ref) return part ?? {};
  return (
    part.$ref
      .slice(2)
      .split("/")
      .reduce((at, name) => at?.[name], document_) ?? {}
  );
}

/** The example that the document gives of a parameter, a request or an answer. */
function example(holder) {
  return holder.example ?? resolve(holder.schema).examples?.[0];
}

/** As it stands in a shell between single quotes. */
function quoted(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Text with what stands between backticks as code. */
function words(text) {
  return text.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));
}

/** One command for each form that the request may have. */
function curl(method, path, operation, contents) {
  const query = (operation.parameters ?? [])
    .map(resolve)
    .filter((one) => one.in === "query" && one.required);
  const search = query
    .map((one) => `${one.name}=${encodeURIComponent(example(one))}`)
    .join("&");
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const first = `curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${base}${path}${search && `?${search}`}`;
  const forms = [];
  if (contents?.["application/json"]) {
    const body = quoted(example(contents["application/json"]));
    forms.push(['-H "Content-Type: application/json"', `-d ${body}`]);
  }
  if (contents?.["multipart/form-data"]) {
    const { properties = {} } = resolve(contents["multipart/form-data"].schema);
    const isFile = (part) => resolve(part.items ?? part).format === "binary";
    const given = example(contents["multipart/form-data"]) ?? {};
    const field = ([name, part]) =>
      isFile(part) ? `-F ${name}=@FILE` : `-F ${quoted(`${name}=${JSON.stringify(given[name])}`)}`;
    forms.push(
      Object.entries(properties)
        .filter(([name, part]) => isFile(part) || name in given)
        .map(field),
    );
  }
  if (!forms.length) return first;
  return forms.map((form) => [first, ...form].join(" \\\n  ")).join("\n\n");
}

function parameters(operation) {
  const all = (operation.parameters ?? []).map(resolve);
  if (!all.length) return null;
  return [
    h("h3", {}, "Parameters"),
    h(
      "table",
      {},
      h(
        "tbody",
        {},
        all.map((one) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, h("code", {}, one.name)),
            h("td", {}, one.required ? `${one.in}, required` : one.in),
            h("td", {}, one.description ?? resolve(one.schema).description ?? ""),
          ),
        ),
      ),
    ),
  ];
}

function responses(operation) {
  return Object.entries(operation.responses ?? {}).map(([status, given]) => {
    const response = resolve(given);
    const [type, content] = Object.entries(response.content ?? {})[0] ?? [];
    const shown = content && example(content);
    const types = Object.keys(response.content ?? {}).join(", ");
    return [
      h(
        "h3",
        {},
        `${status} `,
        h(
          "span",
          { class: "small-print" },
          [response.description, type !== "application/json" && types].filter(Boolean).join("; "),
        ),
      ),
      shown !== undefined &&
        status < "300" &&
        h("pre", { tabindex: 0 }, typeof shown === "string" ? shown : JSON.stringify(shown, null, 2)),
    ];
  });
}

function endpoint(method, path, operation) {
  const contents = resolve(operation.requestBody).content;
  const body = h("div", { class: "endpoint-body" });
  const fill = () => {
    if (body.childElementCount) return;
    const said = (operation.description ?? "").trim();
    replace(
      body,
      said && said.split(/\n\s*\n/).map((part) => h("p", {}, words(part))),
      parameters(operation) ?? [],
      h("h3", {}, "Request"),
      h("pre", { tabindex: 0 }, curl(method, path, operation, contents)),
      responses(operation),
    );
  };
  return h(
    "details",
    { class: "endpoint", ontoggle: fill },
    h(
      "summary",
      {},
      h("span", { class: "method" }, method.toUpperCase()),
      h("span", { class: "path" }, path),
      h("span", { class: "small-print" }, operation.summary ?? ""),
    ),
    body,
  );
}

async function show() {
  const main = document.getElementById("main");
  try {
    const response = await fetch(new URL("openapi.json", document.baseURI));
    if (!response.ok) throw new Error(`The service answered ${response.status}.`);
    document_ = await response.json();
  } catch (error) {
    return replace(main, h("div", { class: "column" }, problem(error, show)));
  }
  const groups = new Map();
  for (const [path, operations] of Object.entries(document_.paths))
    for (const method of METHODS.filter((one) => operations[one] && one !== "head")) {
      const tag = operations[method].tags?.[0] ?? "service";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(endpoint(method, path, operations[method]));
    }
  replace(
    main,
    h(
      "div",
      { class: "column reference" },
      h("h1", {}, "The HTTP interface"),
      h(
        "p",
        { class: "lead" },
        "Errors are problem documents (RFC 9457): ",
        h("code", {}, '{"title", "status", "detail", "field"}'),
        ". Where a key is needed it goes in ",
        h("code", {}, "Authorization: Bearer owl_…"),
        ". Long lists are read with ",
        h("code", {}, "?cursor="),
        " and the ",
        h("code", {}, "next_cursor"),
        " of the page before.",
      ),
      [...groups].map(([tag, all]) => h("section", { "aria-label": tag }, h("h2", {}, tag), all)),
    ),
  );
}

show();
