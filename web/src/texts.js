// What an adapter's contributors wrote, as token ids, and what is nobody's (docs/protocols/attribution.md):
// which of it counts, and who gave it. Pure.

import { concat, equal } from "./bytes.js";
import { COUNT, Malformed, is } from "./form.js";
import { sha256 } from "./keys.js";
import { decode } from "./msgpack.js";

export const END = 0; // the rank between documents
export const MAX_TEXT_BYTES = 4 << 20; // of a file that a page reads: some two million tokens, a second or two
const WINDOW = 8; // a token counts with a window around it that stands nowhere before
const ALIGNMENT_BYTES = 64;
const MAX_ELEMENTS = 1 << 21;
const MAX_RANKS = 1 << 27;
const HEADER = is.record({
  kind: is.one("lorikeet tokens"), version: is.one(1), tokenizerHash: is.bytes(32), width: is.one(2, 4), numRanks: is.whole(1, MAX_RANKS),
  numContributors: is.whole(0, 48), contributions: is.list(is.tuple(is.whole(0, 47), is.whole(1, MAX_RANKS)), 1 << 16), gaps: is.list(is.whole(0, COUNT), 1 << 20),
});
const LISTED = is.record({
  contributor: is.whole(0, 47), datanet: is.whole(0, 15), contribution: is.bytes(32), title: is.text(128), documents: is.list(is.whole(1, 1 << 20), 1 << 20, 1),
});
const LISTING = is.tuple(is.one("lorikeet contributors"), is.one(1), is.list(LISTED, 1 << 16));

