// Asks the network: whose node has a name, what its adapter is, and for answers, one token after the
// other. Believes nobody: what a helper tells is signed or hashed.
//
//   name ─lookup─▶ record ─▶ manifest (hashed) ─▶ providers ─▶ one that serves ─▶ answer
//                                              └▶ base card, tokenizer (hashed)

import { readCard } from "./basecard.js";
import * as blocks from "./blocks.js";
import { concat, digestOf, equal, hex, text, unhex, utf8 } from "./bytes.js";
import { cheated, forgiven, isBarred, kept } from "./doubts.js";
import { MAX_FRAME_BYTES, MAX_PROMPT_TOKENS, PROTOCOL as INFER, BARE_BASE, readFromNode, termsOf } from "./infer.js";
import { addressOfKey, keyOfPeer, publicKeyOf, sha256 } from "./keys.js";
import { MAX_CONTEXT } from "./ladder.js";
import * as lookup from "./lookup.js";
import { MAX_MANIFEST_BYTES, readManifest } from "./manifest.js";
import { mix, parseMix } from "./mix.js";
import { isName, keyOf, newer, readRecord } from "./names.js";
import { addressOf, siteOf } from "./net.js";
import { Session, isCheat, isFinal, leavesChannel } from "./session.js";
import { keepFile } from "./store.js";
import { Tokens } from "./tokens.js";
import { Words, learntFrom } from "./words.js";

const LOOKUP_MS = 15_000;
const SECOND_MS = 300; // how long a second helper's record is waited for
const BLOCK_MS = 20_000;
const STALL_MS = 5_000; // a node at work says so each second; one that does not is left, if there is another
const STOP_MS = 5_000; // how long a stopped answer may take to be settled
const BENCH_MS = 30_000; // who failed is asked last for so long
const MAX_LOST = 3; // so many nodes may be lost in the middle of one answer
const RESUME_MS = 20_000; // so long after the last token somebody must go on
const PAUSE_MS = 1_000;
const WHOLE = 10_000; // an adapter's weight where it is alone
const MAX_HELPERS = 3;
const MAX_CANDIDATES = 8;

export class NotThere extends Error {}

export class Client {
  // `told` is /node.json; `purse` opens channels, null where nothing is paid.
  constructor({ net, told, here, secret, store, purse = null, now = () => Date.now() / 1000 }) {
    Object.assign(this, { net, told, store, purse, now });
    this.home = { peerId: told.peer_id, addresses: [addressOf(here, told.peer_id)] };
    this.key = publicKeyOf(secret);
    this.address = addressOfKey(this.key);
    this.helpers = [this.home.peerId];
    this.bases = new Map();
    this.manifests = new Map();
    this.words = new Words(this);
    this.took = {};
    this.doubts = {};
    this.benched = new Map();
    this.met = new Map();
  }

  async timed(name, action) {
    const began = performance.now();
    try {
      return await action();
    } finally {
      this.took[name] = performance.now() - began;
    }
  }

  // Connects to the node that served the page, and then to others, so that two can be asked.
  async connect() {
    this.doubts = kept(await this.store.get("keys", "doubts"), this.now());
    await this.timed("connect", () => this.net.connect(this.home.peerId, this.home.addresses));
    if (this.told.base) this.meeting = this.meet(unhex(this.told.base)).catch(() => {});
  }

  async meet(base) {
    for (const one of await this.providersOf(base)) {
      if (this.helpers.length >= MAX_HELPERS) return;
      if (this.helpers.includes(one.peerId)) continue;
      await this.net.connect(one.peerId, one.addresses).then(() => this.meetOne(one), () => {});
    }
  }

  // ---- whom not to ask ----

  // Kept for the next visit; another tab may have written meanwhile.
  async doubt(change) {
    this.doubts = change(kept(await this.store.get("keys", "doubts"), this.now()));
    await this.store.put("keys", "doubts", this.doubts).catch(() => {}); // a full store forgets it with the page
  }

  distrust(peerId) {
    return this.doubt((book) => cheated(book, peerId, this.now()));
  }

  forgive(peerId) {
    return this.doubt((book) => forgiven(book, peerId));
  }

  // ---- look-ups ----

