// The page's channels: opened by a wallet's signature, kept in the browser's store before anything of
// them is sent, used by one answer in one tab at a time. Decides how much is deposited, and how what is
// left comes back: at once from the node that the channel pays, or after the channel's delay by the
// wallet alone.
//
//   open ──the node and the page disagree──▶ left ──┬──refund by the node───────────────▶ closed
//     └─────────────────────────────────────────────┴──wallet: withdraw, a day, finish──▶ closed

import { Channel, newConfig, newRow } from "./channel.js";
import { equal, hex, unhex } from "./bytes.js";
import { addressOfKey, publicKeyOf, signDigest } from "./keys.js";
import { channelId, voucherDigest } from "./receipts.js";
import { VALID_S } from "./wallet.js";

const STEP = 50_000n; // what is deposited at a time, unless more is missing
const MOST = 1_000_000n; // what lies in one channel, at most
const MOST_LEFT = 4; // with one node: money in so many channels that it does not take, and no other is opened
const MOST_PRICE = { prompt: 100, completion: 500 };

export class Purse {
  // `bank` relays and asks the chain (bank.js).
  constructor({ store, secret, wallet, bank, paidIn, now = () => Date.now() / 1000, onChange = () => {} }) {
    Object.assign(this, { store, secret, wallet, bank, now, onChange });
    this.own = addressOfKey(publicKeyOf(secret));
    this.hear(paidIn);
  }

  // What the node says now of how answers are paid.
  hear(paidIn) {
    this.paidIn = paidIn;
    this.network = { chainId: paidIn.chain_id, settlement: unhex(paidIn.settlement), token: unhex(paidIn.token), channels: unhex(paidIn.channels) };
  }

  // Every channel that was opened here, as the store has it.
  rows() {
    return this.store.all("channels");
  }

  // The channel that pays this operator; nobody else uses it until `release`.
  // `site` is where the node gives a page of its own.
  async open(operator, signal, site = null) {
    const release = await hold(operator, signal);
    try {
      const row = await this.find(operator);
      row.site = site ?? row.site;
      if (row.asked) await this.relay(row); // a deposit whose end this page did not see
      const channel = new Channel(row, this.network, this.secret, publicKeyOf(this.secret), this.paidIn.policies);
      return {
        channel, most: MOST_PRICE, release,
        keep: () => this.keep(row),
        deposit: (wanted, least) => this.deposit(row, wanted, least),
        leave: async (why) => (row.deposit || row.asked) && this.keep({ ...row, left: why }),
      };
    } catch (error) {
      release();
      throw error;
    }
  }

  async find(operator) {
    const rows = (await this.rows()).filter((one) => equal(one.operator, operator) && !one.isClosed && this.isOurs(one));
    const open = rows.find((one) => !one.left);
    if (open) return open;
    if (rows.filter((one) => one.deposit > one.cumulative).length >= MOST_LEFT) throw mark(new Error(`money lies in ${MOST_LEFT} channels to this node that it does not take any more; take it back first (Money)`));
    const payer = unhex(await mine(this.wallet.address()));
    const nonce = crypto.getRandomValues(new Uint8Array(12));
    return newRow(this.network, newConfig(this.network, operator, payer, this.own, nonce));
  }

  // Of this network, whose vouchers this page's key signs.
  isOurs(row) {
    return equal(row.config.payerAuthorizer, this.own) && equal(row.config.receiver, this.network.settlement) && equal(channelId(this.network, row.config), row.id);
  }

  async keep(row) {
    await mine(this.store.put("channels", hex(row.id), row));
    this.onChange();
  }

  // The wallet signs, a node sends; what was signed is kept before. `least` must arrive.
  async deposit(row, wanted, least) {
    const lies = row.sent > row.deposit && this.now() < row.sentUntil ? row.sent : row.deposit; // whatever a node says of it
    const room = MOST - (lies - row.cumulative);
    const amount = atMost(room, [wanted, STEP, BigInt(this.paidIn.min_deposit)].reduce((most, one) => (one > most ? one : most)));
    if (amount < least || amount < BigInt(this.paidIn.min_deposit)) throw mark(new Error(`this answer needs ${least || wanted} more in the channel, and at most ${MOST} lies in one; take back what is left, and ask again`));
    globalThis.navigator?.storage?.persist?.().catch(() => {}); // so that the browser does not throw it away
    row.asked = await mine(this.wallet.sign(row.id, row.config.payer, amount, this.now()));
    row.sent = lies + amount;
    row.sentUntil = this.now() + VALID_S;
    await this.keep(row);
    await this.relay(row);
    if (row.deposit - row.cumulative < least) throw mark(new Error("the deposit did not arrive"));
  }

