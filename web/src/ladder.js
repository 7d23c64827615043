// ladder-1: how many bits of an answer each contributor's words saved, beyond what anybody writes, and
// where its runs stand (docs/protocols/attribution.md). Pure; integers alone.
//
// One walk through a text counts the answer's own runs in it, so no text is sorted.

import { divide } from "./shares.js";
import { END, placeOf } from "./texts.js";

export const BIT = 1 << 16; // bits are counted in these
const ONE = 1 << 20; // the probability 1
const UNIFORM = 16;
const MAX_ORDER = 4;
export const MAX_CONTEXT = 8; // tokens before one that foretell it
const MAX_TOKEN_BITS = 12;
const MAX_CREDITED = 32;
const STEPS = 1 << 12;
const RANKS = 2 ** 21; // more than a text has

export const TABLE = Float64Array.from({ length: STEPS + 1 }, (_, step) => Math.round(Math.log2(1 + step / STEPS) * BIT));

// Of an integer from 1 to 2^20, in 1/65536.
function log2(number) {
  const exponent = 31 - Math.clz32(number);
  return BIT * exponent + TABLE[Math.floor((Math.floor((number * 8192) / 2 ** exponent) + 1) / 2) - STEPS];
}

// How often the runs of `ids` of up to `depth` tokens stand in a text (`seen`), what of it whom they are
// of (`owned`), and how many different tokens follow them, the end mark among these (`following`).
class Runs {
  constructor({ counted, givers, rankOf, numContributors }, ids, depth) {
    this.children = new Map();
    this.depth = depth;
    this.ranks = ids.map((id) => rankOf.get(id) ?? RANKS - 1);
    this.paths = this.ranks.map((_, at) => this.path(at));
    this.seen = new Float64Array(this.children.size + 1);
    this.following = new Float64Array(this.seen.length);
    this.owned = Array.from({ length: numContributors }, () => new Float64Array(this.seen.length));
    const followed = new Set();
    for (let at = 0; at < counted.length; at++) this.walk(counted, at, givers?.[at], followed);
  }

  // The runs that begin here, by their length: numbers of which 0 is the empty one's.
  path(at) {
    const path = [0];
    for (const rank of this.ranks.slice(at, at + this.depth)) {
      const key = path.at(-1) * RANKS + rank;
      if (!this.children.has(key)) this.children.set(key, this.children.size + 1);
      path.push(this.children.get(key));
    }
    return path;
  }

  walk(text, start, giver, followed) {
    let run = 0;
    for (let at = start; text[at] !== END; at++) {
      run = this.children.get(run * RANKS + text[at]);
      if (run === undefined) return;
      this.seen[run]++;
      if (giver !== undefined) this.owned[giver][run]++;
      const key = run * RANKS + text[at + 1];
      if (followed.has(key)) continue;
      followed.add(key);
      this.following[run]++;
    }
  }

  // Of the token at a place, climbs from what shorter contexts foretold; `step` takes what the context,
  // and what the token after it, are.
  climb(at, from, to, step) {
    for (let length = from; length <= Math.min(to, at); length++) {
      const context = this.paths[at - length][length];
      if (length > 0 && this.seen[context] === 0) return;
      step(context, this.paths[at - length][length + 1]);
    }
  }
}

const mixed = (here, seen, following, below) => Math.floor((here * ONE + following * below) / (seen + following));

// What anybody foretells of the token at a place, in 1/2^20.
function foretold(background, runs, at) {
  const total = background.ranks.length - 1;
  let likely = UNIFORM;
  runs.climb(at, 0, MAX_ORDER, (context, whole) => {
    likely = context === 0 ? mixed(runs.seen[whole], total, background.gaps.length + 1, likely) : mixed(runs.seen[whole], runs.seen[context], runs.following[context], likely);
  });
  return Math.max(likely, 1);
}

