// What the page does when nodes, tabs, the browser's store or its clock let it down: the purse and the
// client with scripted nodes. Run by test_pure.py: node --test.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { concat, equal, hex, unhex } from "../../web/src/bytes.js";
import { AtOdds, Channel, creditOf, newConfig, newRow } from "../../web/src/channel.js";
import { readBack, writeBack } from "../../web/src/bank.js";
import { Client } from "../../web/src/client.js";
import { barredUntil, cheated, forgiven, isBarred, kept, weightOf } from "../../web/src/doubts.js";
import * as infer from "../../web/src/infer.js";
import { addressOfKey, keccak, peerIdOf, publicKeyOf, sha256, signDigest } from "../../web/src/keys.js";
import { decode, encode, float } from "../../web/src/msgpack.js";
import { NotFound } from "../../web/src/lookup.js";
import { siteOf } from "../../web/src/net.js";
import { Purse, readyAt } from "../../web/src/purse.js";
import { readBody, receiptDigest, writeBody } from "../../web/src/receipts.js";
import { Session, isCheat, leavesChannel } from "../../web/src/session.js";
import { POLICY } from "../../web/src/shares.js";
import { MOST_FILES, Memory, keepFile } from "../../web/src/store.js";
import { Wallet, finishCall, readWords, withdrawCall } from "../../web/src/wallet.js";

const INFER = JSON.parse(readFileSync(new URL("../golden/infer.json", import.meta.url), "utf8"));
const PAID_IN = {
  chain_id: INFER.network.chain_id, settlement: `0x${INFER.network.settlement}`, token: `0x${INFER.network.token}`, channels: `0x${INFER.network.channels}`,
  token_name: "Dollar", token_version: "1", min_deposit: 20_000, policies: [POLICY],
};
const SECRET = unhex(INFER.client.secret);
const NOW = 1_800_000_000;
const secretOf = (name) => keccak(new TextEncoder().encode(name));
const addressOf = (name) => addressOfKey(publicKeyOf(secretOf(name)));
const peerOf = (name) => ({ peerId: peerIdOf(publicKeyOf(secretOf(name))), addresses: [`/ip4/127.0.0.1/tcp/1/ws`] });

// ---- locks as a browser has them: one after the other, for all tabs ----

const held = new Map();
const locks = {
  request(name, { signal } = {}, inside = undefined) {
    const before = held.get(name) ?? Promise.resolve();
    const turn = before.then(() => {
      signal?.throwIfAborted();
      return inside();
    });
    held.set(name, turn.catch(() => {}));
    return Promise.race([turn, new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)))]);
  },
};
Object.defineProperty(globalThis, "navigator", { value: { locks: { request: (name, ...rest) => locks.request(name, rest.length > 1 ? rest[0] : {}, rest.at(-1)) } }, configurable: true });

// ---- a bank and a wallet that note what is asked of them ----

class TestBank {
  constructor() {
    this.lies = 0n;
    this.sent = [];
  }

  async deposit(config, asked) {
    this.sent.push(asked);
    if (this.refuses) throw Object.assign(new Error("refused"), { status: 402 });
    if (this.isGone) throw new Error("no answer");
    this.lies += BigInt(asked.amount);
  }

  async balance() {
    return this.told ?? this.lies;
  }
}

class TestWallet {
  constructor() {
    this.signed = [];
  }

  async address() {
    return `0x${hex(addressOf("wallet"))}`;
  }

  async sign(id, payer, amount) {
    this.signed.push(amount);
    return { amount: String(amount), authorization: {} };
  }
}

function aPurse({ store = new Memory(), bank = new TestBank(), wallet = new TestWallet(), now = () => NOW } = {}) {
  return new Purse({ store, secret: SECRET, wallet, bank, paidIn: PAID_IN, now });
}

