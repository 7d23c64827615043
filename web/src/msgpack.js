// MessagePack as docs/protocols have it: arrays, unsigned and negative integers, bin, str, nil,
// booleans and float64, each in its shortest form. No maps, no extensions.
//
// What a peer sent is read with bounds: so many bytes, so deep, so many elements in all; `decode`
// gives only what `encode` would write again, byte by byte. Integers above 2^53 are BigInt.

import { concat, equal, text, utf8 } from "./bytes.js";

export const MAX_DEPTH = 16;
export const MAX_ELEMENTS = 100_000;

// A float is always written as binary64, whole numbers too; JavaScript cannot tell 1.0 from 1.
export class Float {
  constructor(value) {
    this.value = value;
  }
}

export const float = (value) => new Float(value);

export class BadBytes extends Error {}

export function encode(value) {
  const parts = [];
  write(value, parts);
  return concat(...parts);
}

function head(code, value, size) {
  const bytes = new Uint8Array(1 + size);
  bytes[0] = code;
  const view = new DataView(bytes.buffer);
  if (size === 1) view.setUint8(1, value);
  else if (size === 2) view.setUint16(1, value);
  else if (size === 4) view.setUint32(1, value);
  else view.setBigUint64(1, BigInt(value));
  return bytes;
}

function sized(length, codes) {
  if (codes[0] !== null && length < 256) return head(codes[0], length, 1);
  return length < 65536 ? head(codes[1], length, 2) : head(codes[2], length, 4);
}

function write(value, parts) {
  if (value === null || value === undefined) parts.push(new Uint8Array([0xc0]));
  else if (value === false || value === true) parts.push(new Uint8Array([value ? 0xc3 : 0xc2]));
  else if (value instanceof Uint8Array) parts.push(sized(value.length, [0xc4, 0xc5, 0xc6]), value);
  else if (typeof value === "string") writeText(utf8(value), parts);
  else if (value instanceof Float) writeFloat(value.value, parts);
  else if (Array.isArray(value)) {
    parts.push(value.length < 16 ? new Uint8Array([0x90 | value.length]) : sized(value.length, [null, 0xdc, 0xdd]));
    for (const one of value) write(one, parts);
  } else if (typeof value === "bigint" || Number.isSafeInteger(value)) writeInteger(value, parts);
  else throw new Error(`${typeof value} ${value} has no form here`);
}

function writeText(bytes, parts) {
  parts.push(bytes.length < 32 ? new Uint8Array([0xa0 | bytes.length]) : sized(bytes.length, [0xd9, 0xda, 0xdb]), bytes);
}

function writeFloat(value, parts) {
  const bytes = new Uint8Array(9);
  bytes[0] = 0xcb;
  new DataView(bytes.buffer).setFloat64(1, value);
  parts.push(bytes);
}

function writeInteger(value, parts) {
  if (value < 0) return writeNegative(value, parts);
  if (value < 128) parts.push(new Uint8Array([Number(value)]));
  else if (value < 256) parts.push(head(0xcc, Number(value), 1));
  else if (value < 65536) parts.push(head(0xcd, Number(value), 2));
  else if (value < 4294967296) parts.push(head(0xce, Number(value), 4));
  else if (value < 1n << 64n) parts.push(head(0xcf, value, 8));
  else throw new Error(`${value} has more than 64 bits`);
}

function writeNegative(value, parts) {
  if (value >= -32) return parts.push(new Uint8Array([256 + Number(value)]));
  const [code, size] = value >= -128 ? [0xd0, 1] : value >= -32768 ? [0xd1, 2] : value >= -2147483648 ? [0xd2, 4] : [0xd3, 8];
  if (value < -(1n << 63n)) throw new Error(`${value} has more than 64 bits`);
  parts.push(head(code, size < 8 ? Number(BigInt.asUintN(8 * size, BigInt(value))) : BigInt.asUintN(64, BigInt(value)), size));
}