  async lookUp(helper, kind, key) {
    const talk = await this.net.talk(helper, lookup.PROTOCOL, lookup.MAX_ANSWER_BYTES);
    try {
      await talk.send(lookup.lookUp(kind, key));
      const answer = await talk.receive(LOOKUP_MS);
      if (answer === null) throw new Error("the helper hung up");
      return lookup.readAnswer(answer);
    } finally {
      talk.close();
    }
  }

  // Who is asked: whoever is connected, or else the first that can be reached again.
  async reached() {
    const open = this.helpers.filter((one) => this.net.connection(one));
    if (open.length) return open.slice(0, MAX_HELPERS);
    let failure = null;
    for (const one of [this.home, ...this.met.values()]) {
      try {
        await this.net.connect(one.peerId, one.addresses);
        return [one.peerId];
      } catch (error) {
        failure ??= error;
      }
    }
    throw failure;
  }

  // Every node answers look-ups.
  meetOne(one) {
    this.met.set(one.peerId, one);
    if (!this.helpers.includes(one.peerId)) this.helpers.push(one.peerId);
  }

  // What the helpers say, each checked by `read`: the first, and the others as far as they come soon.
  // `failure`: why none of them answered, null where one did, if only that it knows nothing.
  async askHelpers(kind, key, read) {
    const helpers = await this.reached();
    const good = [];
    const asked = helpers.map(async (helper) => {
      const found = await this.lookUp(helper, kind, key);
      for (const one of found) {
        try {
          good.push(read(one, helper));
        } catch {
          // what is not as the page says counts as nothing
        }
      }
    });
    const failure = await Promise.any(asked).then(() => null, ({ errors }) => (errors.some((one) => one instanceof lookup.NotFound) ? null : errors[0]));
    const all = Promise.allSettled(asked);
    await (good.length ? Promise.race([all, new Promise((wake) => setTimeout(wake, SECOND_MS))]) : all);
    return { good, numAsked: asked.length, failure };
  }

  async providersOf(digest) {
    const { good } = await this.askHelpers("providers", digest, lookup.readProvider);
    const found = new Map(good.map((one) => [one.peerId, one]));
    const usable = [...found.values()].filter((one) => keyOfPeer(one.peerId) && (one.peerId === this.home.peerId || this.net.connection(one.peerId) || this.net.canDial(one.addresses)));
    return usable.map((one) => (one.peerId === this.home.peerId ? this.home : one));
  }

  // NAME or OWNER/NAME; without an owner those whom the node's operator names are asked.
  async find(told) {
    const at = told.lastIndexOf("/");
    const name = told.slice(at + 1);
    if (!isName(name)) throw new NotThere(`${told} is no adapter's name`);
    const owners = at > 0 ? [told.slice(0, at)] : this.told.publishers;
    const known = this.told.adapters.filter((one) => one.name === name).map((one) => one.creator);
    let silence = null;
    for (const owner of new Set([...owners, ...(at > 0 ? [] : known)])) {
      const { good, numAsked, failure } = await this.askHelpers("name", utf8(keyOf(owner, name)), (one) => readRecord(one, owner, name, this.now()));
      silence ??= failure;
      const record = good.reduce(newer, null);
      if (record?.target.length === 0) throw new NotThere(`${told} was withdrawn by its owner`);
      if (record) return { owner, name, digest: record.target, numAsked };
    }
    throw new NotThere(silence ? `no node answered who has ${told} (${silence.message}); ask again` : `nobody knows an adapter ${told}`);
  }

  // ---- bytes by their hash ----

  async fetch(list, providers) {
    let last = new NotThere("nobody has it");
    for (const provider of providers) {
      try {
        return await this.fetchFrom(list, provider);
      } catch (error) {
        last = error;
      }
    }
    throw last;
  }

  async fetchFrom(list, provider) {
    await this.net.connect(provider.peerId, provider.addresses);
    const talk = await this.net.talk(provider.peerId, blocks.PROTOCOL, blocks.MAX_BLOCK_BYTES);
    try {
      const plan = new blocks.Fetch(list);
      while (!plan.isDone) {
        for (let request = plan.request(); request; request = plan.request()) await talk.send(request);
        const block = await talk.receive(BLOCK_MS);
        if (block === null) throw new blocks.BadBlock("it hung up before all came");
        plan.receive(block);
      }
      talk.close();
      return concat(...plan.came);
    } catch (error) {
      talk.abort();
      throw error;
    }
  }