test("two tabs use a channel one after the other, and the second sees what the first promised", async () => {
  const store = new Memory();
  const [one, other] = [aPurse({ store }), aPurse({ store })];
  const first = await one.open(addressOf("node"));
  await first.deposit(1_000n, 1_000n);
  let isSecondIn = false;
  const second = other.open(addressOf("node")).then((pocket) => ((isSecondIn = true), pocket));
  await new Promise((wake) => setTimeout(wake, 20));
  assert.ok(!isSecondIn);
  first.channel.row.cumulative = 700n;
  await first.keep();
  first.release();
  const pocket = await second;
  assert.equal(pocket.channel.row.cumulative, 700n);
  assert.deepEqual(pocket.channel.row.id, first.channel.row.id);
  const stop = new AbortController();
  const third = one.open(addressOf("node"), stop.signal);
  stop.abort();
  await assert.rejects(third, (error) => error.isMine === true); // Stop is heard while another tab is answered
  pocket.release();
});

test("what the browser cannot store is not promised, and no other node is asked for it", async () => {
  const store = new Memory();
  const pocket = await aPurse({ store }).open(addressOf("node"));
  store.put = () => Promise.reject(Object.assign(new Error("the quota is exceeded"), { name: "QuotaExceededError" }));
  await assert.rejects(pocket.keep(), (error) => error.isMine === true);
  pocket.release();
});

test("a deposit whose end was not seen is sent again, and nothing is signed for it anew", async () => {
  const store = new Memory();
  const bank = new TestBank();
  const wallet = new TestWallet();
  bank.isGone = true;
  let pocket = await aPurse({ store, bank, wallet }).open(addressOf("node"));
  await assert.rejects(pocket.deposit(1_000n, 1_000n), (error) => error.isMine === true);
  pocket.release();
  bank.isGone = false;
  pocket = await aPurse({ store, bank, wallet }).open(addressOf("node"));
  assert.equal(pocket.channel.row.deposit, 50_000n);
  assert.equal(pocket.channel.row.asked, null);
  assert.deepEqual(wallet.signed, [50_000n]);
  assert.equal(bank.sent.length, 2);
  pocket.release();
});

test("a node that hides what arrived gets no deposit after the other", async () => {
  const bank = new TestBank();
  const wallet = new TestWallet();
  const store = new Memory();
  bank.told = 0n;
  bank.refuses = true; // "that deposit was used before": the page cannot know better
  for (let round = 0; round < 3; round++) {
    bank.refuses = round > 0;
    const pocket = await aPurse({ store, bank, wallet }).open(addressOf("node")).catch(() => null);
    await pocket?.deposit(900_000n, 900_000n).catch(() => {});
    pocket?.release();
  }
  assert.deepEqual(wallet.signed, [900_000n]);
});

test("what is asked for before an answer is all of it, and no more than may lie in one channel", async () => {
  const wallet = new TestWallet();
  const pocket = await aPurse({ wallet }).open(addressOf("node"));
  await pocket.deposit(5_000_000n, 1_000n);
  await assert.rejects(pocket.deposit(5_000_000n, 1_000n), /take back what is left/);
  assert.deepEqual(wallet.signed, [1_000_000n]);
  pocket.release();
});

test("a channel that was left, or is of another key or network, pays nothing more", async () => {
  const store = new Memory();
  const purse = aPurse({ store });
  for (let round = 0; round < 4; round++) {
    const pocket = await purse.open(addressOf("node"));
    await pocket.deposit(1_000n, 1_000n);
    await pocket.leave("it cheated");
    pocket.release();
  }
  assert.equal(new Set((await purse.rows()).map((row) => hex(row.id))).size, 4);
  await assert.rejects(purse.open(addressOf("node")), /take it back first/);
  const strange = newRow(purse.network, newConfig(purse.network, addressOf("other"), addressOf("wallet"), addressOf("another key"), new Uint8Array(12)));
  await store.put("channels", "strange", { ...strange, deposit: 1n });
  const fresh = await purse.open(addressOf("other"));
  assert.ok(!equal(fresh.channel.row.id, strange.id));
  fresh.release();
});

test("taking back uses the row as it is now, not as a list once showed it", async () => {
  const store = new Memory();
  const bank = new TestBank();
  const purse = aPurse({ store, bank });
  const pocket = await purse.open(addressOf("node"));
  await pocket.deposit(1_000n, 1_000n);
  pocket.channel.row.cumulative = 300n;
  await pocket.keep();
  bank.refund = async (row) => row.deposit - row.cumulative;
  const back = purse.giveBack(pocket.channel.row.id);
  pocket.channel.row.cumulative = 450n; // the answer in the other tab ends
  await pocket.keep();
  pocket.release();
  assert.equal(await back, 50_000n - 450n);
  assert.ok((await purse.rows())[0].isClosed);
});

