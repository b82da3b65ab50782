// Offsets and differences. The service counts Unicode code points, JavaScript UTF-16 units.

/** A function from an offset in code points to one in UTF-16 units of `text`. */
export function toUtf16(text) {
  if (!/[\ud800-\udbff]/.test(text)) return (offset) => Math.max(0, Math.min(offset, text.length));
  const at = [0];
  for (const character of text) at.push(at.at(-1) + character.length);
  return (offset) => at[Math.max(0, Math.min(offset, at.length - 1))];
}

/** Cuts `text` where any of `spans` ({start, end}, UTF-16) begins or ends: [{text, spans}…]. */
export function segments(text, spans) {
  const well = spans.filter((span) => span.start < span.end && span.start < text.length);
  const cuts = new Set([0, text.length]);
  for (const span of well) cuts.add(span.start).add(Math.min(span.end, text.length));
  const sorted = [...cuts].sort((a, b) => a - b);
  return sorted.slice(0, -1).map((start, n) => ({
    text: text.slice(start, sorted[n + 1]),
    spans: well.filter((span) => span.start <= start && span.end >= sorted[n + 1]),
  }));
}

const AFTER = /^(\s?\[\d{1,4}\])+/;
const WITHIN = /(\s?\[\d{1,4}\])+[.!?\s]*$/;

/**
 * Where the marker of each citation stands in the answer: right after its statement or at the
 * statement's own end. The same characters elsewhere, quoted from a document, stay text.
 * `at` is null where there is none, or where another citation has the same marker in that place.
 */
export function placeMarkers(text, citations) {
  const units = toUtf16(text);
  const taken = new Set();
  return citations.map((citation, index) => {
    const start = units(citation.start);
    const end = units(citation.end);
    const marker = `[${citation.marker}]`;
    const after = AFTER.exec(text.slice(end))?.[0] ?? "";
    const within = WITHIN.exec(text.slice(start, end));
    let at = null;
    if (after.includes(marker)) at = end + after.indexOf(marker);
    else if (within?.[0].includes(marker)) at = start + within.index + within[0].indexOf(marker);
    const place = {
      citation,
      index,
      start,
      end,
      at,
      to: at === null ? null : at + marker.length,
      shared: false,
    };
    if (at !== null && taken.has(at)) return { ...place, at: null, to: null, shared: true };
    taken.add(at);
    return place;
  });
}

/** A word-wise difference (longest common subsequence): [{kind: "same"|"gone"|"new", text}…]. */
export function difference(before, now) {
  const cut = (text) => (text.match(/\S+\s*/g) ?? []).slice(0, 600);
  const [a, b] = [cut(before), cut(now)];
  const width = b.length + 1;
  const table = new Uint16Array((a.length + 1) * width);
  const same = (i, j) => a[i].trim() === b[j].trim();
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      table[i * width + j] = same(i, j)
        ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
  const parts = [];
  const add = (kind, text) => {
    if (parts.at(-1)?.kind === kind) parts.at(-1).text += text;
    else parts.push({ kind, text });
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && same(i, j)) {
      add("same", b[j]);
      i++;
      j++;
    } else if (
      i < a.length &&
      (j >= b.length || table[(i + 1) * width + j] >= table[i * width + j + 1])
    )
      add("gone", a[i++]);
    else add("new", b[j++]);
  }
  return parts;
}
