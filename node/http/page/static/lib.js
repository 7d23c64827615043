// What every view needs: markup, addresses, figures in words, and how the node is asked.

import { Fragment, h, render } from "./vendor/preact.js";
import { useEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import { computed, effect, signal } from "./vendor/signals.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { Fragment, computed, effect, render, signal, useEffect, useMemo, useRef, useState };

// ---- addresses: #/view/part/part?key=value; all of a view's state that a reload must keep ----

export const address = signal(read());
addEventListener("hashchange", () => (address.value = read()));

function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  return { view: parts[0] ?? "home", parts: parts.slice(1), query: new URLSearchParams(query ?? "") };
}

export function link(view, parts = [], query = {}) {
  const given = Object.entries(query).flatMap(([key, value]) => [value].flat().map((one) => [key, one]));
  const kept = given.filter(([, value]) => value !== "" && value !== undefined && value !== null && value !== false);
  const told = new URLSearchParams(kept).toString();
  return `#/${[view, ...parts].map(encodeURIComponent).join("/")}${told ? `?${told}` : ""}`;
}

// Changes the query of where we are, without a new entry in the history.
export function keep(query) {
  const { view, parts, query: now } = address.value;
  const all = {};
  for (const key of new Set(now.keys())) all[key] = now.getAll(key);
  history.replaceState(null, "", link(view, parts, { ...all, ...query }));
  address.value = read();
}

export function go(view, parts, query) {
  location.hash = link(view, parts, query);
}

// ---- asking the node ----

let session = null;

export async function ask(path, { body, method, signal } = {}) {
  const response = await send(path, { body, method, signal });
  return response.json();
}

// A node that was started again has a new session: then once more, with its token.
export async function send(path, asked = {}) {
  try {
    return await sendOnce(path, asked);
  } catch (error) {
    if (error.code !== "no_session") throw error;
    return sendOnce(path, asked);
  }
}

async function sendOnce(path, { body, method = body === undefined ? "GET" : "POST", signal }) {
  const raw = body instanceof Blob;
  const headers = { "content-type": raw ? "application/octet-stream" : "application/json" };
  if (method !== "GET") headers["x-lorikeet-session"] = await token();
  const said = body === undefined || raw ? body : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers, body: said, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the node does not answer; is it running? lorikeet up starts it");
  }
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    if (told?.error?.code === "no_session") session = null;
    throw Object.assign(new Error(told?.error?.message ?? `the node answered ${response.status}`), { code: told?.error?.code });
  }
  return response;
}

async function token() {
  session ??= fetch("/lorikeet/v1/session", { method: "POST" })
    .then((response) => response.json())
    .then((told) => told.token);
  try {
    return await session;
  } catch {
    session = null;
    throw new Error("the node does not answer; is it running? lorikeet up starts it");
  }
}

// The events of a streamed answer, as JSON.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        yield JSON.parse(line.slice(6));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Runs what tells its progress; gives its result.
export async function follow(path, body, onProgress, signal) {
  for await (const word of events(await send(path, { body, signal }))) {
    if (word.error) throw new Error(word.error.message);
    if (word.progress) onProgress(word.progress);
    if ("result" in word) return word.result;
  }
  throw new Error("the node broke off");
}

// ---- figures in words ----

// In what amounts are; the node's status says it.
export const coin = signal({ symbol: "", decimals: 6 });

export const money = (amount) => `${(amount / 10 ** coin.value.decimals).toFixed(coin.value.decimals)} ${coin.value.symbol}`.trimEnd();
export const size = (bytes) =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : bytes >= 1e5 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e3).toFixed(1)} kB`;
export const many = (count, one, more = `${one}s`) => `${number(count)} ${count === 1 ? one : more}`;
export const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const brief = (text) => (!text ? "–" : text.length <= 16 ? text : `…${text.slice(-12)}`);
export const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString() : "–");

export function span(seconds) {
  const steps = [[86400, "d"], [3600, "h"], [60, "min"]];
  for (const [length, unit] of steps) if (seconds >= length) return `${number(seconds / length, seconds / length < 10 ? 1 : 0)} ${unit}`;
  return `${Math.max(0, Math.round(seconds))} s`;
}

// ---- small pieces ----

// The commands that print the same figures.
export function Commands({ of }) {
  return [of].flat().filter(Boolean).map((one) => html`<p class="cmd"><span class="unseen">The same in a terminal: </span><code>${one}</code></p>`);
}

// A box with a heading, and the command, or several, that print its figures.
export function Card({ title, cmd, children, wide, level = 2, id }) {
  const heading = title && h(`h${level}`, { id }, title);
  return html`<section class=${wide ? "card wide" : "card"}>
    ${heading}${children}
    <${Commands} of=${cmd}/>
  </section>`;
}

export function Figure({ label, value, unit, note }) {
  return html`<div class="figure"><dt>${label}</dt><dd><b>${value}</b>${unit && html` <span>${unit}</span>`}
    ${note && html`<small>${note}</small>`}</dd></div>`;
}

export function Tag({ kind, children }) {
  return html`<span class=${`tag ${kind ?? ""}`}>${children}</span>`;
}

export function Failure({ error }) {
  return error && html`<p class="failure" role="alert">${error.message ?? error}</p>`;
}

export function Empty({ children }) {
  return html`<p class="empty">${children}</p>`;
}

// An identity: short for people, whole for the clipboard.
export function Id({ text }) {
  const [copied, setCopied] = useState(false);
  if (!text) return "–";
  const copy = async () => {
    await navigator.clipboard?.writeText(text).catch(() => {});
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<button type="button" class="id" title=${text} onClick=${copy}><span class="unseen">copy </span>${copied ? "copied" : brief(text)}</button>`;
}

// Columns: {name, of(row), right?, key?}. A row's cells say their column's name on a narrow screen.
export function Table({ columns, rows, empty, caption, keyOf }) {
  if (!rows.length) return html`<${Empty}>${empty}<//>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table class=${columns.length > 4 ? "many" : ""}>
    <caption class="unseen">${caption}</caption>
    <thead><tr>${columns.map((column) => html`<th scope="col" class=${column.right ? "right" : ""}>${column.name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${keyOf(row)}>
      ${columns.map((column) => html`<td data-name=${column.name} class=${column.right ? "right" : ""}><div>${column.of(row)}</div></td>`)}
    </tr>`)}</tbody>
  </table></div>`;
}

export const Waiting = () => html`<p class="empty" role="status">One moment …</p>`;

// Asks once, and again when `again` changes.
export function useAsked(path, again = 0) {
  const [state, setState] = useState({ path: null });
  useEffect(() => {
    if (!path) return undefined;
    const stop = new AbortController();
    ask(path, { signal: stop.signal }).then(
      (value) => setState({ path, value }),
      (error) => error.name !== "AbortError" && setState({ path, error }),
    );
    return () => stop.abort();
  }, [path, again]);
  return state.path === path ? state : {};
}