test("what another node's page needs to give a channel back goes into a link, and nothing else is read out of it", async () => {
  const purse = aPurse();
  const pocket = await purse.open(addressOf("node"), undefined, "https://node.example.org");
  await pocket.deposit(1_000n, 1_000n);
  pocket.channel.row.cumulative = 700n;
  await pocket.keep();
  pocket.release();
  const [row] = await purse.rows();
  assert.equal(row.site, "https://node.example.org");
  const text = writeBack(row, purse.vouch(row));
  assert.match(text, /^[A-Za-z0-9_-]+$/);
  const given = readBack(text);
  assert.deepEqual(given, { row: { id: row.id, config: row.config, cumulative: 700n }, signature: purse.vouch(row) });
  for (const wrong of ["", "x", btoa("{}"), btoa("null"), btoa(JSON.stringify({ id: "0x1", config: {}, spent: "1", signature: "0x" }))]) assert.equal(readBack(wrong), null, wrong);
  purse.bank.lies = 700n; // its node gave the rest back
  assert.equal(await purse.look(row.id), 49_300n);
  assert.ok((await purse.rows())[0].isClosed);
  const sites = { "/ip4/1.2.3.4/tcp/4183/ws/p2p/x": "http://1.2.3.4:4183", "/dns4/a.org/tcp/443/tls/ws": "https://a.org", "/dns4/a.org/tcp/8443/wss": "https://a.org:8443", "/ip6/::1/tcp/80/ws": "http://[::1]", "/ip4/1.2.3.4/udp/1/quic": null, "": null };
  for (const [address, site] of Object.entries(sites)) assert.equal(siteOf(address), site, address);
});

test("a wallet takes back what is left without any node's help, in two transactions", async () => {
  const state = { balance: 50_000n, claimed: 0n, amount: 0n, at: 0n };
  const word = (value) => BigInt(value).toString(16).padStart(64, "0");
  const sent = [];
  const provider = {
    async request({ method, params }) {
      if (method === "eth_chainId") return `0x${PAID_IN.chain_id.toString(16)}`;
      if (method === "eth_requestAccounts") return [`0x${hex(addressOf("wallet"))}`];
      if (method === "eth_getTransactionReceipt") return { status: "0x1" };
      if (method === "eth_call") return params[0].data.startsWith(`0x${hex(keccak(new TextEncoder().encode("channels(bytes32)")).slice(0, 4))}`) ? `0x${word(state.balance)}${word(state.claimed)}` : `0x${word(state.amount)}${word(state.at)}`;
      assert.equal(method, "eth_sendTransaction");
      assert.equal(params[0].to, PAID_IN.channels);
      sent.push(params[0].data);
      if (sent.length === 1) Object.assign(state, { amount: BigInt(`0x${params[0].data.slice(-64)}`), at: BigInt(NOW) });
      else Object.assign(state, { balance: state.balance - state.amount, amount: 0n, at: 0n });
      return "0x01";
    },
  };
  const store = new Memory();
  const purse = aPurse({ store });
  const pocket = await purse.open(addressOf("node"));
  await pocket.deposit(1_000n, 1_000n);
  Object.assign(pocket.channel.row, { cumulative: 400n });
  await pocket.keep();
  pocket.release();
  const { id, config } = pocket.channel.row;
  purse.wallet = new Wallet(() => provider, PAID_IN);
  await purse.withdraw(id);
  let [row] = await purse.rows();
  assert.deepEqual(sent, [withdrawCall(config, 49_600n)]);
  assert.equal(readyAt(row), NOW + 86_400);
  const next = await purse.open(addressOf("node"));
  assert.ok(!equal(next.channel.row.id, id)); // nothing is paid from it meanwhile
  next.release();
  assert.equal(await purse.finish(id), 49_600n);
  assert.deepEqual(sent.slice(1), [finishCall(config)]);
  [row] = await purse.rows();
  assert.ok(row.isClosed);
  assert.equal(withdrawCall(config, 1n).length, 2 + 2 * (4 + 8 * 32));
  for (const wrong of ["0x", `0x${"0".repeat(63)}`, "nothing"]) assert.throws(() => readWords(wrong, 2));
});