  // From the browser's store, or from one of the providers, and then kept there.
  async file(list, findProviders) {
    const key = hex(sha256(concat(...list.map(([digest]) => digest))));
    const kept = await this.store.get("files", key);
    if (kept) return kept;
    const bytes = await this.fetch(list, await findProviders());
    await keepFile(this.store, key, bytes).catch(() => {}); // a full store costs the next visit a fetch
    return bytes;
  }

  // ---- what an answer needs ----

  base(digest) {
    const key = hex(digest);
    if (!this.bases.has(key)) {
      this.bases.set(key, this.timed("base", () => this.loadBase(digest)));
      this.bases.get(key).catch(() => this.bases.delete(key)); // the next question tries again
    }
    return this.bases.get(key);
  }

  async loadBase(digest) {
    const card = await this.card(digest);
    const json = await this.file(card.tokenizer.blocks, () => this.providersOf(digest));
    return { card, tokens: new Tokens(card, text(json)) };
  }

  // By its CID where the node names one, else as most helpers tell it: anybody can sign one.
  async card(digest) {
    const isOwn = this.told.base === hex(digest);
    const named = isOwn && this.told.base_card ? digestOf(this.told.base_card) : null;
    if (named) {
      const bytes = await this.file([[named, null]], async () => [this.home, ...(await this.providersOf(named))]);
      return readCard(bytes, digest);
    }
    const { good } = await this.askHelpers("base-card", digest, (one, helper) => ({ card: readCard(one, digest), helper }));
    if (!good.length) throw new NotThere("nobody tells a card of this base");
    const votes = ({ card }) => new Set(good.filter((one) => equal(one.card.signature, card.signature)).map((one) => one.helper)).size;
    return good.sort((one, other) => votes(other) - votes(one) || Number(one.card.createdAt) - Number(other.card.createdAt))[0].card;
  }

  // NAME, OWNER/NAME, base, or a cocktail of them: law:0.7+verse:0.3.
  async adapter(told) {
    if (told === "base") return { name: "base", digest: BARE_BASE, base: unhex(this.told.base), parts: [], manifests: [], parents: null, licence: "", numAsked: 0 };
    const mixed = parseMix(told) ?? [[told, WHOLE]];
    const parts = await Promise.all(mixed.map(async ([name, weight]) => ({ ...(await this.one(name)), weight })));
    const numAsked = Math.min(...parts.map((one) => one.numAsked));
    const licence = parts.map((one) => one.manifest.licence).join(" + ");
    if (parts.length === 1 && parts[0].weight === WHOLE) {
      const [{ manifest }] = parts;
      return { name: told, digest: manifest.digest, base: manifest.base, parts, manifests: learntFrom(manifest), parents: manifest.terms, licence, numAsked };
    }
    const { bytes, digest, base, terms, manifests } = mix(parts);
    return { name: told, digest, base, parts, manifests, parents: terms, licence, numAsked, cocktail: bytes };
  }

  // One adapter's manifest, by its name.
  async one(told) {
    const found = await this.timed("name", () => this.find(told));
    const read = await this.timed("manifest", () => this.manifest(found.digest));
    return { ...read, numAsked: found.numAsked };
  }

  // {bytes, manifest}, by its digest.
  async manifest(digest) {
    const key = hex(digest);
    if (!this.manifests.has(key)) {
      const bytes = await this.file([[digest, null]], async () => [this.home, ...(await this.providersOf(digest))]);
      if (bytes.length > MAX_MANIFEST_BYTES) throw new NotThere("its manifest is too large");
      this.manifests.set(key, { bytes, manifest: readManifest(bytes) });
    }
    return this.manifests.get(key);
  }

  // Who may serve it: who holds most of it first, then whoever computes on the base and would fetch it;
  // nobody who cheated this browser lately, and who failed just now at last.
  async candidates(adapter) {
    const [computing, ...holders] = await Promise.all([this.providersOf(adapter.base), ...adapter.parts.map((one) => this.providersOf(one.manifest.digest))]);
    const all = new Map([...computing, ...holders.flat()].map((one) => [one.peerId, one]));
    const good = [...all.values()].filter((one) => !isBarred(this.doubts, one.peerId, this.now()));
    if (all.size && !good.length) throw new NotThere(`whoever serves it (${all.size === 1 ? "one node" : `${all.size} nodes`}) cheated this browser lately; under Connections it can be asked again`);
    const rank = ({ peerId }) => {
      const isBenched = performance.now() - (this.benched.get(peerId) ?? -BENCH_MS) < BENCH_MS;
      return 100 * isBenched - 2 * holders.filter((each) => each.some((one) => one.peerId === peerId)).length - Boolean(this.net.connection(peerId));
    };
    return good.sort((one, other) => rank(one) - rank(other)).slice(0, MAX_CANDIDATES);
  }

