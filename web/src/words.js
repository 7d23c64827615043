// Whose words an answer has: fetches what the contributors to its adapters wrote, and measures with it
// (ladder.js). Shows the same as a daemon's `why`; holds no text longer than it needs.

import { cidOf, hex, unhex } from "./bytes.js";
import { BIT, credit, draw, measure, spansOf } from "./ladder.js";
import { MAX_TEXT_BYTES, checkTexts, readListing, readText } from "./texts.js";

const MOST_TEXTS = 8;
const ROLES = ["node", "creator", "data"];

export const isAttributed = (manifest) => (manifest.origin?.attribution?.lambda ?? 0) > 0;

// The adapters of whose data one learnt: itself, or those of which it was merged.
export const learntFrom = (manifest) => (manifest.parents.length ? manifest.parents.map((one) => one.manifest) : [manifest]);

export class Words {
  // `client` fetches files and manifests by their hashes.
  constructor(client) {
    this.client = client;
    this.here = new Map();
    this.coming = new Map();
  }

  // What a receipt says that an answer drew on, as a function of its tokens; null where there is nothing to
  // draw on, or a text is not here: it is fetched for the next question.
  drawing(manifests) {
    const missing = manifests.filter((one) => isAttributed(one) && !this.here.has(hex(one.digest)));
    for (const one of missing) this.load(one).catch(() => {}); // whoever asks whose words it has is told why
    if (missing.length || !manifests.some(isAttributed)) return null;
    const texts = manifests.map((one) => this.here.get(hex(one.digest)) ?? null);
    return (promptIds, answerIds) => draw(texts, promptIds, answerIds);
  }

  // {text, background, listed, noneBits} of an adapter with attribution.
  load(manifest) {
    const key = hex(manifest.digest);
    if (this.here.has(key)) return this.here.get(key);
    if (!this.coming.has(key)) this.coming.set(key, this.fetch(manifest).then((found) => this.keep(key, found)).finally(() => this.coming.delete(key)));
    return this.coming.get(key);
  }

  keep(key, found) {
    this.here.set(key, found);
    for (const old of [...this.here.keys()].slice(0, -MOST_TEXTS)) this.here.delete(old);
    return found;
  }

  async fetch(manifest) {
    const [textBytes, backgroundBytes, listing] = await Promise.all(["attribution.tokens", "background.tokens", "contributors.msgpack"].map((name) => this.file(manifest, name)));
    if (!textBytes || !backgroundBytes) throw new Error(`${manifest.name} has no texts to measure with`);
    const text = readText(textBytes);
    const background = readText(backgroundBytes);
    checkTexts(manifest, text, background, backgroundBytes);
    return { text, background, listed: listing && readListing(listing, text, manifest.origin.datanets.length), noneBits: manifest.origin.attribution.noneBits };
  }

  async file(manifest, name) {
    const found = manifest.files.find((one) => one.name === name);
    if (!found) return null;
    if (found.size > MAX_TEXT_BYTES) throw new Error(`what ${manifest.name}'s contributors wrote has ${found.size} bytes, and a page reads ${MAX_TEXT_BYTES}; a node of your own tells it (lorikeet why)`);
    return this.client.file(found.blocks, () => this.client.providersOf(manifest.digest));
  }

  // ---- for people ----

  // What a daemon's `why` says of an answer. `said`: {base, adapters, before, ids}, digests in hex, the last
  // tokens before the answer and its own; `finish`: how it ended.
  async explain({ base, adapters, before, ids }, finish) {
    const whole = await Promise.all(adapters.map((one) => this.client.manifest(unhex(one))));
    const manifests = whole.flatMap((one) => learntFrom(one.manifest));
    const [{ tokens }, texts] = await Promise.all([this.client.base(unhex(base)), Promise.all(manifests.map((one) => (isAttributed(one) ? this.load(one) : null)))]);
    const count = texts.filter(Boolean).length;
    const names = new Map(manifests.flatMap((one) => one.contributors.map(({ address, name }) => [hex(address), name])));
    return {
      ...verdictOf(count, finish), text: tokens.decode(ids),
      split: finish.split.map((one) => ({ ...one, role: ROLES[one.role], name: names.get(one.address) ?? "" })),
      adapters: manifests.map((one, place) => this.tell(one, texts[place], { count, before, ids, tokens })),
    };
  }

  tell(manifest, texts, { count, before, ids, tokens }) {
    const attribution = isAttributed(manifest) ? manifest.origin.attribution : null;
    const found = texts && measure(texts.text, texts.background, before, ids);
    const parts = new Map(found ? credit(found.bits, texts.noneBits, count) : []);
    return {
      adapter: `${manifest.name}@${manifest.adapterVersion}`, cid: cidOf(manifest.digest), lambda_eighths: attribution?.lambda ?? 0, quality: attribution && qualityOf(attribution),
      contributors: manifest.contributors.map(({ name, address, weight }, place) => ({ name, address: hex(address), weight, bits: found ? found.bits[place] / BIT : null, drawn: parts.get(place) ?? 0 })),
      known_bits: found ? found.known / BIT : null,
      spans: found ? spansOf(texts.text, ids, found.byToken).map((one) => ({
        ...one, text: tokens.decode(ids.slice(one.start, one.end)), bits: one.bits / BIT, contributor: manifest.contributors[one.contributor].name, source: sourceOf(one, texts.listed),
      })) : [],
    };
  }
}

function verdictOf(count, { receipt, attributed }) {
  if (!count) return { verdict: "agrees", reason: "shares follow from the manifest alone" };
  if (!receipt) return { verdict: null, reason: "nothing was paid for this answer" };
  if (attributed) return { verdict: "agrees", reason: "the receipt that this page signed says the same" };
  return { verdict: "agrees", reason: "it pays by standing weights: the page, or the node, did not have the texts when the question was asked" };
}

const parted = (bps) => bps / 10_000;
const qualityOf = ({ r, rInterval, lds, ldsInterval, answers }) => ({ r: parted(r), r_interval: rInterval.map(parted), lds: parted(lds), lds_interval: ldsInterval.map(parted), answers });

function sourceOf({ contribution, document }, listed) {
  return listed && { title: listed[contribution].title, document: listed[contribution].documents[document] };
}
