// Cuts a stream into frames: a length of four bytes, big-endian, and so many bytes. Pure.

import { big, concat } from "./bytes.js";

export class BadFrame extends Error {}

export function frame(payload) {
  return concat(big(payload.length, 4), payload);
}

// Takes chunks, gives whole payloads. A frame over the bound is refused by its head alone.
export class Frames {
  constructor(maxBytes) {
    this.maxBytes = maxBytes;
    this.parts = [];
    this.size = 0;
  }

  add(chunk) {
    this.parts.push(chunk);
    this.size += chunk.length;
    const whole = [];
    while (this.size >= 4) {
      const length = new DataView(this.peek(4).buffer).getUint32(0);
      if (length > this.maxBytes) throw new BadFrame(`a frame of ${length} bytes; at most ${this.maxBytes} are allowed`);
      if (this.size < 4 + length) break;
      this.take(4);
      whole.push(this.take(length));
    }
    return whole;
  }

  peek(size) {
    if (this.parts[0].length < size) this.parts = [concat(...this.parts)];
    return this.parts[0].slice(0, size);
  }

  take(size) {
    if ((this.parts[0]?.length ?? 0) < size) this.parts = [concat(...this.parts)];
    if (size === 0) return new Uint8Array(0);
    const part = this.parts[0].slice(0, size);
    this.parts[0] = this.parts[0].subarray(size);
    if (this.parts[0].length === 0) this.parts.shift();
    this.size -= size;
    return part;
  }
}