// ---- who cheated ----

test("a name that nobody knows is told apart from nodes that do not answer", async () => {
  const client = new Client({ net: { node: {} }, told: { peer_id: peerOf("home").peerId, adapters: [], publishers: [peerOf("owner").peerId] }, here: { protocol: "http:", hostname: "127.0.0.1", port: "1" }, secret: SECRET, store: new Memory() });
  client.reached = async () => ["one", "other"];
  const answer = (how) => (client.lookUp = async (helper) => how(helper));
  answer(() => Promise.reject(new Error("nothing came for 15 s")));
  await assert.rejects(client.find("law"), /no node answered who has law \(nothing came for 15 s\)/);
  answer((helper) => Promise.reject(helper === "one" ? new NotFound("unknown") : new Error("nothing came for 15 s")));
  await assert.rejects(client.find("law"), /nobody knows an adapter law/);
  answer(async () => []);
  await assert.rejects(client.find("law"), /nobody knows an adapter law/);
});

test("of too many files those go that came first, whatever they are called", async () => {
  const store = new Memory();
  await store.put("files", "unlisted", 0); // another tab kept it, and did not come to write that down
  const names = Array.from({ length: MOST_FILES + 2 }, (_, place) => hex(keccak(new Uint8Array([place]))));
  for (const one of names.slice(0, MOST_FILES)) await keepFile(store, one, one);
  assert.deepEqual((await store.keys("files")).sort(), names.slice(0, MOST_FILES).sort());
  await keepFile(store, names[0], "again");
  for (const one of names.slice(MOST_FILES)) await keepFile(store, one, one);
  assert.deepEqual((await store.keys("files")).sort(), [names[0], ...names.slice(3)].sort());
  assert.equal(await store.get("files", names[0]), "again");
});

test("who cheated is not asked for a day, longer the more often, and a wrong clock bars nobody for ever", () => {
  const day = 86_400;
  let book = cheated({}, "bad", NOW);
  assert.ok(isBarred(book, "bad", NOW + 0.9 * day) && !isBarred(book, "bad", NOW + 1.1 * day) && !isBarred(book, "good", NOW));
  book = cheated(book, "bad", NOW);
  assert.ok(isBarred(book, "bad", NOW + 1.9 * day) && !isBarred(book, "bad", NOW + 2.1 * day));
  assert.ok(barredUntil(book, "bad", NOW) > NOW + 1.9 * day);
  assert.ok(!isBarred(forgiven(book, "bad"), "bad", NOW));
  const future = kept({ bad: { weight: 1e9, at: NOW + 1e9 } }, NOW);
  assert.ok(!isBarred(future, "bad", NOW + 8 * day));
  assert.deepEqual(kept({ bad: "?", worse: { weight: NaN, at: 1 } }, NOW), {});
  assert.deepEqual(kept(undefined, NOW), {});
  let many = {};
  for (let at = 0; at < 400; at++) many = cheated(many, `peer ${at}`, NOW + at);
  assert.equal(Object.keys(many).length, 256);
  assert.ok(weightOf(many, "peer 399", NOW + 400) > 0.9);
});

// ---- a node that is scripted, and answers as the protocol says until it does not ----

const OFFER = ["Offer", new Uint8Array(32).fill(7), false, 0, 0, addressOf("owner"), new TextEncoder().encode("float32"), NOW, false, 0];
const DONE = ["Done", "stop", 1, [["total", float(1)]], new Uint8Array(0), null];

// `says` are messages, bytes, "hang up" or "silence"; `heard` gets what came.
class TestTalk {
  constructor(says, heard) {
    Object.assign(this, { says: [...says], heard });
  }

  async send(bytes) {
    this.heard.push(decode(bytes, 1 << 20));
    if (this.isGone) throw new Error("the stream is closed");
  }

  async receive() {
    const next = this.says.shift();
    if (next === "silence") throw new Error("nothing came for 5 s");
    if (next === "hang up" || next === undefined) return ((this.isGone = true), null);
    if (next instanceof Uint8Array) return next;
    return encode(next);
  }

  async close() {}
  abort() {}
}

