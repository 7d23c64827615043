// Cocktails (docs/protocols/cocktail.md): the text that names one, its bytes, and who shares its fees. Pure.

import { equal } from "./bytes.js";
import { Malformed } from "./form.js";
import { sha256 } from "./keys.js";
import { MAX_WEIGHT, mixedTerms } from "./manifest.js";
import { encode } from "./msgpack.js";
import { compare } from "./names.js";

const MAX_CHARS = 2048;
const MAX_PARENTS = 8;
const MAX_BYTES = 65_536;
const UNIT = 10_000;
const WEIGHTED = /^(.+):(-?[0-9.]{1,16})$/;

// [[name, weight in ten-thousandths]] of law:0.7+verse:0.3; null for one adapter without a weight.
export function parseMix(text) {
  if (!text.includes("+") && !WEIGHTED.test(text)) return null;
  const parts = text.split("+");
  if (text.length > MAX_CHARS || parts.length > MAX_PARENTS) throw new Malformed(`a cocktail mixes at most ${MAX_PARENTS} adapters`);
  return parts.map((part) => parsePart(part.trim(), text));
}

function parsePart(part, text) {
  const [, name, given] = WEIGHTED.exec(part) ?? [part, part, "1"];
  if (!name) throw new Malformed(`${text.slice(0, 80)} names no adapter beside a '+'; write law:0.7+verse:0.3`);
  const weight = /^-?(\d+\.?\d{0,4}0*|\.\d{1,4}0*)$/.test(given) ? Math.round(Number(given) * UNIT) : 0;
  if (!weight || Math.abs(weight) > MAX_WEIGHT) throw new Malformed(`the weight ${given} of ${name} is none: use -2 to 2, not 0, with at most four digits behind the point`);
  return [name, weight];
}

// A cocktail of [{bytes, manifest, weight}]: {bytes, digest, base, terms, manifests}.
export function mix(given) {
  const parents = [...given].sort((one, other) => compare(one.manifest.digest, other.manifest.digest));
  parents.forEach(({ manifest }, place) => {
    if (manifest.parents.length) throw new Malformed(`${manifest.name} is merged of others itself, and mixes with none`);
    if (place && equal(manifest.digest, parents[place - 1].manifest.digest)) throw new Malformed(`${manifest.name} stands in the cocktail twice`);
    if (!equal(manifest.base, parents[0].manifest.base)) throw new Malformed(`${manifest.name} is for another base than ${parents[0].manifest.name}`);
  });
  const bytes = encode([1, parents.map((one) => [one.bytes, one.weight])]);
  if (bytes.length > MAX_BYTES) throw new Malformed("the manifests of these adapters are too large together; mix fewer");
  return { bytes, digest: sha256(bytes), base: parents[0].manifest.base, terms: mixedTerms(parents), manifests: parents.map((one) => one.manifest) };
}
