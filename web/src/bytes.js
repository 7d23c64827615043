// Bytes: hex, text, numbers, and the two alphabets in which they are written for people.

const ENCODER = new TextEncoder();
const DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";

export const utf8 = (text) => ENCODER.encode(text);
export const text = (bytes) => DECODER.decode(bytes); // throws on what is no UTF-8

export function hex(bytes) {
  let told = "";
  for (const byte of bytes) told += byte.toString(16).padStart(2, "0");
  return told;
}

export function unhex(told) {
  const bare = told.startsWith("0x") ? told.slice(2) : told;
  if (bare.length % 2 || !/^[0-9a-fA-F]*$/.test(bare)) throw new Error("these are no hex digits");
  return Uint8Array.from(bare.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, one) => sum + one.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export function equal(one, other) {
  return one.length === other.length && one.every((byte, place) => byte === other[place]);
}

// An unsigned integer (Number or BigInt), big-endian, in so many bytes.
export function big(value, size) {
  const bytes = new Uint8Array(size);
  let rest = BigInt(value);
  for (let at = size - 1; at >= 0; at--) {
    bytes[at] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  if (rest !== 0n) throw new Error(`${value} has more than ${size} bytes`);
  return bytes;
}

export function base58(bytes) {
  const digits = [];
  for (const byte of bytes) {
    let carry = byte;
    for (let at = 0; at < digits.length; at++) {
      carry += digits[at] << 8;
      digits[at] = carry % 58;
      carry = (carry / 58) | 0;
    }
    for (; carry; carry = (carry / 58) | 0) digits.push(carry % 58);
  }
  let zeros = 0;
  while (zeros < bytes.length && bytes[zeros] === 0) zeros++;
  return "1".repeat(zeros) + digits.reverse().map((digit) => BASE58[digit]).join("");
}

// At most 64 characters, or null.
export function unbase58(told) {
  if (told.length > 64) return null;
  const bytes = [];
  for (const letter of told) {
    let carry = BASE58.indexOf(letter);
    if (carry < 0) return null;
    for (let at = 0; at < bytes.length; at++) {
      carry += bytes[at] * 58;
      bytes[at] = carry & 0xff;
      carry >>= 8;
    }
    for (; carry; carry >>= 8) bytes.push(carry & 0xff);
  }
  let zeros = 0;
  while (zeros < told.length && told[zeros] === "1") zeros++;
  return Uint8Array.from([...new Array(zeros).fill(0), ...bytes.reverse()]);
}

// The CID of a digest (docs/protocols/blocks.md): bafkrei…
export function cidOf(digest) {
  const bytes = concat(new Uint8Array([1, 0x55, 0x12, 32]), digest);
  let told = "b";
  let held = 0;
  let bits = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      told += BASE32[(held >> bits) & 31];
    }
    held &= (1 << bits) - 1;
  }
  return bits ? told + BASE32[(held << (5 - bits)) & 31] : told;
}

// The digest in a CID; null for what is none.
export function digestOf(cid) {
  if (!/^bafkrei[a-z2-7]{52}$/.test(cid)) return null;
  const bytes = [];
  let held = 0;
  let bits = 0;
  for (const letter of cid.slice(1)) {
    held = ((held << 5) | BASE32.indexOf(letter)) & 0xffff;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes.push((held >> bits) & 255);
    }
  }
  const digest = Uint8Array.from(bytes).slice(4);
  return cidOf(digest) === cid ? digest : null; // no other text means it
}
