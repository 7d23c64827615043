// Sum trees: one commitment fixes accounts, amounts and their sum (docs/protocols/receipt.md). Pure.

import { big, concat } from "./bytes.js";
import { keccak } from "./keys.js";

const leaf = ([account, amount]) => ({ sum: BigInt(amount), hash: keccak(concat(new Uint8Array([0]), account, big(amount, 16))) });
const packed = ({ sum, hash }) => concat(big(sum, 16), hash);

function root(leaves) {
  if (leaves.length === 0) return { sum: 0n, hash: new Uint8Array(32) };
  if (leaves.length === 1) return leaves[0];
  let first = 1; // the largest power of two below their number
  while (2 * first < leaves.length) first *= 2;
  const left = root(leaves.slice(0, first));
  const right = root(leaves.slice(first));
  return { sum: left.sum + right.sum, hash: keccak(concat(new Uint8Array([1]), packed(left), packed(right))) };
}

// Of rows [account, amount], in their order.
export function commitment(rows) {
  return keccak(concat(new Uint8Array([2]), big(rows.length, 8), packed(root(rows.map(leaf)))));
}
