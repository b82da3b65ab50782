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

/** A value that fits the schema: its own example, or one made of its parts. */
export function example(given, depth = 0) {
  const schema = resolve(given);
  if (schema.examples?.length) return schema.examples[0];
  if ("example" in schema) return schema.example;
  if ("const" in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  const choice = (schema.anyOf ?? schema.oneOf)?.find((one) => one.type !== "null");
  if (choice) return depth > 6 ? null : example(choice, depth + 1);
  if (schema.allOf) return Object.assign({}, ...schema.allOf.map((one) => example(one, depth + 1)));
  if ("default" in schema && schema.default !== null) return schema.default;
  if (schema.type === "array") return depth > 6 ? [] : [example(schema.items, depth + 1)];
  if (schema.type === "object" || schema.properties)
    return Object.fromEntries(
      Object.entries(schema.properties ?? {}).map(([name, one]) => [name, example(one, depth + 1)]),
    );
  return (
    {
      integer: 1,
      number: 0.5,
      boolean: true,
      string: schema.format === "binary" ? "(a file)" : "…",
    }[schema.type] ?? null
  );
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
    .map((one) => `${one.name}=${encodeURIComponent(example(one.schema))}`)
    .join("&");
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const first = `curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${base}${path}${search && `?${search}`}`;
  const forms = [];
  if (contents?.["application/json"]) {
    const body = JSON.stringify(example(contents["application/json"].schema)).replaceAll(
      "'",
      "'\\''",
    );
    forms.push(['-H "Content-Type: application/json"', `-d '${body}'`]);
  }
  if (contents?.["multipart/form-data"]) {
    const { properties = {} } = resolve(contents["multipart/form-data"].schema);
    const isFile = (part) => resolve(part.items ?? part).format === "binary";
    forms.push(
      Object.entries(properties).map(
        ([name, part]) => `-F ${name}=${isFile(part) ? "@FILE" : "…"}`,
      ),
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
    const json = response.content?.["application/json"]?.schema;
    const types = Object.keys(response.content ?? {}).join(", ");
    return [
      h(
        "h3",
        {},
        `${status} `,
        h(
          "span",
          { class: "small-print" },
          [response.description, !json && types].filter(Boolean).join("; "),
        ),
      ),
      json && status < "300" && h("pre", { tabindex: 0 }, JSON.stringify(example(json), null, 2)),
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
