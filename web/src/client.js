// Asks the network: whose node has a name, what its adapter is, and for answers, one token after the
// other. Believes nobody: what a helper tells is signed or hashed.
//
//   name ─lookup─▶ record ─▶ manifest (hashed) ─▶ providers ─▶ one that serves ─▶ answer
//                                              └▶ base card, tokenizer (hashed)

import { readCard } from "./basecard.js";
import * as blocks from "./blocks.js";
import { concat, equal, hex, text, unhex, utf8 } from "./bytes.js";
import { MAX_FRAME_BYTES, MAX_PROMPT_TOKENS, PROTOCOL as INFER, BARE_BASE, readFromNode, termsOf } from "./infer.js";
import { addressOfKey, keyOfPeer, publicKeyOf, sha256 } from "./keys.js";
import * as lookup from "./lookup.js";
import { MAX_MANIFEST_BYTES, readManifest } from "./manifest.js";
import { isName, keyOf, newer, readRecord } from "./names.js";
import { addressOf } from "./net.js";
import { Session, isFinal } from "./session.js";
import { Tokens } from "./tokens.js";

const LOOKUP_MS = 8_000;
const SECOND_MS = 300; // how long a second helper's record is waited for
const BLOCK_MS = 20_000;
const OFFER_MS = 120_000;
const TOKEN_MS = 60_000;
const BEAT_MS = 10_000; // a node that is at work says so each second
const MAX_HELPERS = 3;
const MAX_CANDIDATES = 4;

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
    this.took = {};
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
    await this.timed("connect", () => this.net.connect(this.home.peerId, this.home.addresses));
    if (this.told.base) this.meeting = this.meet(unhex(this.told.base)).catch(() => {});
  }

  async meet(base) {
    for (const one of await this.providersOf(base)) {
      if (this.helpers.length >= MAX_HELPERS) return;
      if (this.helpers.includes(one.peerId)) continue;
      await this.net.connect(one.peerId, one.addresses).then(() => this.helpers.push(one.peerId), () => {});
    }
  }

  // ---- look-ups ----

  async lookUp(helper, kind, key) {
    const talk = await this.net.talk(helper, lookup.PROTOCOL, lookup.MAX_ANSWER_BYTES);
    try {
      await talk.send(lookup.lookUp(kind, key));
      const answer = await talk.receive(LOOKUP_MS);
      if (answer === null) throw new lookup.NotFound("the helper hung up");
      return lookup.readAnswer(answer);
    } finally {
      talk.close();
    }
  }

  // What the helpers say, each checked by `read`: the first, and the others as far as they come soon.
  async askHelpers(kind, key, read) {
    const helpers = this.helpers.filter((one) => this.net.connection(one));
    if (!helpers.length) await this.net.connect(this.home.peerId, this.home.addresses);
    const good = [];
    const asked = (helpers.length ? helpers : [this.home.peerId]).map(async (helper) => {
      const found = await this.lookUp(helper, kind, key);
      for (const one of found) {
        try {
          good.push(read(one));
        } catch {
          // what is not as the page says counts as nothing
        }
      }
    });
    await Promise.any(asked).catch(() => {});
    const all = Promise.allSettled(asked);
    await (good.length ? Promise.race([all, new Promise((wake) => setTimeout(wake, SECOND_MS))]) : all);
    return { good, numAsked: asked.length };
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
    for (const owner of new Set([...owners, ...(at > 0 ? [] : known)])) {
      const { good, numAsked } = await this.askHelpers("name", utf8(keyOf(owner, name)), (one) => readRecord(one, owner, name, this.now()));
      const record = good.reduce(newer, null);
      if (record?.target.length === 0) throw new NotThere(`${told} was withdrawn by its owner`);
      if (record) return { owner, name, digest: record.target, numAsked };
    }
    throw new NotThere(`nobody knows an adapter ${told}`);
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
    await this.store.keepFile(key, bytes).catch(() => {}); // a full store costs the next visit a fetch
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

  // By its CID where the node names one, else as most helpers tell it.
  async card(digest) {
    const isOwn = this.told.base === hex(digest);
    const named = isOwn && this.told.base_card ? digestOf(this.told.base_card) : null;
    if (named) {
      const bytes = await this.file([[named, null]], async () => [this.home, ...(await this.providersOf(named))]);
      return readCard(bytes, digest);
    }
    const { good } = await this.askHelpers("base-card", digest, (one) => readCard(one, digest));
    if (!good.length) throw new NotThere("nobody tells a card of this base");
    return good.sort((one, other) => one.createdAt - other.createdAt)[0];
  }

  async adapter(told) {
    if (told === "base") return { name: "base", digest: BARE_BASE, base: unhex(this.told.base), parents: null, licence: "", numAsked: 0 };
    const found = await this.timed("name", () => this.find(told));
    const key = hex(found.digest);
    if (!this.manifests.has(key)) {
      const load = async () => {
        const bytes = await this.file([[found.digest, null]], async () => [this.home, ...(await this.providersOf(found.digest))]);
        if (bytes.length > MAX_MANIFEST_BYTES) throw new NotThere("its manifest is too large");
        return readManifest(bytes);
      };
      this.manifests.set(key, await this.timed("manifest", load));
    }
    const manifest = this.manifests.get(key);
    return { name: told, digest: found.digest, base: manifest.base, parents: manifest.terms, licence: manifest.licence, numAsked: found.numAsked, version: manifest.adapterVersion };
  }

  // Who may serve it: holders first, then whoever computes on the base and would fetch it.
  async candidates(adapter) {
    const isBare = equal(adapter.digest, BARE_BASE);
    const [holders, computing] = await Promise.all([isBare ? [] : this.providersOf(adapter.digest), this.providersOf(adapter.base)]);
    const all = new Map([...holders, ...computing].map((one) => [one.peerId, one]));
    const isHere = (one) => (this.net.connection(one.peerId) ? 0 : 1);
    return [...all.values()].sort((one, other) => isHere(one) - isHere(other)).slice(0, MAX_CANDIDATES);
  }

  // ---- an answer ----

  // Yields {state}, {text}, {facts}; a node that is lost in the middle is followed by another.
  async *answer(told, turns, { maxTokens = 256, temperature = 0, topP = 1, signal } = {}) {
    const began = performance.now();
    const adapter = await this.adapter(told);
    yield { state: "found", adapter };
    const [{ tokens }, candidates] = await Promise.all([this.base(adapter.base), this.timed("providers", () => this.candidates(adapter))]);
    if (!candidates.length) throw new NotThere("no node that this browser can reach serves it");
    const promptIds = tokens.prompt(turns);
    if (promptIds.length >= MAX_PROMPT_TOKENS) throw new NotThere(`the conversation has ${promptIds.length} tokens; at most ${MAX_PROMPT_TOKENS} fit`);
    const question = { base: adapter.base, adapter: adapter.digest, promptIds, maxTokens, terms: termsOf({ temperature, topP }), stopIds: tokens.stopIds, parents: adapter.parents };
    yield* this.relay(question, candidates, tokens.stream(), signal, began);
  }

  async *relay(question, candidates, words, signal, began) {
    let rest = question;
    let first = null;
    let made = 0;
    let paid = 0n;
    let last = null;
    for (const candidate of candidates) {
      const run = new Run(this, candidate, rest);
      try {
        for await (const event of run.events(signal)) {
          if (event.offer) yield { state: "begun", facts: { servedBy: candidate.peerId, dtype: text(event.offer.dtype), paid: event.offer.paid, promptTokens: question.promptIds.length } };
          if (event.paying) yield { state: event.paying };
          if (event.tokens?.length) {
            first ??= performance.now() - began;
            this.took.first = first;
            made += event.tokens.length;
            yield { text: words.add(event.tokens), tokens: made, firstMs: first };
          }
          if (event.finish) {
            paid += event.finish.amount;
            yield { text: words.end(), finish: { ...event.finish, tokens: made, amount: paid }, firstMs: first };
            return;
          }
        }
      } catch (error) {
        if (signal?.aborted || isFinal(error) || error.isMine) throw error;
        last = error;
        yield { lost: { peerId: candidate.peerId, why: error.message, after: made } };
        rest = run.rest();
        if (rest.maxTokens < 1) throw error;
      }
    }
    throw last;
  }
}

