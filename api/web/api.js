// The service, as the page sees it: every request, its key, its errors.

import { events } from "./sse.js";
import { askForKey } from "./key.js";

const KEY = "rag-owl-key";

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What the service refused, in its own words (RFC 9457). */
export class Problem extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// Relative to the page, so that a proxy may serve it under any path.
const address = (path) => new URL(path.replace(/^\/+/, ""), document.baseURI);

function headers(extra = {}) {
  return key.get() ? { ...extra, Authorization: `Bearer ${key.get()}` } : extra;
}

async function refused(response) {
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("Retry-After");
  let message = body?.detail || body?.title || `The service answered ${response.status}.`;
  if (typeof message !== "string") message = JSON.stringify(message);
  if (response.status === 503 && wait) message += ` (Free again in about ${wait} s.)`;
  return new Problem(message, response.status, wait);
}

async function send(path, options = {}) {
  const { json, query, ...rest } = options;
  const url = address(path);
  for (const [name, value] of Object.entries(query ?? {}))
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  const once = () => {
    const extra = json === undefined ? {} : { "Content-Type": "application/json" };
    const body = json === undefined ? rest.body : JSON.stringify(json);
    return fetch(url, { ...rest, body, headers: headers({ ...extra, ...rest.headers }) });
  };
  let response;
  try {
    response = await once();
    while (response.status === 401) {
      if (!(await askForKey(Boolean(key.get())))) break;
      response = await once();
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer. Is it still running?");
  }
  if (!response.ok) throw await refused(response);
  return response;
}

export async function call(method, path, options = {}) {
  const response = await send(path, { method, ...options });
  if (response.status === 204) return null;
  return response.json();
}

export const get = (path, query, options = {}) => call("GET", path, { query, ...options });

const MOST_PAGES = 50;

/** A whole list, page by page. */
export async function getAll(path, query = {}) {
  const found = [];
  let cursor = null;
  for (let pages = 0; pages < MOST_PAGES; pages++) {
    const { data, next_cursor: next } = await get(path, { ...query, limit: 200, cursor });
    found.push(...data);
    if (!next) break;
    cursor = next;
  }
  return found;
}

/** Yields {event, data} with the data parsed. */
export async function* stream(method, path, options = {}) {
  const accept = { Accept: "text/event-stream" };
  const response = await send(path, { method, ...options, headers: accept });
  try {
    for await (const { event, data } of events(response.body))
      yield { event, data: JSON.parse(data) };
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw new Problem("The connection to the service broke off.");
  }
}

/**
 * An address that an <img> or <video> can show. They cannot send a key, so with one the bytes are
 * fetched first; `free` lets go of them.
 */
export async function media(path) {
  if (!key.get()) {
    // Where a key is missing the picture would only be broken; ask for one request's head first.
    return { url: address(path).href, free() {} };
  }
  const response = await send(path);
  const url = URL.createObjectURL(await response.blob());
  return { url, free: () => URL.revokeObjectURL(url) };
}

export async function download(path, name) {
  const response = await send(path);
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const collectionPath = (name) => `v1/collections/${encodeURIComponent(name)}`;
export const itemPath = (name, id) => `${collectionPath(name)}/items/${encodeURIComponent(id)}`;
export const answerPath = (id) => `v1/answers/${encodeURIComponent(id)}`;
export const jobPath = (id) => `v1/jobs/${encodeURIComponent(id)}`;
