// Names and their records (docs/protocols/names.md): who answers is not believed, who signed is. Pure.

import { concat, equal, utf8 } from "./bytes.js";
import { Malformed, is } from "./form.js";
import { keyOfPeer, recover, sha256 } from "./keys.js";
import { decode, encode } from "./msgpack.js";

const MAX_RECORD_BYTES = 512;
const MAX_AHEAD_S = 86_400;
const NAME = /^[a-z0-9][a-z0-9._-]*(@[a-z0-9][a-z0-9._-]*)?$/;
const RECORD = is.record({
  version: is.one(1),
  publicKey: is.bytes(33),
  name: is.text(64, NAME),
  sequence: is.whole(0, (1n << 64n) - 1n),
  target: is.bytes(0, 32),
  signature: is.bytes(65),
});

export const isName = (name) => name.length <= 64 && NAME.test(name);
export const keyOf = (owner, name) => `/lorikeet/${owner}/${name}`;

// The record for this owner and name, signed by the owner. Throws Malformed or BadBytes.
export function readRecord(bytes, owner, name, now) {
  const record = RECORD(decode(bytes, MAX_RECORD_BYTES));
  if (record.target.length !== 0 && record.target.length !== 32) throw new Malformed("a target has 32 bytes, or none");
  const body = encode([1, record.publicKey, record.name, record.sequence, record.target]);
  const signer = recover(sha256(concat(utf8("lorikeet name record\n"), body)), record.signature, 0);
  const key = keyOfPeer(owner);
  if (signer === null || key === null || !equal(signer, record.publicKey) || !equal(key, record.publicKey)) throw new Malformed("the record is not signed by the name's owner");
  if (record.name !== name) throw new Malformed("it is the record of another name");
  if (record.sequence > now + MAX_AHEAD_S) throw new Malformed("the record is from the future");
  return { ...record, bytes };
}

// The one that counts, of two valid records of one name.
export function newer(one, other) {
  if (!one || !other) return one ?? other;
  if (one.sequence !== other.sequence) return one.sequence > other.sequence ? one : other;
  return compare(one.bytes, other.bytes) >= 0 ? one : other;
}

export function compare(one, other) {
  for (let at = 0; at < Math.min(one.length, other.length); at++) if (one[at] !== other[at]) return one[at] - other[at];
  return one.length - other.length;
}
