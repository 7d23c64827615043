// Blocks by their hash (docs/protocols/blocks.md): what to ask next, and whether what came is it. Pure.

import { concat, equal, hex } from "./bytes.js";
import { is } from "./form.js";
import { sha256 } from "./keys.js";

export const PROTOCOL = "/lorikeet/blocks/1";
export const MAX_BLOCK_BYTES = 1 << 20;
export const MAX_FETCH_BYTES = 64 << 20; // what a page holds in memory at once
const MAX_REQUEST = 64;
const AHEAD_BYTES = 2 << 20;
const BLOCK = is.tuple(is.bytes(32), is.whole(1, MAX_BLOCK_BYTES));

export class BadBlock extends Error {}

// [name, size, blocks], whose sizes sum to the file's.
export function fileForm(maxSize, maxBlocks, name = is.text(64)) {
  const form = is.tuple(name, is.whole(0, maxSize), is.list(BLOCK, maxBlocks));
  return (value) => {
    const [found, size, blocks] = form(value);
    const sum = blocks.reduce((so, [, one]) => so + one, 0);
    if (sum !== size) throw new BadBlock(`the blocks of ${found} have ${sum} bytes, the file ${size}`);
    return { name: found, size, blocks };
  };
}

// One provider's answers, in the order in which blocks were asked for: the protocol's asker.
export class Fetch {
  constructor(blocks) {
    const total = blocks.reduce((sum, [, size]) => sum + size, 0);
    if (total > MAX_FETCH_BYTES) throw new BadBlock(`${total} bytes are too many for a page; at most ${MAX_FETCH_BYTES}`);
    this.blocks = blocks;
    this.asked = 0;
    this.came = [];
  }

  get isDone() {
    return this.came.length === this.blocks.length;
  }

  // The next request, as bytes; null while enough is on its way.
  request() {
    const digests = [];
    let ahead = this.blocks.slice(this.came.length, this.asked).reduce((sum, [, size]) => sum + size, 0);
    while (this.asked < this.blocks.length && digests.length < MAX_REQUEST && (ahead < AHEAD_BYTES || ahead === 0)) {
      const [digest, size] = this.blocks[this.asked++];
      digests.push(digest);
      ahead += size;
    }
    return digests.length ? concat(...digests) : null;
  }

  // Throws BadBlock unless these are the bytes that come next.
  receive(bytes) {
    if (this.came.length >= this.asked) throw new BadBlock("a block came that nobody asked for");
    const [digest, size] = this.blocks[this.came.length];
    if (bytes.length === 0) throw new BadBlock(`it lacks ${hex(digest).slice(0, 12)}…`);
    if ((size !== null && bytes.length !== size) || !equal(sha256(bytes), digest)) throw new BadBlock(`it sent other bytes than ${hex(digest).slice(0, 12)}…`);
    this.came.push(bytes);
  }
}