  // Until the chain says that the deposit came, or refuses it, it is sent again each time.
  async relay(row) {
    const sent = await this.bank.deposit(row.config, row.asked).then(() => null, (error) => error);
    const balance = await mine(this.bank.balance(row.id));
    const isRefused = sent?.status === 402;
    if (balance <= row.deposit && !isRefused) throw mark(sent ?? new Error("the deposit is on its way; ask again in a moment"));
    row.deposit = balance;
    row.asked = null;
    await this.keep(row);
    if (isRefused && row.deposit <= row.cumulative) throw mark(sent);
  }

  // ---- the way back ----

  // The row as it stands now, for one task alone, whatever another tab did to it.
  async alone(id, action) {
    const found = await this.store.get("channels", hex(id));
    const release = await hold(found.operator);
    try {
      return await action(await this.store.get("channels", hex(id)));
    } finally {
      release();
    }
  }

  // What is not spent goes back to the wallet at once, if the node that was paid is so kind.
  giveBack(id) {
    return this.alone(id, async (row) => {
      const moved = await this.bank.refund(row, this.vouch(row));
      await this.keep({ ...row, isClosed: true, deposit: row.cumulative });
      return moved;
    });
  }

  // For exactly what was spent: with it the node that was paid gives back the rest.
  vouch(row) {
    return signDigest(this.secret, voucherDigest(this.network, row.id, row.cumulative));
  }

  // What the chain says by now, as the node tells it: somebody else may have taken it back.
  look(id) {
    return this.alone(id, async (row) => {
      const balance = await this.bank.balance(row.id);
      const isBack = balance < row.deposit && balance <= row.cumulative;
      await this.keep({ ...row, deposit: balance, isClosed: isBack });
      return row.deposit - balance;
    });
  }

  // The wallet asks the contract for it. From now on nothing is paid from the channel.
  withdraw(id) {
    return this.alone(id, async (row) => {
      const { balance, claimed, pending } = await this.wallet.channel(row.id);
      if (pending) return this.keep({ ...row, left: "a withdrawal is under way", deposit: balance, withdrawal: pending });
      const amount = balance - (claimed > row.cumulative ? claimed : row.cumulative);
      if (amount <= 0n) throw new Error("nothing is left in this channel");
      await this.keep({ ...row, left: "a withdrawal is under way" });
      await this.wallet.withdraw(row.config, amount);
      const now = await this.wallet.channel(row.id);
      await this.keep({ ...row, left: "a withdrawal is under way", deposit: balance, withdrawal: now.pending ?? { amount, at: this.now() } });
    });
  }

  // After the delay: the contract pays what the node did not claim meanwhile.
  finish(id) {
    return this.alone(id, async (row) => {
      const before = await this.wallet.channel(row.id);
      if (before.pending) await this.wallet.finish(row.config);
      const after = before.pending ? await this.wallet.channel(row.id) : before;
      await this.keep({ ...row, isClosed: true, deposit: after.balance, withdrawal: null });
      return before.balance - after.balance;
    });
  }
}

// When a withdrawal can be finished, in Unix seconds.
export const readyAt = (row) => row.withdrawal.at + row.config.withdrawDelay;

const atMost = (room, amount) => (amount > room ? room : amount);

// One tab at a time: a row that two tabs change would promise the same money twice.
async function hold(operator, signal) {
  const { locks } = globalThis.navigator ?? {};
  if (!locks) throw mark(new Error("this browser has no Web Locks, without which two tabs would spend the same money"));
  return new Promise((resolve, reject) => {
    const inside = () => new Promise((release) => resolve(release));
    locks.request(`lorikeet.channel.${hex(operator)}`, signal ? { signal } : {}, inside).catch((error) => reject(mark(error)));
  });
}

// What no other node would do better.
function mark(error) {
  return Object.assign(error, { isMine: true });
}

const mine = (promise) => promise.catch((error) => Promise.reject(mark(error instanceof Error ? error : new Error(error?.message ?? "the wallet refused"))));