// One question at one node.
class Run {
  constructor(client, candidate, question) {
    Object.assign(this, { client, candidate, question });
    this.clientSeed = crypto.getRandomValues(new Uint8Array(32));
  }

  async *events(signal) {
    const { client, candidate } = this;
    await client.net.connect(candidate.peerId, candidate.addresses);
    const operator = addressOfKey(keyOfPeer(candidate.peerId));
    const pocket = client.purse ? await client.purse.open(operator) : null;
    try {
      yield* this.converse(await client.net.talk(candidate.peerId, INFER, MAX_FRAME_BYTES), pocket, signal);
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
    const stop = () => (this.session.stage === "asked" ? talk.abort() : this.session.stop().forEach((deed) => talk.send(deed.send)));
    signal?.addEventListener("abort", stop);
    const asked = performance.now();
    try {
      yield* this.act(this.session.start(), talk, pocket);
      while (!this.session.isOver) {
        const frame = await talk.receive(this.patience());
        if (frame === null) throw new NotThere("the node hung up");
        const message = readFromNode(frame);
        const deeds = this.session.receive(message);
        if (message.kind === "Offer") {
          client.took.offer = performance.now() - asked;
          yield { offer: message };
        }
        yield* this.act(deeds, talk, pocket);
      }
      await talk.close();
    } finally {
      signal?.removeEventListener("abort", stop);
      if (!this.session.isOver) talk.abort();
    }
  }

  patience() {
    if (this.session.stage === "asked") return OFFER_MS;
    return this.session.answer.length ? Math.min(TOKEN_MS, BEAT_MS) : OFFER_MS;
  }

  async *act(deeds, talk, pocket) {
    for (const deed of deeds) {
      if (deed.keep) await pocket.keep();
      else if (deed.send) await talk.send(deed.send);
      else if (deed.deposit) {
        yield { paying: "sign the deposit in your wallet" };
        await pocket.deposit(deed.deposit);
        yield* this.act(this.session.payAhead(), talk, pocket);
      } else yield deed;
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

const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

// The digest in a CID; null for what is none.
export function digestOf(cid) {
  if (!/^bafkrei[a-z2-7]{52}$/.test(cid)) return null;
  const bytes = [];
  let held = 0;
  let bits = 0;
  for (const letter of cid.slice(1)) {
    held = ((held << 5) | ALPHABET.indexOf(letter)) & 0xffff;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes.push((held >> bits) & 255);
    }
  }
  return Uint8Array.from(bytes).slice(4);
}

