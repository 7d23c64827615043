// What the node tells of itself: one stream, closed while nobody looks.

import { coin, signal } from "./lib.js";

const PARTS = ["status", "held", "arriving", "log", "peers", "banned", "runs", "datanets", "receipts", "adapters", "earnings", "stuck", "channels"];
const MOST_RATES = 180;
const MOST_LINES = 500;

export const parts = Object.fromEntries(PARTS.map((name) => [name, signal(undefined)]));
export const failures = signal({});
export const link = signal("opening");
export const rates = signal([]);

let source = null;
let before = null;

export function open() {
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : listen()));
  if (!document.hidden) listen();
}

function listen() {
  if (source) return;
  source = new EventSource("/lorikeet/v1/live");
  source.onopen = () => (link.value = "open");
  source.onerror = () => {
    link.value = "lost";
    before = null;
    if (source?.readyState === EventSource.CLOSED) {
      close();
      setTimeout(() => document.hidden || listen(), 3000);
    }
  };
  for (const name of PARTS) source.addEventListener(name, take);
}

function close() {
  source?.close();
  source = null;
  before = null;
}

function take(event) {
  const told = JSON.parse(event.data);
  if ("error" in told) {
    failures.value = { ...failures.value, [told.type]: told.error };
    return;
  }
  if (told.type in failures.value) {
    const { [told.type]: gone, ...rest } = failures.value;
    failures.value = rest;
  }
  parts[told.type].value = told.type === "log" ? joined(parts.log.value, told.value) : told.value;
  if (told.type !== "status") return;
  const { symbol, decimals } = told.value.coin;
  if (symbol !== coin.value.symbol || decimals !== coin.value.decimals) coin.value = told.value.coin;
  measure(told.value);
}

// The lines of the log that were told before, and those that came since.
function joined(known, told) {
  const gap = known === undefined || told.first > known.first + known.lines.length || told.first < known.first;
  if (gap) return told;
  const lines = [...known.lines.slice(0, told.first - known.first), ...told.lines].slice(-MOST_LINES);
  return { first: told.first + told.lines.length - lines.length, lines };
}

// Tokens a second, from how far the counters went between two words.
function measure(status) {
  const engine = status.engine?.tokens_generated;
  const tokens = engine ?? status.counters?.tokens_served ?? 0;
  const now = { at: performance.now(), tokens };
  if (before && now.at - before.at > 500) {
    const rate = Math.max(0, (1000 * (now.tokens - before.tokens)) / (now.at - before.at));
    rates.value = [...rates.value.slice(1 - MOST_RATES), rate];
  }
  if (!before || now.at - before.at > 500) before = now;
}
