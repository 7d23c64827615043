// One channel as the page sees it, which pays in it: what may be promised, and what is signed. Pure.
//
// One answer at a time. A row is plain data, for the browser's store; what a method changes must lie
// there before anything that follows of it is sent.
//
//   begin → pay … pay → cosign              an answer with its receipt
//   begin → pay … (gone) → cosignPending    one that broke off: its terms were kept

import { equal, hex } from "./bytes.js";
import { addressOfKey, sha256, signDigest, signerOf } from "./keys.js";
import { VERSION, channelId, commit, readBody, receiptDigest, voucherDigest, writeBody } from "./receipts.js";
import { POLICY, award, feeOf, numParties, sharesOf } from "./shares.js";
import { commitment } from "./sumtree.js";

export const WITHDRAW_DELAY_S = 86_400;
const ZEROS = new Uint8Array(32);
const MAX_PROMISED = 128;
const PLACE = ["sequence", "previous", "cumulative", "payouts"]; // what a receipt takes of the one before

// What no honest node does, and what one does too, whose stream broke or whose disk (or this store) is
// an older one: then nobody knows who is wrong.
export class Cheated extends Error {}
export class AtOdds extends Error {}
export class MustPay extends Error {}

// A channel that pays `operator`, out of the wallet `payer`; the page's key signs vouchers.
export function newConfig(network, operator, payer, client, nonce) {
  const salt = new Uint8Array([...operator, ...nonce]);
  return { payer, payerAuthorizer: client, receiver: network.settlement, receiverAuthorizer: operator, token: network.token, withdrawDelay: WITHDRAW_DELAY_S, salt };
}

export function newRow(network, config) {
  return {
    id: channelId(network, config), config, operator: config.receiverAuthorizer, deposit: 0n, sequence: 0n, previous: ZEROS, cumulative: 0n,
    voucher: 0n, voucherSignature: new Uint8Array(0), rows: [], promised: [],
  };
}

export class Channel {
  // `policies`: by which versions of the parameters fees may be divided.
  constructor(row, network, secret, publicKey, policies = [POLICY]) {
    this.row = row;
    this.network = network;
    this.secret = secret;
    this.client = addressOfKey(publicKey);
    this.policies = policies;
  }

  get free() {
    return this.row.deposit - this.row.cumulative - this.reserved();
  }

  reserved(except = null) {
    return this.row.promised.filter((one) => one !== except && !one.released).reduce((sum, one) => sum + one.limit, 0n);
  }

  // What the node has offered again without showing it may be promised anew.
  releaseLost() {
    for (const one of this.row.promised) one.released = true;
  }

  // `terms` is everything that the receipt will say but its place, and how many tokens came.
  begin(terms) {
    const promised = { terms, limit: 0n, released: false };
    const paid = this.row.promised.filter((one) => one.limit);
    this.row.promised = [...paid.slice(1 - MAX_PROMISED), promised];
    return promised;
  }

  missing(promised, limit) {
    const short = this.row.cumulative + this.reserved(promised) + limit - this.row.deposit;
    return short > 0n ? short : 0n;
  }

  // Lets an answer spend up to `limit`.
  pay(promised, limit) {
    const short = this.missing(promised, limit);
    if (short) throw new MustPay(`the channel lacks ${short}; deposit more`);
    promised.limit = limit;
    const amount = this.row.cumulative + this.reserved();
    if (amount > this.row.voucher || !this.row.voucherSignature.length) {
      this.row.voucher = amount;
      this.row.voucherSignature = signDigest(this.secret, voucherDigest(this.network, this.row.id, amount));
    }
    return { limit, amount: this.row.voucher, signature: this.row.voucherSignature };
  }

  // The receipt of the answer that ended: signed if it is the one that this side would have written.
  // `drawn`: what the answer drew on, where both sides said that they compute it.
  cosign(promised, answerIds, body, nodeSignature, drawn = []) {
    const given = this.read(body, nodeSignature, Cheated);
    const terms = { ...promised.terms, drawn };
    const own = this.write(terms, answerIds.length, commit(terms.salt, answerIds));
    this.compare(promised, own, given, Cheated);
    return this.sign(promised, own, body);
  }