function aClient(scripts, { purse = null, now = () => NOW } = {}) {
  const heard = {};
  const net = {
    connection: () => true,
    async connect(peerId) {
      if (scripts[peerId] === "unreachable") throw new Error("nobody is there");
    },
    async talk(peerId) {
      heard[peerId] ??= [];
      return new TestTalk(scripts[peerId], heard[peerId]);
    },
  };
  const client = new Client({ net, told: { peer_id: "home", adapters: [], publishers: [] }, here: { protocol: "http:", hostname: "127.0.0.1", port: "1" }, secret: SECRET, store: new Memory(), purse, now });
  return { client, heard };
}

const QUESTION = { base: new Uint8Array(32).fill(1), adapter: infer.BARE_BASE, promptIds: [1, 2, 3], maxTokens: 64, terms: infer.termsOf(), stopIds: [9], parents: null };

async function relay(client, names, { find = async () => [], signal } = {}) {
  const events = [];
  let error = null;
  const words = { add: (ids) => ids.join(" "), end: () => "" };
  try {
    for await (const event of client.relay({ question: QUESTION, candidates: names.map(peerOf), find, words, signal, began: 0 })) events.push(event);
  } catch (caught) {
    error = caught;
  }
  const finish = events.find((one) => one.finish)?.finish ?? null;
  return { events, error, finish, lost: events.filter((one) => one.lost).map((one) => one.lost), tokens: events.filter((one) => one.tokens).flatMap((one) => one.text.split(" ").map(Number)) };
}

const scriptsOf = (named) => Object.fromEntries(Object.entries(named).map(([name, script]) => [peerOf(name).peerId, script]));
const output = (...ids) => ["Output", ids, []];

test("a node that dies, stalls or refuses in mid-answer is followed by another, from the last token on", async () => {
  for (const end of ["hang up", "silence", ["Refusal", "engine_lost", "the engine is gone"]]) {
    const { client, heard } = aClient(scriptsOf({ one: [OFFER, output(4, 5), output(), output(6), end], two: [OFFER, output(7), output(9), DONE] }));
    const { finish, lost, tokens, error } = await relay(client, ["one", "two"]);
    assert.equal(error, null);
    assert.deepEqual(tokens, [4, 5, 6, 7, 9]);
    assert.equal(finish.tokens, 5);
    assert.equal(lost[0].after, 3);
    assert.ok(!lost[0].cheated);
    const [first] = heard[peerOf("one").peerId];
    const [second] = heard[peerOf("two").peerId];
    assert.deepEqual(second[5], [1, 2, 3, 4, 5, 6]);
    assert.equal(second[6], 61);
    assert.equal(first[13], null);
    assert.deepEqual(second[13], [infer.seedOf(encode(first.map((one, at) => (at === 7 ? infer.termsOf() : one))), OFFER[1], heard[peerOf("one").peerId][1][1]), 3]);
  }
});

test("an answer whose tokens say that it is over is not made longer by another node", async () => {
  const { client, heard } = aClient(scriptsOf({ one: [OFFER, output(4, 9), "hang up"], two: [OFFER, output(1), DONE] }));
  const { finish, tokens } = await relay(client, ["one", "two"]);
  assert.deepEqual(tokens, [4, 9]);
  assert.equal(finish.reason, "stop");
  assert.equal(heard[peerOf("two").peerId], undefined);
});

test("who cheats is left, and not asked again; of a cheat in mid-answer nothing is made longer", async () => {
  const nonsense = new Uint8Array([0xc1]);
  for (const bad of [[nonsense], [["Settled"]], [OFFER, OFFER], [["Offer", ...OFFER.slice(1, 8), true, 0]]]) {
    const { client } = aClient(scriptsOf({ one: bad, two: [OFFER, output(9), DONE] }));
    const { finish, lost } = await relay(client, ["one", "two"]);
    assert.equal(finish.tokens, 1);
    assert.ok(lost[0].cheated, JSON.stringify(bad[0]));
    assert.ok(isBarred(client.doubts, peerOf("one").peerId, NOW));
    assert.ok(isBarred(await client.store.get("keys", "doubts"), peerOf("one").peerId, NOW));
    client.providersOf = async () => ["one", "two"].map(peerOf);
    assert.deepEqual((await client.candidates({ base: QUESTION.base, parts: [] })).map((one) => one.peerId), [peerOf("two").peerId]);
    client.providersOf = async () => [peerOf("one")];
    await assert.rejects(client.candidates({ base: QUESTION.base, parts: [] }), /cheated this browser lately/);
    await client.forgive(peerOf("one").peerId);
    assert.equal((await client.candidates({ base: QUESTION.base, parts: [] })).length, 1);
  }
  const { client, heard } = aClient(scriptsOf({ one: [OFFER, output(4), nonsense], two: [OFFER, output(9), DONE] }));
  const { error } = await relay(client, ["one", "two"]);
  assert.ok(isCheat(error));
  assert.equal(heard[peerOf("two").peerId], undefined);
});

