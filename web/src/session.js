// One answer, from Ask to its end, as the asking side sees it: events in, deeds out, in order. Pure.
//
//   start ──Ask──▶ asked ──Offer: Begin──▶ answering ──Done──▶ (settling ──Settled──▶) over
//                  Pending: Settle         Output: Pay ahead
//
// Deeds are {send: bytes}, {keep: true} (the channel's row goes to the store before what follows),
// {deposit: amount}, {tokens: ids}, {finish: outcome}. What is not as the page says throws Cheated.

import { Cheated, MustPay, costOf, termsOf } from "./channel.js";
import * as wire from "./infer.js";
import { sha256 } from "./keys.js";

export const PAY_TOKENS = 32;
const MAX_PENDING = 64;
const MAX_SKEW_S = 720;

export class Refused extends Error {
  constructor(code, message) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

// What was asked makes no sense at another node either.
export const isFinal = (error) => error instanceof Refused && ["bad_request", "unknown_adapter", "adapter_refused"].includes(error.code);

export class Session {
  // question: {base, adapter, promptIds, maxTokens, terms, stopIds, parents}; channel null pays nothing.
  constructor({ question, channel, client, clientSeed, salt, most, now }) {
    Object.assign(this, { question, channel, clientSeed, salt, most, now });
    this.asked = wire.ask({ ...question, seedCommitment: sha256(clientSeed), client, channel: channel?.row.config ?? null });
    this.client = client;
    this.stage = "asked";
    this.answer = [];
    this.paid = 0;
    this.numPending = 0;
  }

  start() {
    return [{ send: this.asked }];
  }

  receive(message) {
    const deeds = this[`take${message.kind}`]?.(message);
    if (!deeds) throw new Cheated(`the node sent ${message.kind} where it does not belong`);
    return deeds;
  }

  takeRefusal({ code, message }) {
    throw new Refused(code, message);
  }

  takePending({ body, nodeSignature }) {
    if (!this.channel || (this.stage !== "asked" && this.stage !== "answering")) return null;
    if (++this.numPending > MAX_PENDING) throw new Cheated(`the node shows more than ${MAX_PENDING} unsigned receipts`);
    const signature = this.channel.cosignPending(body, nodeSignature);
    if (this.promised && !this.channel.row.promised.includes(this.promised)) throw new Cheated("the node billed an answer as broken off that goes on");
    return [{ keep: true }, { send: wire.settle(signature) }];
  }

  takeOffer(offer) {
    if (this.stage !== "asked") return null;
    const { most, question } = this;
    if (offer.attributed) throw new Cheated("the node would say what the answer draws on, which was not asked for");
    if (offer.paid && (offer.promptPrice > most.prompt || offer.completionPrice > most.completion)) throw new MustPay(`the node asks ${offer.promptPrice} and ${offer.completionPrice} a token; at most ${most.prompt} and ${most.completion} are paid`);
    if (offer.paid && !this.channel) throw new MustPay("the node wants to be paid, and no channel was opened");
    if (Math.abs(Number(offer.startedAt) - this.now) > MAX_SKEW_S) throw new Cheated("the node's clock and this one differ by more than 12 minutes");
    if (!offer.paid) this.channel = null;
    this.offer = offer;
    this.seed = question.resumed?.[0] ?? wire.seedOf(this.asked, offer.nodeSeed, this.clientSeed);
    if (!this.channel) return this.begin(null);
    const policy = this.channel.policies.find((one) => BigInt(one.version) === BigInt(offer.parameters));
    if (!policy) throw new MustPay(`the node divides fees by version ${offer.parameters} of the parameters, which this page has not heard of; reload it`);
    this.channel.releaseLost();
    const { row, network } = this.channel;
    this.promised = this.channel.begin(termsOf({ network, row, client: this.client, asked: question, offer, seed: this.seed, salt: this.salt, parents: question.parents, policy }));
    return this.payAhead();
  }

  // Call again once what was missing is deposited.
  payAhead() {
    const tokens = Math.min(this.answer.length + PAY_TOKENS, this.question.maxTokens);
    const limit = costOf(this.promised.terms, tokens);
    const short = this.channel.missing(this.promised, limit);
    if (short) return [{ deposit: short }];
    const pay = this.channel.pay(this.promised, limit);
    this.paid = tokens;
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
    this.answer.push(...tokenIds);
    const isShort = this.channel && tokenIds.length && this.paid - this.answer.length <= PAY_TOKENS / 2 && this.paid < this.question.maxTokens;
    return [...(isShort ? this.payAhead() : []), { tokens: tokenIds }];
  }

  takeDone(done) {
    if (this.stage !== "answering") return null;
    this.done = done;
    if (!this.channel) return this.finish();
    if (costOf(this.promised.terms, this.answer.length) === 0n) {
      this.channel.release(this.promised);
      return [{ keep: true }, ...this.finish()];
    }
    if (done.nodeSignature === null) throw new Cheated("the node ended a paid answer without a receipt");
    const signature = this.channel.cosign(this.promised, this.answer, done.body, done.nodeSignature);
    this.receipt = sha256(done.body);
    this.stage = "settling";
    return [{ keep: true }, { send: wire.settle(signature) }];
  }

  takeSettled() {
    return this.stage === "settling" ? this.finish() : null;
  }

  stop() {
    if (this.stage !== "answering" || this.isStopping) return [];
    this.isStopping = true;
    return [{ send: wire.stop() }];
  }

  finish() {
    this.stage = "over";
    const amount = this.receipt ? costOf(this.promised.terms, this.answer.length) : 0n;
    return [{ finish: { reason: this.done.reason, amount, receipt: this.receipt ?? null, neighbours: this.done.neighbours, tokens: this.answer.length } }];
  }

  get isOver() {
    return this.stage === "over";
  }
}