  // The receipt of one that broke off: how many tokens came, and which, is the node's word.
  cosignPending(body, nodeSignature) {
    const given = this.read(body, nodeSignature, AtOdds);
    if (equal(sha256(body), this.row.previous)) return signDigest(this.secret, receiptDigest(this.network, given, body)); // it did not get it
    if (given.drawn.length) throw new AtOdds("the node shows a receipt that says what an answer drew on which did not arrive whole");
    const paid = this.row.promised.filter((one) => one.limit && equal(one.terms.seed, given.seed));
    const promised = paid.find((one) => equal(one.terms.promptCommitment, given.promptCommitment)) ?? paid[0];
    if (!promised) throw new AtOdds("the node shows a receipt over an answer that was not paid here");
    const own = this.write(promised.terms, given.completionTokens, given.answerCommitment);
    this.compare(promised, own, given, equal(own.promptCommitment, given.promptCommitment) ? Cheated : AtOdds);
    if (promised.released) this.releaseLost(); // then so is what else was lost, if that is what it takes
    const needed = BigInt(given.cumulative) + this.reserved(promised);
    if (needed > this.row.voucher) throw new MustPay(`the node shows an unsigned receipt, with which ${needed} would be spent; ${this.row.voucher} is vouched for`);
    return this.sign(promised, own, body);
  }

  // The answer ended and cost nothing.
  release(promised) {
    this.row.promised = this.row.promised.filter((one) => one !== promised);
  }

  read(body, nodeSignature, Fault) {
    let given;
    try {
      given = readBody(body);
    } catch (error) {
      throw new Fault(`the node's receipt is none: ${error.message}`);
    }
    const signer = signerOf(receiptDigest(this.network, given, body), nodeSignature);
    if (signer === null || !equal(signer, this.row.operator)) throw new Fault("the node did not sign its receipt");
    if (!BigInt(given.amount)) throw new Fault("the node shows a receipt over nothing");
    return given;
  }

  write(terms, numTokens, answerCommitment) {
    const amount = costOf(terms, numTokens);
    const rows = award(this.row.rows, sharesOf(terms.policy, terms.owner, terms.parents, terms.drawn), amount);
    const { salt, parents, parties, policy, ...same } = terms;
    return {
      ...same, sequence: this.row.sequence + 1n, previous: this.row.previous, answerCommitment, completionTokens: numTokens,
      amount, cumulative: this.row.cumulative + amount, payouts: commitment(rows), rows,
    };
  }

  // Throws Fault; AtOdds where only the place in the channel is another: one of the two lost count.
  compare(promised, { rows, ...own }, given, Fault) {
    const isPlaced = BigInt(own.sequence) === BigInt(given.sequence) && equal(own.previous, given.previous);
    const beside = isPlaced ? null : differenceOf({ ...own, ...Object.fromEntries(PLACE.map((name) => [name, given[name]])) }, given);
    const difference = beside ?? differenceOf(own, given);
    if (difference) throw new (isPlaced || beside ? Fault : AtOdds)(`the node's receipt has another ${difference} than this answer; it is not signed`);
    if (own.amount > promised.limit) throw new AtOdds(`the node bills ${own.amount} for an answer that was to cost ${promised.limit}`);
  }

  sign(promised, { rows, ...own }, body) {
    Object.assign(this.row, { sequence: own.sequence, previous: sha256(body), cumulative: own.cumulative, rows });
    this.release(promised);
    return signDigest(this.secret, receiptDigest(this.network, own, body));
  }
}

export function costOf({ policy, promptPrice, completionPrice, promptTokens, parties }, numTokens) {
  if (!BigInt(promptPrice) && !BigInt(completionPrice)) return 0n;
  return feeOf(policy, BigInt(promptTokens) * BigInt(promptPrice) + BigInt(numTokens) * BigInt(completionPrice), parties);
}

// For how many tokens of answer `limit` is enough: more, where the least fee pays for more.
export function creditOf(terms, limit, maxTokens) {
  const price = BigInt(terms.completionPrice);
  const left = limit - BigInt(terms.promptTokens) * BigInt(terms.promptPrice);
  if (limit < costOf(terms, 0) || left < 0n) return 0;
  return price && left / price < BigInt(maxTokens) ? Number(left / price) : maxTokens;
}

// What both sides know before the first token; `offer` and `asked` are of the infer protocol.
export function termsOf({ network, row, client, asked, offer, seed, salt, parents, policy }) {
  return {
    version: VERSION, chainId: network.chainId, settlement: network.settlement, channelId: row.id, operator: row.operator, client,
    base: asked.base, adapter: asked.adapter, owner: offer.owner, promptCommitment: commit(salt, asked.promptIds), promptTokens: asked.promptIds.length,
    promptPrice: offer.promptPrice, completionPrice: offer.completionPrice, seed, dtype: offer.dtype, startedAt: offer.startedAt, parameters: offer.parameters, drawn: [],
    salt, parents, policy, parties: numParties(policy, offer.owner, parents),
  };
}

function differenceOf(own, given) {
  const told = (value) => (value instanceof Uint8Array ? hex(value) : Array.isArray(value) ? JSON.stringify(value) : String(value));
  return Object.keys(given).find((name) => told(own[name]) !== told(given[name])) ?? null;
}