// {bits, byToken, known}: of each contributor, of each token and contributor, and what the background
// foretold anyway; in 1/65536.
export function measure(text, background, promptIds, answerIds) {
  const before = promptIds.slice(-MAX_CONTEXT);
  const ids = [...before, ...answerIds];
  const runs = new Runs(text, ids, MAX_CONTEXT + 1);
  const anybody = new Runs(background, ids, MAX_ORDER + 1);
  const below = answerIds.map((_, place) => foretold(background, anybody, before.length + place));
  const byToken = below.map((likely, place) => gain(runs, before.length + place, likely));
  const bits = runs.owned.map((_, place) => byToken.reduce((sum, one) => sum + one[place], 0));
  return { bits, byToken, known: below.reduce((sum, likely) => sum + Math.max(log2(likely) - log2(UNIFORM), 0), 0) };
}

function gain(runs, at, below) {
  let likely = below;
  let mine = runs.owned.map(() => 0);
  runs.climb(at, 1, MAX_CONTEXT, (context, whole) => {
    const seen = runs.seen[context];
    const following = runs.following[context];
    likely = mixed(runs.seen[whole], seen, following, likely);
    mine = mine.map((one, place) => mixed(runs.owned[place][whole], seen, following, one));
  });
  if (likely <= below) return mine.map(() => 0);
  const gained = Math.min(log2(likely) - log2(below), MAX_TOKEN_BITS * BIT);
  return mine.map((one) => Math.floor((gained * one) / likely));
}

// What a receipt says of one adapter: [[place, part of 10,000]] of those on whom an answer drew most.
export function credit(bits, noneBits, numAttributed) {
  if (bits.reduce((sum, one) => sum + one, 0) < noneBits * BIT) return [];
  const most = Math.floor(MAX_CREDITED / numAttributed);
  const largest = bits.map((_, place) => place).sort((one, other) => bits[other] - bits[one] || one - other).slice(0, most);
  const places = largest.filter((place) => bits[place]).sort((one, other) => one - other);
  const parts = divide(10_000n, places.map((place) => BigInt(bits[place])));
  return places.map((place, at) => [place, Number(parts[at])]).filter(([, part]) => part);
}

// What a receipt says of all adapters in it; of each [text, background, noneBits], or null.
export function draw(texts, promptIds, answerIds) {
  const count = texts.filter(Boolean).length;
  const parts = texts.map((one) => (one ? credit(measure(one.text, one.background, promptIds, answerIds).bits, one.noneBits, count) : []));
  return parts.some((one) => one.length) ? parts : [];
}

// Where runs of an answer stand word for word: [{start, end, contributor, contribution, document, bits}]. Of
// several places the longest, then the first is named. For reading; decides nothing.
export function spansOf(text, answerIds, byToken) {
  const ranks = answerIds.map((id) => text.rankOf.get(id) ?? RANKS - 1);
  const spans = [];
  let done = 0;
  for (let at = 0; at < ranks.length; at++) {
    if (at < done || !byToken[at].some(Boolean)) continue;
    const span = stretch(text.counted, ranks, at, done);
    if (span === null || span.end - span.start < 2) continue;
    const { contributor, ...place } = placeOf(text, span.first);
    spans.push({ start: span.start, end: span.end, contributor, ...place, bits: byToken.slice(span.start, span.end).reduce((sum, one) => sum + one[contributor], 0) });
    done = span.end;
  }
  return spans;
}

function stretch(text, ranks, at, done) {
  let best = 0;
  let first = 0;
  for (let position = text.indexOf(ranks[at]); position >= 0; position = text.indexOf(ranks[at], position + 1)) {
    let reach = 1;
    while (at + reach < ranks.length && text[position + reach] === ranks[at + reach]) reach++;
    if (reach > best) [best, first] = [reach, position];
  }
  if (best === 0) return null;
  let start = at;
  for (; start > done && text[first - 1] === ranks[start - 1]; first--) start--;
  return { start, end: at + best, first };
}