// One value out of at most `maxBytes` bytes, in its only form. Throws BadBytes.
export function decode(bytes, maxBytes, maxElements = MAX_ELEMENTS) {
  const value = read(bytes, maxBytes, maxElements);
  if (!equal(encode(value), bytes)) throw new BadBytes("these bytes are a longer form of what they say");
  return value;
}

// The same in any form, as a reader of look-ups takes it. A float comes as Float.
export function read(bytes, maxBytes, maxElements = MAX_ELEMENTS) {
  if (bytes.length > maxBytes) throw new BadBytes(`${bytes.length} bytes; at most ${maxBytes} are allowed`);
  const reader = new Reader(bytes, maxElements);
  const value = reader.value(0);
  if (reader.at !== bytes.length) throw new BadBytes(`${bytes.length - reader.at} bytes stand behind the value`);
  return value;
}

class Reader {
  constructor(bytes, maxElements) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
    this.left = maxElements;
  }

  value(depth) {
    if (depth > MAX_DEPTH) throw new BadBytes(`arrays are more than ${MAX_DEPTH} deep`);
    const code = this.number("getUint8", 1);
    if (code < 0x80) return code;
    if (code >= 0xe0) return code - 256;
    if (code >= 0x90 && code < 0xa0) return this.array(code & 15, depth);
    if (code >= 0xa0 && code < 0xc0) return this.string(code & 31);
    const wide = WIDE[code];
    if (wide === undefined) throw new BadBytes(`the byte ${code} begins nothing that is used here`);
    return wide(this, depth);
  }

  number(getter, size) {
    if (this.at + size > this.bytes.length) throw new BadBytes("the bytes end too early");
    const value = this.view[getter](this.at);
    this.at += size;
    return value;
  }

  safe(getter) {
    const value = this.number(getter, 8);
    const few = Number(value);
    return Number.isSafeInteger(few) ? few : value;
  }

  take(length) {
    if (this.at + length > this.bytes.length) throw new BadBytes("the bytes end too early");
    const part = this.bytes.slice(this.at, this.at + length);
    this.at += length;
    return part;
  }

  string(length) {
    try {
      return text(this.take(length));
    } catch (error) {
      throw new BadBytes(error instanceof BadBytes ? error.message : "a text is no UTF-8");
    }
  }

  // Every element has a byte at least: a length that promises more is refused before any is read.
  array(length, depth) {
    this.left -= length;
    if (length > this.bytes.length - this.at || this.left < 0) throw new BadBytes("an array promises more than there is");
    const values = [];
    for (let place = 0; place < length; place++) values.push(this.value(depth + 1));
    return values;
  }
}

const SIZES = { 1: "getUint8", 2: "getUint16", 4: "getUint32" };
const length = (reader, size) => reader.number(SIZES[size], size);
const WIDE = {
  0xc0: () => null,
  0xc2: () => false,
  0xc3: () => true,
  0xc4: (reader) => reader.take(length(reader, 1)),
  0xc5: (reader) => reader.take(length(reader, 2)),
  0xc6: (reader) => reader.take(length(reader, 4)),
  0xcb: (reader) => new Float(reader.number("getFloat64", 8)),
  0xcc: (reader) => reader.number("getUint8", 1),
  0xcd: (reader) => reader.number("getUint16", 2),
  0xce: (reader) => reader.number("getUint32", 4),
  0xcf: (reader) => reader.safe("getBigUint64"),
  0xd0: (reader) => reader.number("getInt8", 1),
  0xd1: (reader) => reader.number("getInt16", 2),
  0xd2: (reader) => reader.number("getInt32", 4),
  0xd3: (reader) => reader.safe("getBigInt64"),
  0xd9: (reader) => reader.string(length(reader, 1)),
  0xda: (reader) => reader.string(length(reader, 2)),
  0xdb: (reader) => reader.string(length(reader, 4)),
  0xdc: (reader, depth) => reader.array(length(reader, 2), depth),
  0xdd: (reader, depth) => reader.array(length(reader, 4), depth),
};
