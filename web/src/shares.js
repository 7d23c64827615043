// Who shares a fee, and how much each gets (docs/protocols/manifest.md, receipt.md). Pure.
//
// Terms are what a manifest says of it: [{weight, creator, contributors: [[address, weight]], lambda}],
// one for each parent; null for the bare base. `drawn` is a receipt's: what its answer drew on.

import { hex, unhex } from "./bytes.js";

const NODE = 0;
const CREATOR = 1;
const CONTRIBUTOR = 2;
const WHOLE = 10_000n;
const MAX_ACCOUNTS = 256;

// How fees are divided where nobody voted; other versions a node tells (docs/protocols/governance.md).
export const POLICY = { version: 0, node_bps: 6_000, creator_bps: 2_500, least_fee: 100, most_lambda: 8 };

// By largest remainder: of equal ones the earlier is served first.
export function divide(amount, weights) {
  const total = weights.reduce((sum, one) => sum + one, 0n);
  if (total === 0n) return [];
  const parts = weights.map((weight) => (amount * weight) / total);
  const rest = weights.map((weight, place) => ({ place, left: (amount * weight) % total }));
  rest.sort((one, other) => (one.left === other.left ? one.place - other.place : one.left > other.left ? -1 : 1));
  const missing = Number(amount - parts.reduce((sum, one) => sum + one, 0n));
  for (const { place } of rest.slice(0, missing)) parts[place] += 1n;
  return parts;
}

// By what one parent's contributors divide their part: as far as λ says, by what the answer drew on.
function weightsOf(policy, { contributors, lambda }, drawn) {
  const standing = contributors.map(([, weight]) => BigInt(weight));
  if (!drawn?.length) return standing;
  const eighths = BigInt(Math.min(lambda, policy.most_lambda));
  const whole = standing.reduce((sum, one) => sum + one, 0n);
  const parts = new Map(drawn);
  return divide(WHOLE, standing.map((weight, place) => eighths * BigInt(parts.get(place) ?? 0) * whole + (8n - eighths) * weight * WHOLE));
}

// [{address, role, weight}], sorted by address and role.
export function sharesOf(policy, owner, terms, drawn = []) {
  if (terms === null) return [{ address: owner, role: NODE, weight: WHOLE }];
  const nodeBps = BigInt(policy.node_bps);
  const found = new Map();
  const add = (address, role, part) => {
    const key = `${hex(address)}${role}`;
    if (part) found.set(key, (found.get(key) ?? 0n) + part);
  };
  for (const [at, parent] of terms.entries()) {
    const weight = BigInt(parent.weight);
    const parts = divide(WHOLE - nodeBps - BigInt(policy.creator_bps), weightsOf(policy, parent, drawn[at]));
    const creator = WHOLE - nodeBps - parts.reduce((sum, one) => sum + one, 0n);
    add(owner, NODE, nodeBps * weight);
    add(parent.creator, CREATOR, creator * weight);
    parts.forEach((part, place) => add(parent.contributors[place][0], CONTRIBUTOR, part * weight));
  }
  return [...found].sort(([one], [other]) => (one < other ? -1 : 1)).map(([key, weight]) => ({ address: unhex(key.slice(0, 40)), role: Number(key[40]), weight }));
}

// How many may share, whatever an answer draws on.
export function numParties(policy, owner, terms) {
  const keys = new Set(sharesOf(policy, owner, terms).map(({ address, role }) => `${hex(address)}${role}`));
  for (const parent of terms ?? []) {
    if (Math.min(parent.lambda, policy.most_lambda) > 0) for (const [address] of parent.contributors) keys.add(`${hex(address)}${CONTRIBUTOR}`);
  }
  return keys.size;
}

export function feeOf(policy, price, parties) {
  const least = BigInt(policy.least_fee) * BigInt(parties);
  return price > least ? price : least;
}

// The rows [account, amount] after a fee was divided among these shares.
export function award(rows, shares, amount) {
  const after = rows.map(([account, had]) => [account, BigInt(had)]);
  const places = new Map(after.map(([account], place) => [hex(account), place]));
  divide(amount, shares.map((share) => share.weight)).forEach((part, at) => {
    const account = shares[at].address;
    if (!part) return;
    if (!places.has(hex(account))) {
      places.set(hex(account), after.length);
      after.push([account, 0n]);
    }
    after[places.get(hex(account))][1] += part;
  });
  if (after.length > MAX_ACCOUNTS) throw new Error(`a channel pays at most ${MAX_ACCOUNTS} accounts; open another one`);
  return after;
}