test("what no node does better is asked of no other; what one cannot now is", async () => {
  for (const code of ["bad_request", "adapter_refused", "payment_required"]) {
    const { client, heard } = aClient(scriptsOf({ one: [["Refusal", code, "no"]], two: [OFFER, output(9), DONE] }));
    assert.equal((await relay(client, ["one", "two"])).error.code, code);
    assert.equal(heard[peerOf("two").peerId], undefined);
  }
  for (const script of [[["Refusal", "busy", "later"]], "unreachable", ["silence"], [["Offer", OFFER[1], true, 1, 1, ...OFFER.slice(5)]]]) {
    const { client } = aClient(scriptsOf({ one: script, two: [OFFER, output(9), DONE] }));
    const { finish, lost } = await relay(client, ["one", "two"]);
    assert.equal(finish.tokens, 1);
    assert.ok(!lost[0].cheated);
    assert.ok(!isBarred(client.doubts, peerOf("one").peerId, NOW));
  }
});

test("while nobody else is there, a node that comes back goes on with the answer", async () => {
  const { client } = aClient({});
  const talks = [[OFFER, output(4), "hang up"], [OFFER, output(9), DONE]].map((says) => new TestTalk(says, []));
  client.net.talk = async () => talks.shift();
  const { finish, tokens } = await relay(client, ["one"], { find: async () => [peerOf("one")] });
  assert.deepEqual(tokens, [4, 9]);
  assert.equal(finish.tokens, 2);
});

test("Stop is heard before the question goes out, and nothing is paid after it", async () => {
  const stop = new AbortController();
  stop.abort();
  const { client, heard } = aClient(scriptsOf({ one: [OFFER, output(9), DONE] }));
  const { error, finish } = await relay(client, ["one"], { signal: stop.signal });
  assert.ok(error && !finish);
  assert.deepEqual(heard, {});
});

// ---- one session that is paid, where the golden talks do not go ----

const NETWORK = { chainId: 1337, settlement: addressOf("settlement"), token: addressOf("token"), channels: addressOf("channels") };
const FREE_POLICY = { ...POLICY, least_fee: 0 };

function paidSession({ prices = [1, 2], policy = POLICY, question = {}, now = NOW, deposit = 1_000_000n, row = null } = {}) {
  const own = row ?? newRow(NETWORK, newConfig(NETWORK, addressOf("node"), addressOf("wallet"), addressOfKey(publicKeyOf(SECRET)), new Uint8Array(12)));
  own.deposit = deposit;
  const channel = new Channel(own, NETWORK, SECRET, publicKeyOf(SECRET), [policy]);
  const session = new Session({ question: { ...QUESTION, ...question }, channel, client: channel.client, clientSeed: new Uint8Array(32).fill(3), salt: new Uint8Array(16).fill(4), most: { prompt: 100, completion: 500 }, now });
  const offer = { kind: "Offer", nodeSeed: new Uint8Array(32).fill(5), paid: true, promptPrice: prices[0], completionPrice: prices[1], owner: addressOf("owner"), dtype: new Uint8Array(0), startedAt: NOW, attributed: false, parameters: 0 };
  return { session, channel, row: own, offer };
}

const out = (...tokenIds) => ({ kind: "Output", tokenIds, logprobs: [] });

// The receipt that an honest node shows for so many tokens.
function receiptOf(channel, promised, ids, change = {}) {
  const { rows, ...own } = channel.write(promised.terms, ids.length, sha256(concat(promised.terms.salt, encode(ids))));
  const body = writeBody({ ...own, ...change });
  return { body, nodeSignature: signDigest(secretOf("node"), receiptDigest(NETWORK, { ...own, ...change }, body)) };
}