  // ---- an answer ----

  // Yields {state}, {text}, {facts}, {lost}; a node that is lost in the middle is followed by another.
  async *answer(told, turns, { maxTokens = 256, temperature = 0, topP = 1, signal } = {}) {
    const began = performance.now();
    const adapter = await this.adapter(told);
    yield { state: "found", adapter };
    this.words.drawing(adapter.manifests); // what is missing comes with the rest
    const find = () => this.timed("providers", () => this.candidates(adapter));
    const [{ tokens }, candidates] = await Promise.all([this.base(adapter.base), find()]);
    if (!candidates.length) throw new NotThere("no node that this browser can reach serves it");
    const promptIds = tokens.prompt(turns);
    if (promptIds.length >= MAX_PROMPT_TOKENS) throw new NotThere(`the conversation has ${promptIds.length} tokens; at most ${MAX_PROMPT_TOKENS} fit`);
    const question = {
      base: adapter.base, adapter: adapter.digest, cocktail: adapter.cocktail, promptIds, maxTokens, terms: termsOf({ temperature, topP }), stopIds: tokens.stopIds, parents: adapter.parents,
      draw: this.words.drawing(adapter.manifests),
    };
    const said = { base: hex(adapter.base), adapters: adapter.parts.map((one) => hex(one.manifest.digest)), before: promptIds.slice(-MAX_CONTEXT) };
    for await (const event of this.relay({ question, candidates, find, words: tokens.stream(), signal, began })) yield event.finish ? { ...event, said: { ...said, ids: event.ids } } : event;
  }

  async *relay({ question, candidates, find, words, signal, began }) {
    const whole = { ids: [], numLost: 0, lastAt: 0, firstMs: null };
    let rest = question;
    let failure = null;
    for (let left = candidates; ; left = await find().catch(() => [])) {
      while (left.length) {
        signal?.throwIfAborted();
        const candidate = left[0];
        left = left.slice(1);
        const run = new Run(this, candidate, rest, left.length > 0);
        try {
          for await (const event of run.events(signal)) {
            if (event.offer) yield { state: "begun", facts: { servedBy: candidate.peerId, dtype: text(event.offer.dtype), paid: event.offer.paid, promptTokens: question.promptIds.length } };
            if (event.paying) yield { state: event.paying };
            if (event.tokens) yield this.tell(whole, event.tokens, words, began);
            if (event.finish) return yield { text: words.end(), finish: { ...event.finish, tokens: whole.ids.length }, ids: whole.ids, firstMs: whole.firstMs };
          }
        } catch (error) {
          if (signal?.aborted || error.isMine) throw error;
          failure = error;
          this.benched.set(candidate.peerId, performance.now());
          if (isCheat(error)) await this.distrust(candidate.peerId);
          const numMade = run.session?.answer.length ?? 0;
          yield { lost: { peerId: candidate.peerId, why: error.message, after: whole.ids.length, owed: run.session?.owed ?? 0n, cheated: isCheat(error) } };
          if (isFinal(error) || (isCheat(error) && numMade)) throw error; // of a cheat what came may be junk as well
          const ended = run.session?.ended;
          if (ended) return yield { text: words.end(), finish: { reason: ended, tokens: whole.ids.length, amount: 0n, split: [], attributed: false, receipt: null, neighbours: 1, isSettled: false }, ids: whole.ids, firstMs: whole.firstMs };
          if (numMade) whole.numLost++;
          rest = run.rest();
          if (rest.promptIds.length >= MAX_PROMPT_TOKENS) throw error;
        }
      }
      // In the middle of an answer a node that starts again, or a new one, is waited for.
      if (!whole.numLost || whole.numLost > MAX_LOST || performance.now() - whole.lastAt > RESUME_MS) throw failure;
      yield { state: "looking for a node that goes on" };
      await new Promise((wake) => setTimeout(wake, PAUSE_MS));
    }
  }

