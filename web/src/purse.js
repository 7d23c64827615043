// The page's channels: opened by a wallet's signature, kept in the browser's store before anything of
// them is sent, used by one answer in one tab at a time. Decides how much is deposited.

import { Channel, newConfig, newRow } from "./channel.js";
import { hex, unhex } from "./bytes.js";
import { addressOfKey, publicKeyOf, signDigest } from "./keys.js";
import { voucherDigest } from "./receipts.js";
import { configJson, told } from "./wallet.js";

const STEP = 50_000n; // what is deposited at a time, unless more is missing
const MOST = 1_000_000n; // what lies in one channel, at most
const MOST_PRICE = { prompt: 100, completion: 500 };

export class Purse {
  constructor({ store, secret, wallet, paidIn, now = () => Date.now() / 1000, onChange = () => {} }) {
    Object.assign(this, { store, secret, wallet, paidIn, now, onChange });
    this.network = { chainId: paidIn.chain_id, settlement: unhex(paidIn.settlement), token: unhex(paidIn.token), channels: unhex(paidIn.channels) };
  }

  // Every channel that was opened here, as the store has it.
  rows() {
    return this.store.all("channels");
  }

  // The channel that pays this operator; nobody else uses it until `release`.
  async open(operator) {
    const release = await hold(`lorikeet.channel.${hex(operator)}`);
    try {
      const row = await this.find(operator);
      if (row.asked) await this.relay(row); // a deposit whose end this page did not see
      const channel = new Channel(row, this.network, this.secret, publicKeyOf(this.secret), this.paidIn.policies);
      return {
        channel, most: MOST_PRICE, release,
        keep: () => this.keep(row),
        deposit: (missing) => this.deposit(row, missing),
      };
    } catch (error) {
      release();
      throw error;
    }
  }

  async find(operator) {
    const rows = await this.rows();
    const open = rows.find((one) => !one.isClosed && hex(one.operator) === hex(operator) && hex(one.config.receiver) === hex(this.network.settlement));
    if (open) return open;
    const payer = unhex(await mine(this.wallet.address()));
    const nonce = crypto.getRandomValues(new Uint8Array(12));
    return newRow(this.network, newConfig(this.network, operator, payer, addressOfKey(publicKeyOf(this.secret)), nonce));
  }

  async keep(row) {
    await this.store.put("channels", hex(row.id), row);
    this.onChange();
  }

  // The wallet signs, the node that gave the page sends; what was signed is kept before.
  async deposit(row, missing) {
    const least = BigInt(this.paidIn.min_deposit);
    const amount = [missing, STEP, least].reduce((most, one) => (one > most ? one : most));
    if (row.deposit - row.cumulative + amount > MOST) throw mark(new Error(`this answer needs ${missing} more in the channel, and at most ${MOST} lies in one`));
    row.asked = await mine(this.wallet.sign(row.id, row.config.payer, amount, this.now()));
    await this.keep(row);
    await this.relay(row);
    if (row.deposit - row.cumulative < missing) throw mark(new Error("the deposit did not arrive"));
  }

  async relay(row) {
    const sent = await post("/deposit", { config: configJson(row.config), deposit: row.asked }).then(() => null, (error) => error);
    const { balance } = await get(`/channel/${told(row.id)}`);
    if (sent && BigInt(balance) <= row.deposit && sent.status !== 402) throw mark(sent); // nobody knows yet: it is asked again
    row.deposit = BigInt(balance);
    row.asked = null;
    await this.keep(row);
    if (sent && sent.status === 402 && row.deposit <= row.cumulative) throw mark(sent);
  }

  // What is not spent goes back to the wallet at once; the channel is used no more.
  async giveBack(row) {
    const release = await hold(`lorikeet.channel.${hex(row.operator)}`);
    try {
      const signature = signDigest(this.secret, voucherDigest(this.network, row.id, row.cumulative));
      const voucher = { channelId: told(row.id), maxClaimableAmount: String(row.cumulative), signature: told(signature) };
      const done = await post("/refund", { config: configJson(row.config), voucher });
      await this.keep({ ...row, isClosed: true, deposit: row.cumulative });
      return BigInt(done.moved);
    } finally {
      release();
    }
  }
}

// One tab at a time: a row that two tabs change would promise the same money twice.
async function hold(name) {
  if (!navigator.locks) throw mark(new Error("this browser has no Web Locks, without which two tabs would spend the same money"));
  return new Promise((resolve) => navigator.locks.request(name, () => new Promise((release) => resolve(release))));
}

// What no other node would do better.
function mark(error) {
  return Object.assign(error, { isMine: true });
}

const mine = (promise) => promise.catch((error) => Promise.reject(mark(error instanceof Error ? error : new Error(error?.message ?? "the wallet refused"))));

async function post(path, body) {
  return read(await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }));
}

const get = async (path) => read(await fetch(path));

async function read(response) {
  const said = await response.json().catch(() => null);
  if (!response.ok) throw Object.assign(new Error(said?.error?.message ?? `the node answered ${response.status}`), { status: response.status });
  return said;
}
