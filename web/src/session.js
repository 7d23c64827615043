// One answer, from Ask to its end, as the asking side sees it: events in, deeds out, in order. Pure.
//
//   start ──Ask──▶ asked ──Offer: Begin──▶ answering ──Done──▶ (settling ──Settled──▶) over
//                  Pending: Settle         Output: Pay ahead
//
// Deeds are {send: bytes}, {keep: true} (the channel's row goes to the store before what follows),
// {deposit: amount, least: amount}, {tokens: ids}, {finish: outcome}. What is not as the page says
// throws Cheated.

import { AtOdds, Cheated, MustPay, costOf, creditOf, termsOf } from "./channel.js";
import { Malformed } from "./form.js";
import { BadFrame } from "./frames.js";
import * as wire from "./infer.js";
import { sha256 } from "./keys.js";
import { BadBytes } from "./msgpack.js";
import { divide, sharesOf } from "./shares.js";

export const PAY_TOKENS = 32;
const MAX_PENDING = 64;
const MAX_SKEW_S = 720;
const OFFER_S = 120;
const FIRST_S = 120; // the node may have to fetch the adapter first
const TOKEN_S = 60;
const SETTLE_S = 15;

export class Refused extends Error {
  constructor(code, message) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

// Whose clock is wrong nobody can tell: another node's is looked at.
export class WrongClock extends Error {}

// What was asked makes no sense at another node either, or is not paid better there.
const FINAL = ["bad_request", "unknown_adapter", "adapter_refused", "payment_required", "no_channel"];
export const isFinal = (error) => error instanceof Refused && FINAL.includes(error.code);

// An honest node does not send this.
export const isCheat = (error) => [Cheated, Malformed, BadBytes, BadFrame].some((kind) => error instanceof kind);

// The channel says something else here than at its node: it is used no more.
export const leavesChannel = (error) => isCheat(error) || error instanceof AtOdds || (error instanceof Refused && error.code === "no_channel");

export class Session {
  // question: {base, adapter, promptIds, maxTokens, terms, stopIds, parents, draw}; channel null pays nothing.
  // `draw` computes what an answer drew on, as a receipt says it; null where it cannot be computed here.
  constructor({ question, channel, client, clientSeed, salt, most, now }) {
    Object.assign(this, { question, channel, clientSeed, salt, most, now });
    this.asked = wire.ask({ ...question, seedCommitment: sha256(clientSeed), client, channel: channel?.row.config ?? null, attributed: Boolean(question.draw) });
    this.client = client;
    this.stage = "asked";
    this.answer = [];
    this.paid = 0;
    this.numPending = 0;
  }

  start() {
    return [{ send: this.asked }];
  }

  // How long the next message that says something may take; a beat says nothing.
  get patienceS() {
    if (this.stage === "asked") return OFFER_S;
    if (this.stage === "settling") return SETTLE_S;
    return this.answer.length ? TOKEN_S : FIRST_S;
  }

  receive(message) {
    const deeds = this[`take${message.kind}`]?.(message);
    if (!deeds) throw new Cheated(`the node sent ${message.kind} where it does not belong`);
    return deeds;
  }

  // The node is gone. Nothing is lost by it once the receipt is signed here: it has the signature, or
  // shows the receipt again.
  lose(why) {
    if (this.stage === "settling") return this.finish(false);
    throw why;
  }

  takeRefusal({ code, message }) {
    return this.lose(new Refused(code, message));
  }

  takePending({ body, nodeSignature }) {
    if (!this.channel || (this.stage !== "asked" && this.stage !== "answering")) return null;
    if (++this.numPending > MAX_PENDING) throw new AtOdds(`the node shows more than ${MAX_PENDING} unsigned receipts`);
    const signature = this.channel.cosignPending(body, nodeSignature);
    if (this.promised && !this.channel.row.promised.includes(this.promised)) throw new AtOdds("the node billed an answer as broken off that goes on");
    return [{ keep: true }, { send: wire.settle(signature) }];
  }

  takeOffer(offer) {
    if (this.stage !== "asked" || this.offer) return null;
    const { question } = this;
    if (offer.attributed && !(offer.paid && question.draw)) throw new Cheated("the node would say what the answer draws on, which was not asked for");
    const policy = offer.paid ? this.policyOf(offer) : null;
    if (!offer.paid) this.channel = null;
    this.offer = offer;
    this.seed = question.resumed?.[0] ?? wire.seedOf(this.asked, offer.nodeSeed, this.clientSeed);
    if (!this.channel) return this.begin(null);
    this.channel.releaseLost();
    const { row, network } = this.channel;
    this.promised = this.channel.begin(termsOf({ network, row, client: this.client, asked: question, offer, seed: this.seed, salt: this.salt, parents: question.parents, policy }));
    return this.payAhead();
  }