// {numContributors, contributions, rankOf, ranks, counted, givers}: `counted` has an end mark in the place
// of each token that does not count, `givers` a contributor for each place. Throws Malformed or BadBytes.
export function readText(bytes) {
  need(bytes.length > 4 && bytes.length <= MAX_TEXT_BYTES, `a text of ${bytes.length} bytes`);
  const size = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
  need(4 + size <= bytes.length, "a header that is longer than its file");
  const header = HEADER(decode(bytes.subarray(4, 4 + size), MAX_TEXT_BYTES, MAX_ELEMENTS));
  const start = Math.ceil((4 + size) / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
  need(bytes.subarray(4 + size, start).every((one) => one === 0), "what fills up the header is not all zero");
  need(bytes.length - start === header.width * header.numRanks, "not as many ranks as its header says");
  need(header.width === (header.gaps.length < 1 << 16 ? 2 : 4), "the other width");
  const ranks = new (header.width === 2 ? Uint16Array : Uint32Array)(concat(bytes.subarray(start)).buffer);
  const rankOf = readVocabulary(header.gaps);
  const numDocuments = checkRanks(ranks, header.gaps.length);
  const isBackground = header.numContributors === 0;
  checkContributions(header, numDocuments);
  return { ...header, rankOf, ranks, counted: isBackground ? ranks : onlyFirst(ranks), givers: isBackground ? null : giversOf(ranks, header.contributions) };
}

// Throws Malformed unless these are the texts of that manifest.
export function checkTexts(manifest, text, background, backgroundBytes) {
  need(equal(sha256(backgroundBytes), manifest.origin.attribution.background), "the background is not the one that was measured with");
  need(background.numContributors === 0, "the background has contributors");
  need(text.numContributors === manifest.contributors.length, "the text has other contributors than the manifest");
  for (const one of [text, background]) need(equal(one.tokenizerHash, manifest.tokenizerHash), "the ids are of another tokenizer than the manifest's");
}

// Where each contribution was given; null where that is not as it must be, for nothing is paid by it.
export function readListing(bytes, text, numDatanets) {
  try {
    const [, , listed] = LISTING(decode(bytes, MAX_TEXT_BYTES, MAX_ELEMENTS));
    const isOfText = listed.length === text.contributions.length && listed.every((one, place) => {
      const [contributor, documents] = text.contributions[place];
      return one.contributor === contributor && one.documents.length === documents && one.datanet < numDatanets;
    });
    return isOfText ? listed : null;
  } catch {
    return null;
  }
}

function need(isGood, fault) {
  if (!isGood) throw new Malformed(`an adapter's text is not as it must be: ${fault}`);
}

function readVocabulary(gaps) {
  const rankOf = new Map();
  let id = 0;
  gaps.forEach((gap, place) => {
    need(gap > 0 || place === 0, "an id twice");
    id += gap;
    need(id <= COUNT, `${id} is no token id`);
    rankOf.set(id, place + 1);
  });
  return rankOf;
}

// How many documents there are.
function checkRanks(ranks, numIds) {
  need(ranks[0] === END && ranks.at(-1) === END, "it begins and closes with an end mark");
  const seen = new Uint8Array(numIds + 1);
  let numEnds = 0;
  for (let at = 0; at < ranks.length; at++) {
    need(ranks[at] <= numIds, "a rank without an id");
    need(ranks[at] !== END || at === 0 || ranks[at - 1] !== END, "an empty document");
    seen[ranks[at]] = 1;
    if (ranks[at] === END) numEnds++;
  }
  need(!seen.includes(0), "an id that occurs nowhere");
  return numEnds - 1;
}

function checkContributions({ numContributors, contributions }, numDocuments) {
  if (numContributors === 0) return need(contributions.length === 0, "contributions to a background");
  need(contributions.length > 0 && contributions.every(([contributor]) => contributor < numContributors), "a contribution of nobody");
  need(contributions.reduce((sum, [, documents]) => sum + documents, 0) === numDocuments, "contributions of other documents than there are");
}

// The text with an end mark in the place of what stands before already.
function onlyFirst(ranks) {
  const only = new ranks.constructor(ranks.length);
  const places = new Int32Array(2 << (32 - Math.clz32(ranks.length)));
  const odd = (Math.random() * 2 ** 32) | 1; // nobody can write a text whose windows all fall on one place
  let since = 0;
  for (let end = 0; end < ranks.length; end++) {
    since = ranks[end] === END ? 0 : since + 1;
    const at = end - WINDOW + 1;
    if (since < WINDOW || isKnown(ranks, at, places, odd)) continue;
    only.set(ranks.subarray(at, end + 1), at);
  }
  return only;
}

// Whether a window stands before `at`; else it does from now on.
function isKnown(ranks, at, places, odd) {
  let number = 0;
  for (let ahead = 0; ahead < WINDOW; ahead++) number = Math.imul(number ^ ranks[at + ahead], odd) ^ (number >>> 15);
  let place = (number ^ (number >>> 16)) & (places.length - 1);
  for (; places[place]; place = (place + 1) & (places.length - 1)) {
    if (isSame(ranks, places[place], at)) return true;
  }
  places[place] = at; // never 0, where an end mark stands
  return false;
}

function isSame(ranks, one, other) {
  for (let ahead = 0; ahead < WINDOW; ahead++) if (ranks[one + ahead] !== ranks[other + ahead]) return false;
  return true;
}

function giversOf(ranks, contributions) {
  const givers = new Uint8Array(ranks.length);
  let contribution = -1;
  let left = 0; // documents of it that have not begun
  for (let at = 0; at < ranks.length - 1; at++) {
    if (ranks[at] === END && left-- === 0) left = contributions[++contribution][1] - 1;
    givers[at + 1] = contributions[contribution][0];
  }
  return givers;
}

// Which contribution a place stands in, and which of its documents; both count from 0.
export function placeOf({ ranks, contributions }, position) {
  let document = -1;
  for (let at = 0; at < position; at++) if (ranks[at] === END) document++;
  let contribution = 0;
  while (document >= contributions[contribution][1]) document -= contributions[contribution++][1];
  return { contributor: contributions[contribution][0], contribution, document };
}