  tell(whole, tokens, words, began) {
    whole.lastAt = performance.now();
    whole.firstMs ??= whole.lastAt - began;
    whole.ids.push(...tokens);
    this.took.first = whole.firstMs;
    return { text: words.add(tokens), tokens: whole.ids.length, firstMs: whole.firstMs };
  }
}

// One question at one node.
class Run {
  constructor(client, candidate, question, hasRivals) {
    Object.assign(this, { client, candidate, question, hasRivals });
    this.clientSeed = crypto.getRandomValues(new Uint8Array(32));
  }

  async *events(signal) {
    const { client, candidate } = this;
    await client.net.connect(candidate.peerId, candidate.addresses);
    client.meetOne(candidate);
    const operator = addressOfKey(keyOfPeer(candidate.peerId));
    const site = siteOf(client.net.connection(candidate.peerId)?.remoteAddr?.toString() ?? "");
    const pocket = client.purse ? await client.purse.open(operator, signal, site) : null;
    try {
      signal?.throwIfAborted();
      yield* this.converse(await client.net.talk(candidate.peerId, INFER, MAX_FRAME_BYTES), pocket, signal);
    } catch (error) {
      if (pocket && leavesChannel(error)) await pocket.leave(error.message);
      throw error;
    } finally {
      pocket?.release();
    }
  }

  async *converse(talk, pocket, signal) {
    const { client, question, clientSeed } = this;
    this.session = new Session({
      question, channel: pocket?.channel ?? null, client: client.address, clientSeed, salt: crypto.getRandomValues(new Uint8Array(16)),
      most: pocket?.most ?? { prompt: 0, completion: 0 }, now: client.now(),
    });
    const stop = () => {
      if (this.session.stage === "asked") return talk.abort();
      for (const deed of this.session.stop()) talk.send(deed.send).catch(() => {}); // whoever is gone is noticed below
      this.waitUntil(STOP_MS);
    };
    signal?.addEventListener("abort", stop);
    const asked = performance.now();
    this.waitUntil(1000 * this.session.patienceS);
    try {
      yield* this.act(this.session.start(), talk, pocket, signal);
      while (!this.session.isOver) {
        const deeds = await this.hear(talk);
        if (this.session.offer && !this.isOffered) {
          this.isOffered = true;
          client.took.offer = performance.now() - asked;
          yield { offer: this.session.offer };
        }
        yield* this.act(deeds, talk, pocket, signal);
        if (deeds.length && !signal?.aborted) this.waitUntil(1000 * this.session.patienceS);
      }
      await talk.close();
    } finally {
      signal?.removeEventListener("abort", stop);
      if (!this.session.isOver) talk.abort();
    }
  }

  waitUntil(ms) {
    this.deadline = performance.now() + ms;
  }

  // What follows of the next message, or of there being none.
  async hear(talk) {
    const { session } = this;
    const left = this.deadline - performance.now();
    const isStallSeen = this.hasRivals && session.stage === "answering";
    let frame = null;
    try {
      frame = await talk.receive(isStallSeen ? Math.min(left, STALL_MS) : left);
    } catch (error) {
      if (isCheat(error)) throw error;
      return session.lose(error);
    }
    if (frame === null) return session.lose(new NotThere("the node hung up"));
    return session.receive(readFromNode(frame));
  }

  async *act(deeds, talk, pocket, signal) {
    for (const deed of deeds) {
      if (deed.keep) await pocket.keep();
      else if (deed.send) await this.send(talk, deed.send);
      else if (deed.deposit) {
        yield { paying: "sign the deposit in your wallet" };
        await pocket.deposit(deed.deposit, deed.least);
        signal?.throwIfAborted();
        yield* this.act(this.session.payAhead(), talk, pocket, signal);
      } else yield deed;
    }
  }

  // A node that is gone is noticed when it should speak: what it said before counts.
  async send(talk, bytes) {
    try {
      await talk.send(bytes);
    } catch (error) {
      if (this.session.stage === "asked") throw error;
    }
  }

  // What is still to be made when this node was lost: the same answer, from its last token on.
  rest() {
    const { session, question } = this;
    if (!session?.answer.length) return question;
    const before = question.resumed?.[1] ?? 0;
    const seed = question.resumed?.[0] ?? session.seed;
    return {
      ...question, promptIds: [...question.promptIds, ...session.answer], maxTokens: question.maxTokens - session.answer.length,
      resumed: [seed, before + session.answer.length],
    };
  }
}
