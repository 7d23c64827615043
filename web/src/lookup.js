// What is asked of a helper, and what it may answer (docs/protocols/lookup.md). Pure.

import { is } from "./form.js";
import { encode, read } from "./msgpack.js";

export const PROTOCOL = "/lorikeet/lookup/1";
export const MAX_ANSWER_BYTES = 99_328;
const MAX_FOUND_BYTES = 98_304;
const AGE = is.whole(0, 2 ** 32 - 1);
const FOUND = is.tuple(is.one("Found"), AGE, is.list(is.bytes(0, MAX_FOUND_BYTES), 20));
const REFUSED = is.tuple(is.one("Refused"), is.text(32), is.text(300));
const PROVIDER = is.record({ peerId: is.text(64), addresses: is.list(is.text(512), 8) });

export class NotFound extends Error {}

export const lookUp = (kind, key, maxAgeS = 600) => encode(["Lookup", kind, key, maxAgeS]);

// What was found. Throws NotFound for a refusal, Malformed or BadBytes for what is no answer.
export function readAnswer(bytes) {
  const value = read(bytes, MAX_ANSWER_BYTES);
  if (Array.isArray(value) && value[0] === "Refused") {
    const [, code, text] = REFUSED(value);
    throw new NotFound(`${code}: ${text}`);
  }
  return FOUND(value)[2];
}

export const readProvider = (bytes) => PROVIDER(read(bytes, MAX_FOUND_BYTES));
