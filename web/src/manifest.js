// What an adapter is and who is paid for it, as its creator signed (docs/protocols/manifest.md). Pure.

import { concat, equal, utf8 } from "./bytes.js";
import { fileForm } from "./blocks.js";
import { AMOUNT, COUNT, Malformed, is } from "./form.js";
import { addressOfKey, recover, sha256 } from "./keys.js";
import { decode, encode } from "./msgpack.js";
import { compare } from "./names.js";

export const MAX_MANIFEST_BYTES = 65_536;
export const MAX_WEIGHT = 20_000;
const WORD = is.text(64, /^[^]+$/);
const TEXT = is.text(512);
const DIGEST = is.bytes(32);
const BPS = is.whole(-10_000, 10_000);
const FILE = fileForm(2 ** 40 - 1, 1_200, WORD);
const CONTRIBUTOR = is.record({ address: is.bytes(20), name: TEXT, source: TEXT, licence: TEXT, weight: is.whole(0, COUNT) });
const ATTRIBUTION = is.record({
  rule: is.one("ladder-1"), background: DIGEST, lambda: is.whole(0, 8), noneBits: is.whole(1, 1_000), r: BPS, lds: BPS,
  answers: is.whole(0, COUNT), rInterval: is.tuple(BPS, BPS), ldsInterval: is.tuple(BPS, BPS),
});
const PARENT = is.tuple(DIGEST, is.whole(-MAX_WEIGHT, MAX_WEIGHT));
const ORIGIN = is.record({
  recipe: is.bytes(0, 32), datanets: is.list(is.tuple(DIGEST, is.whole(1, COUNT), DIGEST), 16), attribution: is.maybe(ATTRIBUTION),
  parents: is.list(PARENT, 8), evaluation: is.bytes(0, 32),
});
const HEAD = {
  name: WORD, adapterVersion: WORD, base: DIGEST, tokenizerHash: DIGEST, templateHash: DIGEST, licence: TEXT, source: TEXT,
  creator: is.bytes(33), createdAt: is.whole(0, AMOUNT), contributors: is.list(CONTRIBUTOR, 48), files: is.list(FILE, 12, 1),
};
const PARENTS = is.list(is.tuple(is.bytes(1, MAX_MANIFEST_BYTES), is.whole(-MAX_WEIGHT, MAX_WEIGHT)), 8, 2);
const FORMS = {
  13: is.record({ version: is.one(1), ...HEAD, signature: is.bytes(65) }),
  14: is.record({ version: is.one(2), ...HEAD, origin: ORIGIN, signature: is.bytes(65) }),
  15: is.record({ version: is.one(3), ...HEAD, origin: ORIGIN, parents: PARENTS, signature: is.bytes(65) }),
};

// Throws Malformed, BadBytes or BadBlock.
export function readManifest(bytes) {
  const value = decode(bytes, MAX_MANIFEST_BYTES);
  const form = Array.isArray(value) ? FORMS[value.length] : undefined;
  if (!form) throw new Malformed("these bytes are no manifest of version 1, 2 or 3");
  const manifest = form(value);
  const domain = utf8(`lorikeet manifest ${manifest.version}\0`);
  checkSigned(value, domain, manifest.signature, manifest.creator);
  checkPaid(manifest);
  const parents = (manifest.parents ?? []).map(([inner, weight]) => ({ inner, weight, manifest: readParent(inner) }));
  if (parents.length) checkParents(manifest, parents);
  return { ...manifest, parents, digest: sha256(bytes), terms: termsOf(manifest, parents) };
}

// Signed is what stands before the signature.
export function checkSigned(value, domain, signature, key) {
  const signer = recover(sha256(concat(domain, encode(value.slice(0, -1)))), signature);
  if (signer === null || !equal(signer, key)) throw new Malformed("it is not signed by whom it names");
}

function checkPaid({ version, contributors, origin }) {
  const weights = contributors.map((one) => one.weight);
  if (contributors.some((one) => one.address.every((byte) => byte === 0))) throw new Malformed("nobody can be paid at the zero address");
  if (version === 1 && weights.includes(0)) throw new Malformed("a contributor's weight is 1 or more in version 1");
  if (weights.length && !weights.some((one) => one > 0)) throw new Malformed("the contributors' weights are all 0");
  if (origin?.attribution && !weights.length) throw new Malformed("attribution needs contributors");
}

function readParent(bytes) {
  if (bytes[0] === 0x9f) throw new Malformed("a parent is merged of others itself");
  return readManifest(bytes);
}

function checkParents(manifest, parents) {
  if (manifest.contributors.length || manifest.origin.attribution || manifest.origin.parents.length) throw new Malformed("a merged adapter has no contributors of its own");
  parents.forEach((parent, place) => {
    if (parent.weight === 0) throw new Malformed("a parent's weight is 0");
    if (!equal(parent.manifest.base, manifest.base)) throw new Malformed("a parent is for another base");
    if (place && compare(parents[place - 1].manifest.digest, parent.manifest.digest) >= 0) throw new Malformed("the parents are not sorted");
  });
}

// Of several adapters in one: each as it is, by its weight.
export const mixedTerms = (parents) => parents.flatMap((parent) => parent.manifest.terms.map((one) => ({ ...one, weight: Math.abs(parent.weight) })));

function termsOf(manifest, parents) {
  if (parents.length) return mixedTerms(parents);
  return [{
    weight: 1,
    creator: addressOfKey(manifest.creator),
    contributors: manifest.contributors.map((one) => [one.address, one.weight]),
    lambda: manifest.origin?.attribution?.lambda ?? 0,
  }];
}