  // By what the fee will be divided, of an offer that may be taken.
  policyOf(offer) {
    const { most } = this;
    if (!this.channel) throw new MustPay("the node wants to be paid, and this page has no channel: it needs a browser that lets it store things");
    if (offer.owner.every((byte) => byte === 0)) throw new Cheated("the node would have nobody paid");
    if (offer.promptPrice > most.prompt || offer.completionPrice > most.completion) throw new MustPay(`the node asks ${offer.promptPrice} and ${offer.completionPrice} a token; at most ${most.prompt} and ${most.completion} are paid`);
    const policy = this.channel.policies.find((one) => BigInt(one.version) === BigInt(offer.parameters));
    if (!policy) throw new MustPay(`the node divides fees by version ${offer.parameters} of the parameters, which this page has not heard of; reload it`);
    if (Math.abs(Number(offer.startedAt) - this.now) > MAX_SKEW_S) throw new WrongClock("the node's clock and this device's differ by more than 12 minutes; set this one, if it is wrong");
    return policy;
  }

  // Call again once what was missing is deposited. Before the answer begins all of it is asked for, so
  // that no wallet opens in its middle; `least` of that it takes to begin.
  payAhead() {
    const { question, channel, promised } = this;
    const tokens = Math.min(this.answer.length + PAY_TOKENS, question.maxTokens);
    const limit = costOf(promised.terms, tokens);
    const least = channel.missing(promised, limit);
    const whole = this.hasDeposited ? 0n : channel.missing(promised, costOf(promised.terms, question.maxTokens));
    if (least || (this.stage === "asked" && whole)) {
      this.hasDeposited = true;
      return [{ deposit: whole > least ? whole : least, least }];
    }
    const pay = channel.pay(promised, limit);
    this.paid = creditOf(promised.terms, limit, question.maxTokens);
    if (this.stage === "asked") return this.begin(pay);
    return [{ keep: true }, { send: wire.payMore(pay) }];
  }

  begin(pay) {
    this.stage = "answering";
    const send = { send: wire.begin(this.clientSeed, this.salt, pay) };
    return pay ? [{ keep: true }, send] : [send];
  }

  takeOutput({ tokenIds, logprobs }) {
    if (this.stage !== "answering") return null;
    if (logprobs.length) throw new Cheated("the node sent log-probabilities that were not asked for");
    if (this.answer.length + tokenIds.length > this.question.maxTokens) throw new Cheated("the node sent more tokens than were asked for");
    if (this.channel && this.answer.length + tokenIds.length > this.paid) throw new Cheated("the node sent more tokens than were paid");
    if ([...this.answer.slice(-1), ...tokenIds].slice(0, -1).some((id) => this.question.stopIds.includes(id))) throw new Cheated("the node sent tokens behind one that ends the answer");
    if (!tokenIds.length) return [];
    this.answer.push(...tokenIds);
    const isShort = this.channel && !this.isStopping && this.paid - this.answer.length <= PAY_TOKENS / 2 && this.paid < this.question.maxTokens;
    return [...(isShort ? this.payAhead() : []), { tokens: tokenIds }];
  }

  takeDone(done) {
    if (this.stage !== "answering") return null;
    this.done = done;
    if (!this.channel) return this.finish(true);
    if (costOf(this.promised.terms, this.answer.length) === 0n) {
      this.channel.release(this.promised);
      return [{ keep: true }, ...this.finish(true)];
    }
    if (done.nodeSignature === null) throw new Cheated("the node ended a paid answer without a receipt");
    this.drawn = this.offer.attributed ? this.question.draw(this.question.promptIds, this.answer) : [];
    const signature = this.channel.cosign(this.promised, this.answer, done.body, done.nodeSignature, this.drawn);
    this.receipt = sha256(done.body);
    this.stage = "settling";
    return [{ keep: true }, { send: wire.settle(signature) }];
  }

  takeSettled() {
    return this.stage === "settling" ? this.finish(true) : null;
  }

  stop() {
    if (this.stage !== "answering" || this.isStopping) return [];
    this.isStopping = true;
    return [{ send: wire.stop() }];
  }

  // `isSettled`: the node said that it has this side's signature, or there is none.
  finish(isSettled) {
    this.stage = "over";
    const amount = this.receipt ? costOf(this.promised.terms, this.answer.length) : 0n;
    const split = this.receipt ? this.split(amount) : [];
    return [{ finish: { reason: this.done.reason, amount, split, attributed: this.offer.attributed, receipt: this.receipt ?? null, neighbours: this.done.neighbours, tokens: this.answer.length, isSettled } }];
  }

  // Who was paid how much of the fee: [{address, role, amount}].
  split(amount) {
    const { policy, owner, parents } = this.promised.terms;
    const shares = sharesOf(policy, owner, parents, this.drawn);
    const parts = divide(amount, shares.map((one) => one.weight));
    return shares.map(({ address, role }, place) => ({ address, role, amount: parts[place] }));
  }

  get isOver() {
    return this.stage === "over";
  }

  // How the answer ended, where its tokens alone say so.
  get ended() {
    if (this.question.stopIds.includes(this.answer.at(-1))) return "stop";
    return this.answer.length >= this.question.maxTokens ? "length" : null;
  }

  // What an answer that broke off here may still cost.
  get owed() {
    return this.promised && !this.receipt ? this.promised.limit : 0n;
  }
}
