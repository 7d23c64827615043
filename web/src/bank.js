// What nodes do on the chain for a page: relay a deposit, tell a balance, give back what is left.

import { unhex } from "./bytes.js";
import { AMOUNT } from "./form.js";
import { configJson, told } from "./wallet.js";

// The node that gave the page.
export class Bank {
  async deposit(config, asked) {
    await post("/deposit", { config: configJson(config), deposit: asked });
  }

  async balance(id) {
    const { balance } = await read(await fetch(`/channel/${told(id)}`));
    return amount(balance);
  }

  // `signature` is under a voucher for exactly what was spent.
  async refund(row, signature) {
    const voucher = { channelId: told(row.id), maxClaimableAmount: String(row.cumulative), signature: told(signature) };
    return amount((await post("/refund", { config: configJson(row.config), voucher })).moved);
  }
}

// What another node's page needs to take a channel back, as text for its address, and the reading of it.
export function writeBack(row, signature) {
  return btoa(JSON.stringify({ id: told(row.id), config: configJson(row.config), spent: String(row.cumulative), signature: told(signature) })).replace(/[+/=]/g, (one) => ({ "+": "-", "/": "_", "=": "" })[one]);
}

export function readBack(text) {
  try {
    const { id, config, spent, signature } = JSON.parse(atob(text.replace(/[-_]/g, (one) => ({ "-": "+", _: "/" })[one])));
    const bytes = Object.fromEntries(Object.entries(config).filter(([name]) => name !== "withdrawDelay").map(([name, value]) => [name, unhex(value)]));
    return { row: { id: unhex(id), config: { ...bytes, withdrawDelay: Number(config.withdrawDelay) }, cumulative: BigInt(spent) }, signature: unhex(signature) };
  } catch {
    return null;
  }
}

function amount(said) {
  if (!/^[0-9]{1,19}$/.test(said) || BigInt(said) > AMOUNT) throw new Error("the node told no amount");
  return BigInt(said);
}

async function post(path, body) {
  return read(await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }));
}

async function read(response) {
  const said = await response.json().catch(() => null);
  if (!response.ok) throw Object.assign(new Error(said?.error?.message ?? `the node answered ${response.status}`), { status: response.status });
  return said;
}