test("once the receipt is signed a node that is gone, or refuses, takes nothing back", () => {
  for (const lose of [(session) => session.lose(new Error("gone")), (session) => session.receive({ kind: "Refusal", code: "internal", message: "no" })]) {
    const { session, channel, offer } = paidSession();
    session.receive(offer);
    session.receive(out(4, 9));
    const done = session.receive({ kind: "Done", reason: "stop", neighbours: 1, timings: [], ...receiptOf(channel, session.promised, [4, 9]) });
    assert.deepEqual(done.map((one) => Object.keys(one)[0]), ["keep", "send"]);
    const [{ finish }] = lose(session);
    assert.equal(finish.reason, "stop");
    assert.equal(finish.isSettled, false);
    assert.ok(session.isOver && session.owed === 0n);
  }
  const { session, offer } = paidSession();
  session.receive(offer);
  assert.throws(() => session.lose(new Error("gone")), /gone/);
  assert.ok(session.owed > 0n);
});

test("the least fee pays for more tokens than it is asked for, and they may come at once", () => {
  const { session, offer } = paidSession({ prices: [0, 1] });
  session.receive(offer);
  assert.equal(session.paid, 64); // 100 units, a unit a token, 64 wanted
  assert.deepEqual(session.receive(out(...new Array(64).fill(4))).map((one) => Object.keys(one)[0]), ["tokens"]);
  const { session: dear, offer: dearer } = paidSession({ prices: [1, 100] });
  dear.receive(dearer);
  assert.equal(dear.paid, 32);
  const terms = { policy: FREE_POLICY, promptPrice: 2, completionPrice: 3, promptTokens: 5, parties: 1 };
  assert.deepEqual([9n, 10n, 12n, 13n, 1_000n].map((limit) => creditOf(terms, limit, 50)), [0, 0, 0, 1, 50]);
});

test("an answer without a price is vouched for all the same, with a signature", () => {
  const { session, offer, row } = paidSession({ prices: [0, 0] });
  session.receive(offer);
  assert.equal(row.voucherSignature.length, 65);
  session.receive(out(4));
  assert.ok(session.receive({ kind: "Done", reason: "stop", neighbours: 1, timings: [], body: new Uint8Array(0), nodeSignature: null }).some((one) => one.finish));
});

test("a stopped answer is paid no further, and beats say nothing", () => {
  const { session, offer } = paidSession({ prices: [1, 100] });
  session.receive(offer);
  assert.deepEqual(session.receive(out()), []);
  session.stop();
  assert.deepEqual(session.receive(out(...new Array(20).fill(4))).map((one) => Object.keys(one)[0]), ["tokens"]);
  assert.deepEqual(session.stop(), []);
});

test("this device's wrong clock is no node's lie, and hinders no answer that is free", () => {
  const { session, offer } = paidSession({ now: NOW + 5_000 });
  assert.throws(() => session.receive(offer), (error) => error.constructor.name === "WrongClock" && !isCheat(error));
  const { session: free, offer: unpaid } = paidSession({ now: NOW + 5_000 });
  assert.ok(free.receive({ ...unpaid, paid: false }).some((one) => one.send));
});

test("a receipt that differs in any field is not signed, whole or broken off, and nothing moves", () => {
  const { session, channel, row, offer } = paidSession();
  session.receive(offer);
  session.receive(out(4, 9));
  const good = readBody(receiptOf(channel, session.promised, [4, 9]).body);
  const other = (value) => (value instanceof Uint8Array ? Uint8Array.from(value.length ? value : [0], (byte, at) => (at ? byte : byte ^ 1)) : Array.isArray(value) ? [[[0, 1]]] : BigInt(value) + 1n);
  const before = structuredClone(row);
  for (const name of Object.keys(good).filter((one) => one !== "version")) {
    const change = { [name]: other(good[name]) };
    const { body, nodeSignature } = receiptOf(channel, session.promised, [4, 9], change);
    const isFault = (error) => (["sequence", "previous"].includes(name) ? error instanceof AtOdds : isCheat(error)) && leavesChannel(error);
    assert.throws(() => again(session).receive({ kind: "Done", reason: "stop", neighbours: 1, timings: [], body, nodeSignature }), isFault, name);
    // Of what broke off the tokens are the node's word.
    if (!["answerCommitment", "completionTokens"].includes(name)) assert.throws(() => channel.cosignPending(body, nodeSignature), (error) => error instanceof AtOdds || isFault(error), name);
    assert.deepEqual(row, before, name);
  }
});

test("a fee follows what this side computes that the answer drew on, to the unit, and late receipts that tell of it are nobody's fault", () => {
  const parents = [{ weight: 1, creator: addressOf("creator"), contributors: [[addressOf("ann"), 1], [addressOf("ben"), 1]], lambda: 8 }];
  const drawn = [[[0, 7_500], [1, 2_500]]];
  const question = { parents, draw: (promptIds, answerIds) => (equal(promptIds, QUESTION.promptIds) && equal(answerIds, [4, 9]) ? drawn : []) };
  const begun = (attributed) => {
    const made = paidSession({ question, prices: [100, 100] });
    made.session.receive({ ...made.offer, attributed });
    made.session.receive(out(4, 9));
    return made;
  };
  const receipt = ({ session, channel }, parts) => receiptOf(channel, { terms: { ...session.promised.terms, drawn: parts } }, [4, 9]);
  const done = (made, parts) => made.session.receive({ kind: "Done", reason: "stop", neighbours: 1, timings: [], ...receipt(made, parts) });
  assert.equal(decode(begun(true).session.asked, 1 << 20).at(-1), true);
  for (const wrong of [[], [[[0, 7_501], [1, 2_499]]], [[[0, 10_000]]]]) {
    const made = begun(true);
    const before = structuredClone(made.row);
    assert.throws(() => done(made, wrong), (error) => isCheat(error) && leavesChannel(error));
    assert.deepEqual(made.row, before);
  }
  const made = begun(true);
  done(made, drawn);
  const [{ finish }] = made.session.receive({ kind: "Settled" });
  assert.deepEqual(finish.split.filter((one) => one.role === 2).map((one) => [hex(one.address), one.amount]).sort(), [[hex(addressOf("ann")), 56n], [hex(addressOf("ben")), 19n]].sort());
  assert.equal(finish.split.reduce((sum, one) => sum + one.amount, 0n), finish.amount);
  assert.ok(finish.attributed);
  assert.throws(() => done(begun(false), drawn), isCheat); // it said that it would not
  const late = begun(true);
  const shown = receipt(late, drawn);
  assert.throws(() => late.channel.cosignPending(shown.body, shown.nodeSignature), (error) => error instanceof AtOdds);
  assert.throws(() => paidSession({ question }).session.receive({ ...made.offer, attributed: true, paid: false }), isCheat);
});

// The same session, as it stands, for one more message.
const again = (session) => Object.assign(Object.create(Session.prototype), session);

test("what a node shows late is signed as far as vouchers go, and not over nothing", () => {
  const { session, channel, row, offer } = paidSession();
  session.receive(offer);
  session.receive(out(4, 5));
  const lost = session.promised;
  const late = (ids, change) => receiptOf(channel, lost, ids, change);
  const first = late([4, 5]);
  channel.releaseLost(); // the node offers again, and shows nothing of it
  const next = channel.begin({ ...lost.terms, seed: new Uint8Array(32).fill(8) });
  channel.pay(next, lost.limit);
  const ended = receiptOf(channel, next, [1, 2]);
  channel.cosign(next, [1, 2], ended.body, ended.nodeSignature);
  assert.throws(() => channel.cosignPending(first.body, first.nodeSignature), AtOdds); // its place is taken
  const again = late([4, 5]);
  assert.throws(() => channel.cosignPending(again.body, again.nodeSignature), /vouched for/);
  assert.throws(() => channel.cosignPending(...Object.values(late([4, 5], { amount: 0n }))), /over nothing/);
  assert.equal(row.sequence, 1n);
});

test("questions that were never paid push no paid one out of memory", () => {
  const { session, channel, row, offer } = paidSession();
  session.receive(offer);
  for (let round = 0; round < 300; round++) channel.begin(session.promised.terms);
  assert.ok(row.promised.includes(session.promised));
  assert.ok(row.promised.length <= 2);
});
