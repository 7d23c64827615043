// The page's pure modules against tests/golden/: what Python writes, the page writes and reads, and
// what nobody may send it refuses. Run by test_pure.py: node --test.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { readCard } from "../../web/src/basecard.js";
import { Fetch, BadBlock, MAX_FETCH_BYTES } from "../../web/src/blocks.js";
import { base58, cidOf, concat, digestOf, hex, unbase58, unhex, utf8 } from "../../web/src/bytes.js";
import { Channel, Cheated, MustPay, newRow } from "../../web/src/channel.js";
import { Malformed } from "../../web/src/form.js";
import { BadFrame, Frames, frame } from "../../web/src/frames.js";
import * as infer from "../../web/src/infer.js";
import { addressOfKey, keccak, keyOfPeer, peerIdOf, publicKeyOf, sha256, signDigest } from "../../web/src/keys.js";
import { TABLE, credit, draw, measure, spansOf } from "../../web/src/ladder.js";
import { MAX_ANSWER_BYTES, NotFound, lookUp, readAnswer, readProvider } from "../../web/src/lookup.js";
import { readManifest } from "../../web/src/manifest.js";
import { mix, parseMix } from "../../web/src/mix.js";
import { BadBytes, MAX_ELEMENTS, decode, encode, float, read } from "../../web/src/msgpack.js";
import { newer, readRecord } from "../../web/src/names.js";
import { channelId, readBody, receiptDigest, voucherDigest, writeBody } from "../../web/src/receipts.js";
import { PAY_TOKENS, Refused, Session, WrongClock } from "../../web/src/session.js";
import { POLICY, award, divide, feeOf, numParties, sharesOf } from "../../web/src/shares.js";
import { commitment } from "../../web/src/sumtree.js";
import { MAX_TEXT_BYTES, checkTexts, readListing, readText } from "../../web/src/texts.js";
import { callOf, finishCall, nonceOf, typedDeposit, withdrawCall } from "../../web/src/wallet.js";
import { typedDigest } from "./wallet.mjs";

const golden = (name) => JSON.parse(readFileSync(new URL(`../golden/${name}.json`, import.meta.url), "utf8"));
const INFER = golden("infer");
const RECEIPT = golden("receipt");
const VOTED = { ...POLICY, version: 1 };
const same = (one, told) => assert.equal(hex(one), told);
const secretOf = ({ secret }) => unhex(secret);
const network = ({ chain_id, settlement, token, channels }) => ({ chainId: chain_id, settlement: unhex(settlement), token: unhex(token), channels: unhex(channels) });
const config = (one) => ({
  payer: unhex(one.payer), payerAuthorizer: unhex(one.payer_authorizer), receiver: unhex(one.receiver), receiverAuthorizer: unhex(one.receiver_authorizer),
  token: unhex(one.token), withdrawDelay: one.withdraw_delay, salt: unhex(one.salt),
});
const rows = (list) => list.map(({ account, amount }) => [unhex(account), BigInt(amount)]);

test("keys, peer ids and addresses are those of Python", () => {
  for (const who of [INFER.node, INFER.client, INFER.delivery.aggregator]) {
    const key = publicKeyOf(secretOf(who));
    same(key, who.public_key);
    assert.equal(peerIdOf(key), who.peer_id);
    same(addressOfKey(key), who.address);
    same(keyOfPeer(who.peer_id), who.public_key);
  }
  for (const wrong of ["", "1".repeat(64), `1${INFER.node.peer_id}`, "12D3KooWGzBzCjNqmT5t1DGHrVVZaaGMCSo4WFSaaaaaaaaaaaaa", INFER.node.peer_id.slice(1), "x".repeat(1000)]) {
    assert.equal(keyOfPeer(wrong), null);
  }
  assert.deepEqual(unbase58(base58(unhex("0000ff10"))), unhex("0000ff10"));
  assert.equal(cidOf(sha256(utf8("hello world"))), "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
  for (const name of ["a", "b", "c"]) same(digestOf(cidOf(sha256(utf8(name)))), hex(sha256(utf8(name))));
  for (const wrong of ["", "bafkrei", `${cidOf(sha256(utf8("a"))).slice(0, -1)}7`, cidOf(sha256(utf8("a"))).toUpperCase(), cidOf(new Uint8Array(31))]) assert.equal(digestOf(wrong), null, wrong);
});

test("look-ups are written, answers and providers read", () => {
  for (const [asked, answer] of golden("lookup").exchanges) {
    same(lookUp(asked.kind, unhex(asked.key), asked.max_age_s), asked.hex);
    if (answer.message === "Refused") assert.throws(() => readAnswer(unhex(answer.hex)), NotFound);
    else assert.deepEqual(readAnswer(unhex(answer.hex)).map(hex), answer.found.map((one) => hex(unhex(one))));
  }
  const { provider } = golden("lookup");
  assert.deepEqual(readProvider(unhex(provider.hex)), { peerId: provider.peer_id, addresses: provider.addresses });
});

test("a name's record is believed when its owner signed it for this name, and the newest counts", () => {
  const [[asked, answer]] = golden("lookup").exchanges;
  const [, , owner, name] = Buffer.from(unhex(asked.key)).toString().split("/");
  const bytes = readAnswer(unhex(answer.hex))[0];
  const now = 1_795_000_000;
  const record = readRecord(bytes, owner, name, now);
  assert.equal(record.target.length, 32);
  assert.throws(() => readRecord(bytes, owner, "tax", now), Malformed);
  assert.throws(() => readRecord(bytes, INFER.node.peer_id, name, now), Malformed);
  assert.throws(() => readRecord(bytes, owner, name, 1_700_000_000), /future/);
  for (let at = 0; at < bytes.length; at += 5) {
    const spoilt = bytes.slice();
    spoilt[at] ^= 1;
    assert.throws(() => readRecord(spoilt, owner, name, now));
  }
  const older = { ...record, sequence: record.sequence - 1 };
  assert.equal(newer(older, record), record);
  assert.equal(newer(record, null), record);
});

test("manifests of all versions are read, and who shares their fees follows", () => {
  for (const name of ["manifest", "manifest2", "manifest3"]) {
    const vector = golden(name);
    const bytes = unhex(vector.manifest);
    const manifest = readManifest(bytes);
    assert.equal(cidOf(manifest.digest), vector.cid);
    assert.equal(manifest.name, vector.fields.name);
    assert.equal(manifest.files.length, vector.fields.files.length);
    for (let at = 0; at < bytes.length; at += 61) {
      const spoilt = bytes.slice();
      spoilt[at] ^= 4;
      assert.throws(() => readManifest(spoilt), `${name}, byte ${at}`);
    }
    if (!vector.shares) continue;
    const shares = sharesOf(POLICY, unhex(vector.owner), manifest.terms);
    assert.deepEqual(shares.map((one) => [hex(one.address), one.role, Number(one.weight)]), vector.shares.map((one) => [one.address, one.role, one.weight]));
  }
});

test("cocktails are named, mixed and shared as in Python", () => {
  const vector = golden("cocktail");
  const parents = vector.fields.parents.map(({ manifest, weight }) => ({ bytes: unhex(manifest), manifest: readManifest(unhex(manifest)), weight }));
  const mixed = mix(parents.toReversed());
  same(mixed.bytes, vector.cocktail);
  assert.equal(cidOf(mixed.digest), vector.cid);
  const shares = sharesOf(POLICY, unhex(vector.owner), mixed.terms);
  assert.deepEqual(shares.map((one) => [hex(one.address), one.role, Number(one.weight)]), vector.shares.map((one) => [one.address, one.role, one.weight]));
  const asked = decode(unhex(vector.ask), 1 << 20);
  same(asked[4], vector.cocktail);
  assert.throws(() => mix([parents[0], parents[0]]), /twice/);
  assert.deepEqual(parseMix("law:0.7+verse:0.3"), [["law", 7_000], ["verse", 3_000]]);
  assert.deepEqual(parseMix("a/law + verse:-.25"), [["a/law", 10_000], ["verse", -2_500]]);
  assert.equal(parseMix("law"), null);
  for (const wrong of ["law:0", "law:3+verse", "law:0.12345", "law:1.2.3", "+law", "law+", "a+b+c+d+e+f+g+h+i", `law:1+${"x".repeat(3000)}`]) assert.throws(() => parseMix(wrong), Malformed, wrong);
});

test("a base's card is read", () => {
  const vector = golden("basecard");
  const card = readCard(unhex(vector.card), unhex(vector.fields.base));
  assert.equal(card.template, vector.fields.template);
  assert.deepEqual(card.specials, Object.fromEntries(vector.fields.specials));
  assert.deepEqual(card.stopIds, vector.fields.stop_ids);
  assert.throws(() => readCard(unhex(vector.card), new Uint8Array(32)), /another base/);
  const spoilt = unhex(vector.card);
  spoilt[40] ^= 1;
  assert.throws(() => readCard(spoilt, unhex(vector.fields.base)));
});

test("fees are divided to the last unit", () => {
  const vectors = golden("shares");
  for (const { amount, bps, parts } of vectors.split) assert.deepEqual(divide(BigInt(amount), bps.map(BigInt)).map(String), parts.map(String));
  for (const one of vectors.shares) {
    const contributors = (one.contributors ?? []).map((each) => (Array.isArray(each) ? [unhex(each[0]), each[1]] : [unhex(each.address), each.weight]));
    const terms = one.creator === null ? null : [{ weight: 1, creator: unhex(one.creator), contributors, lambda: one.lambda_eighths }];
    const shares = sharesOf(POLICY, unhex(one.owner), terms, one.drawn.length ? [one.drawn] : []);
    assert.deepEqual(shares.map((each) => [hex(each.address), each.role, Number(each.weight)]), one.shares.map((each) => [each.address, each.role, each.weight]), one.why);
    assert.equal(numParties(POLICY, unhex(one.owner), terms), one.num_parties, one.why);
    for (const { price, fee, awards } of one.fees) {
      assert.equal(feeOf(POLICY, BigInt(price), one.num_parties), BigInt(fee), one.why);
      const told = new Map(award([], shares, BigInt(fee)).map(([account, amount]) => [hex(account), String(amount)]));
      assert.deepEqual(told, new Map(awards.map(({ account, amount }) => [account, String(amount)])), one.why);
    }
  }
  for (const { commitments, rows: after } of golden("payouts")) assert.equal(hex(commitment(rows(after))), commitments.at(-1));
});

test("whose words an answer has is measured as in Python", () => {
  const vector = golden("ladder");
  assert.equal(hex(sha256(new Uint8Array(Uint32Array.from(TABLE).buffer))), vector.table_digest);
  const text = readText(unhex(vector.tokens));
  const background = readText(unhex(vector.background_tokens));
  for (const { prompt, answer, bits } of vector.answers) assert.deepEqual(measure(text, background, prompt, answer).bits, bits);
  const { prompt, answer } = vector.answers[3]; // of the edited poem, and two words of nobody's
  assert.deepEqual(spansOf(text, answer, measure(text, background, prompt, answer).byToken).map(({ bits, ...one }) => one), [{ start: 0, end: 6, contributor: 2, contribution: 2, document: 1 }]);
  assert.deepEqual(credit([0, 6_796_598, 1_067_707], 8, 1), [[1, 8_642], [2, 1_358]]);
  assert.deepEqual(credit([0, 8 * 65_536 - 1, 0], 8, 1), []);
  assert.deepEqual(draw([null, { text, background, noneBits: 8 }], prompt, answer)[0], []);
  assert.deepEqual(draw([null, { text, background, noneBits: 8 }], [], [88]), []);
});

// Whether it does what it should, or fails as it should.
function fault(action, isOwn) {
  try {
    action();
    return true;
  } catch (error) {
    return isOwn(error);
  }
}

test("texts are what their manifest means, or nothing is measured with them", () => {
  const vector = golden("ladder");
  const bytes = unhex(vector.tokens);
  const backgroundBytes = unhex(vector.background_tokens);
  const [text, background] = [readText(bytes), readText(backgroundBytes)];
  for (let at = 0; at < bytes.length - text.ranks.byteLength; at++) {
    const spoilt = bytes.slice();
    spoilt[at] ^= 0xff;
    const isOwnFault = (error) => error instanceof Malformed || error instanceof BadBytes;
    if (at < 24 || at >= 4 + bytes[3]) assert.throws(() => readText(spoilt), isOwnFault, `byte ${at}`); // its kind, and what fills it up
    else assert.ok(fault(() => readText(spoilt), isOwnFault));
  }
  const first = bytes.length - text.ranks.byteLength;
  for (const [at, rank] of [[first, 1], [bytes.length - 2, 1], [first + 2, 0], [first + 2, 250]]) {
    const spoilt = bytes.slice();
    spoilt[at] = rank;
    assert.throws(() => readText(spoilt), Malformed);
  }
  for (const wrong of [new Uint8Array(0), bytes.slice(0, -2), concat(bytes, new Uint8Array(2)), new Uint8Array(MAX_TEXT_BYTES + 1)]) assert.throws(() => readText(wrong), Malformed);
  const manifest = { contributors: [1, 2, 3], tokenizerHash: unhex(vector.tokenizer_hash), origin: { attribution: { background: sha256(backgroundBytes) } } };
  checkTexts(manifest, text, background, backgroundBytes);
  assert.throws(() => checkTexts({ ...manifest, contributors: [1] }, text, background, backgroundBytes), Malformed);
  assert.throws(() => checkTexts({ ...manifest, tokenizerHash: new Uint8Array(32) }, text, background, backgroundBytes), Malformed);
  assert.throws(() => checkTexts(manifest, text, text, bytes), Malformed);
  const listing = unhex(vector.listing);
  assert.deepEqual(readListing(listing, text, 2).map((one) => one.title), ["Poems", "Notes on Part III", "Poems, edited", ""]);
  assert.equal(readListing(listing, text, 1), null); // of a datanet that there is not
  assert.equal(readListing(listing, background, 2), null);
  assert.equal(readListing(listing.slice(1), text, 2), null);
});

test("receipts, channels and vouchers have Python's bytes, digests and signatures", () => {
  const where = network(RECEIPT.network);
  for (const one of RECEIPT.receipts) {
    const receipt = readBody(unhex(one.body));
    same(writeBody(receipt), one.body);
    same(sha256(unhex(one.body)), one.body_sha256);
    const digest = receiptDigest(where, receipt, unhex(one.body));
    same(digest, one.digest);
    same(signDigest(secretOf(RECEIPT.node), digest), one.node_signature);
    same(commitment(rows(one.payouts)), one.fields.payouts);
  }
  const channels = golden("channel");
  for (const one of [...channels.accept, ...channels.refuse]) same(channelId(network(channels.network), config(one.config)), one.channel_id);
  const digests = golden("digests");
  const voucher = voucherDigest(network(digests), unhex(digests.channel_id), digests.voucher_amount);
  same(voucher, digests.voucher_digest);
  same(signDigest(unhex(digests.client_secret), voucher), digests.voucher_signature);
});

// ---- conversations: what the page says is byte for byte what Python says ----

const fieldsOf = (talk, name) => talk.messages.filter((one) => one.message === name).map((one) => one.fields);

function sessionOf(talk, channel, answers) {
  const [asked] = fieldsOf(talk, "Ask");
  const [begun] = fieldsOf(talk, "Begin");
  const [offer] = fieldsOf(talk, "Offer");
  const terms = asked.terms;
  const said = decodeTalk(talk, "Ask");
  const question = {
    base: said[2], adapter: said[3], cocktail: said[4], promptIds: said[5], maxTokens: said[6], terms: said[7], logprobs: said[8], stopIds: said[9], resumed: said[13], parents: answers,
  };
  assert.ok(terms);
  return new Session({
    question, channel, client: unhex(INFER.client.address), clientSeed: unhex(begun.client_seed), salt: unhex(begun.salt),
    most: { prompt: 100, completion: 500 }, now: Number(offer.started_at),
  });
}

const decodeTalk = (talk, name) => decode(unhex(talk.messages.find((one) => one.message === name).hex), 1 << 20);

test("whole conversations on one channel: asked, paid, broken off, settled on the next visit", () => {
  const where = network(INFER.network);
  const row = newRow(where, config(INFER.channel.config));
  row.deposit = BigInt(INFER.channel.deposit);
  same(row.id, INFER.channel.channel_id);
  const secret = secretOf(INFER.client);
  let channel = new Channel(row, where, secret, publicKeyOf(secret), [VOTED]);
  const manifest = readManifest(unhex(golden("manifest").manifest));
  for (const name of ["paid", "broken", "pending"]) {
    const talk = INFER.talks.find((one) => one.name === name);
    channel = new Channel(structuredClone(channel.row), where, secret, publicKeyOf(secret), [VOTED]); // as after a reload
    const session = sessionOf(talk, channel, manifest.terms);
    const said = session.start();
    let refused = null;
    for (const one of talk.messages.filter((each) => each.from === "node")) {
      try {
        said.push(...session.receive(infer.readFromNode(unhex(one.hex))));
      } catch (error) {
        refused = error;
      }
    }
    if (name === "broken") assert.ok(refused instanceof Refused && refused.code === "payment_required");
    else assert.ok(session.isOver, `${name}: ${refused}`);
    const sent = said.filter((one) => one.send).map((one) => hex(one.send));
    const told = talk.messages.filter((each) => each.from === "client").map((one) => one.hex);
    assert.deepEqual(name === "broken" ? sent.slice(0, told.length) : sent, told, name);
    for (const [at, deed] of said.entries()) {
      if (deed.send && at > 0 && /Pay|Settle/.test(Buffer.from(deed.send.slice(0, 10)))) assert.ok(said[at - 1].keep, "kept before it is sent");
    }
  }
  assert.equal(channel.row.sequence, 3n);
  assert.equal(channel.row.promised.length, 0);
  assert.equal(hex(channel.row.previous), INFER.talks.find((one) => one.name === "pending").derived.body_sha256);
});

test("an unpaid answer, one that goes on elsewhere, and everything that Ask can say", () => {
  for (const name of ["unpaid", "resumed"]) {
    const talk = INFER.talks.find((one) => one.name === name);
    const session = sessionOf(talk, null, null);
    same(session.start()[0].send, talk.messages[0].hex);
    same(session.asked, talk.messages[0].hex);
  }
  const terms = infer.termsOf({ temperature: 0.7, topK: 40, topP: 0.9, minP: 0.05, repetition: 1.1, presence: 0.5, frequency: -0.25, bias: [[7, 1.5], [49_151, -100]], grammar: ["regex", "(yes|no)"] });
  assert.deepEqual(encode(terms), encode(decodeTalk(INFER.talks.find((one) => one.name === "unpaid"), "Ask")[7]));
});

test("a node that bills, sends or asks what was not agreed is not paid for it", () => {
  const where = network(INFER.network);
  const secret = secretOf(INFER.client);
  const talk = INFER.talks.find((one) => one.name === "paid");
  const manifest = readManifest(unhex(golden("manifest").manifest));
  const fresh = (deposit = 1_000_000n) => {
    const row = newRow(where, config(INFER.channel.config));
    row.deposit = deposit;
    return sessionOf(talk, new Channel(row, where, secret, publicKeyOf(secret), [VOTED]), manifest.terms);
  };
  const [offer, first, second, done] = talk.messages.filter((one) => one.from === "node").map((one) => infer.readFromNode(unhex(one.hex)));
  const after = (...messages) => {
    const session = fresh();
    for (const one of messages) session.receive(one);
    return session;
  };
  assert.throws(() => fresh().receive({ ...offer, promptPrice: 101 }), MustPay);
  assert.throws(() => fresh().receive({ ...offer, parameters: 7 }), MustPay);
  assert.throws(() => fresh().receive({ ...offer, startedAt: 1 }), WrongClock);
  assert.throws(() => fresh().receive({ ...offer, owner: new Uint8Array(20) }), Cheated);
  assert.throws(() => fresh().receive({ ...offer, attributed: true }), Cheated);
  assert.throws(() => fresh().receive(first), Cheated);
  assert.throws(() => after(offer).receive(offer), Cheated);
  assert.throws(() => after(offer).receive({ kind: "Settled" }), Cheated);
  assert.throws(() => after(offer).receive({ ...first, tokenIds: new Array(PAY_TOKENS + 1).fill(1) }), /more tokens than were paid/);
  const [end] = fresh().question.stopIds;
  const some = (...tokenIds) => ({ ...first, tokenIds });
  for (const parts of [[some(end, 1)], [some(1, end), some(1)], [some(end), some(), some(end)]]) assert.throws(() => after(offer, ...parts), /behind one that ends/);
  after(offer, some(1), some(1, end), some());
  assert.throws(() => after(offer, first).receive({ ...second, tokenIds: second.tokenIds.slice(1) }) && after(offer, first, { ...second, tokenIds: second.tokenIds.slice(1) }).receive(done), Cheated);
  assert.throws(() => after(offer, first, second).receive({ ...done, nodeSignature: null }), Cheated);
  assert.throws(() => after(offer, first, second).receive({ ...done, nodeSignature: signDigest(secret, new Uint8Array(32)) }), /did not sign/);
  const receipt = readBody(done.body);
  for (const change of [{ parameters: 2 }, { amount: BigInt(receipt.amount) + 1n }, { owner: unhex(INFER.client.address) }, { seed: new Uint8Array(32) }, { drawn: [[[0, 10_000]]] }]) {
    const body = writeBody({ ...receipt, ...change });
    const signature = signDigest(secretOf(INFER.node), receiptDigest(where, readBody(body), body));
    assert.throws(() => after(offer, first, second).receive({ ...done, body, nodeSignature: signature }), Cheated, Object.keys(change)[0]);
  }
  const poor = fresh(1_000n).receive(offer);
  assert.ok(poor[0].deposit >= poor[0].least && poor[0].least > 0n);
});

// ---- hostile bytes: lengths are bounded before anything is made of them ----

test("numbers, texts and arrays have one form, and lengths that lie are refused at once", () => {
  for (const value of [0, 127, 128, 255, 256, 65_535, 65_536, 4_294_967_295, 2 ** 53 - 1, (1n << 64n) - 1n, -1, -32, -33, -128, -129, -32_769, -2_147_483_649, "", "é".repeat(20), "x".repeat(300), null, true, false, new Uint8Array(70_000), [[], [1, [2]]]]) {
    assert.deepEqual(decode(encode(value), 1 << 20), value);
  }
  assert.equal(hex(encode(float(1))), "cb3ff0000000000000");
  for (const wrong of ["", "cc05", "cd0001", "d90161", "dc0000", "ca3f800000", "80", "c1", "c70000", "0101", "dfffffffff", "ddffffffff", "dcffff", "c6ffffffff", "dbffffffff", "9201", "a2c328", "d4"]) {
    assert.throws(() => decode(unhex(wrong), 100), BadBytes, wrong);
  }
  assert.throws(() => read(new Uint8Array(101), 100), /at most 100/);
  assert.throws(() => read(unhex("91".repeat(1000) + "c0"), 10_000), /deep/);
  const wide = concat(unhex("dd"), new Uint8Array([0, 15, 66, 64]), new Uint8Array(1_000_000)); // a million nothings
  assert.throws(() => read(wide, 1 << 21), new RegExp("promises more"));
  assert.ok(MAX_ELEMENTS < 1_000_000);
});

test("random bytes make no reader fail otherwise than by its own errors", () => {
  let state = 1;
  const random = () => (state = (state * 1_103_515_245 + 12_345) & 0x7fffffff) / 0x7fffffff;
  const own = [BadBytes, Malformed, BadBlock, NotFound];
  const samples = [golden("manifest2").manifest, golden("basecard").card, INFER.talks[0].messages[1].hex, golden("lookup").exchanges[0][1].hex].map(unhex);
  for (let round = 0; round < 120; round++) {
    const bytes = round % 2 ? Uint8Array.from({ length: 200 * random() }, () => 256 * random()) : samples[round % 4 | 0].slice();
    for (let times = 0; times < 3; times++) bytes[(bytes.length * random()) | 0] = 256 * random();
    for (const reader of [readManifest, (one) => readCard(one, new Uint8Array(32)), infer.readFromNode, readAnswer, readProvider, readBody, (one) => readRecord(one, INFER.node.peer_id, "law", 1e9)]) {
      try {
        reader(bytes);
      } catch (error) {
        assert.ok(own.some((kind) => error instanceof kind), `${error.stack}`);
      }
    }
  }
});

test("a frame over its bound is refused by its head, and chunks may fall anywhere", () => {
  const frames = new Frames(10);
  const bytes = concat(frame(utf8("one")), frame(new Uint8Array(0)), frame(utf8("two")));
  const whole = [];
  for (const byte of bytes) whole.push(...frames.add(new Uint8Array([byte])));
  assert.deepEqual(whole.map((one) => Buffer.from(one).toString()), ["one", "", "two"]);
  assert.throws(() => new Frames(10).add(unhex("0000000b")), BadFrame);
  assert.throws(() => new Frames(MAX_ANSWER_BYTES).add(unhex("ffffffff")), BadFrame);
});

test("blocks are hashed on arrival, asked for in parts, and never more than a page holds", () => {
  const data = Array.from({ length: 150 }, (_, at) => new Uint8Array(20_000).fill(at));
  const fetch = new Fetch(data.map((one) => [sha256(one), one.length]));
  let came = 0;
  for (let request = fetch.request(); came < data.length; request = fetch.request()) {
    if (request) assert.ok(request.length <= 64 * 32 && request.length % 32 === 0);
    fetch.receive(data[came++]);
  }
  assert.ok(fetch.isDone);
  assert.throws(() => fetch.receive(data[0]), BadBlock);
  for (const wrong of [new Uint8Array(0), data[1], data[0].slice(1)]) {
    const one = new Fetch([[sha256(data[0]), data[0].length]]);
    one.request();
    assert.throws(() => one.receive(wrong), BadBlock);
  }
  assert.throws(() => new Fetch([[new Uint8Array(32), MAX_FETCH_BYTES + 1]]), BadBlock);
});

test("what a wallet signs for a deposit is the contract's digest, and its nonce binds the channel", () => {
  const { deposit, accept, network: where } = golden("channel");
  const nonce = nonceOf(unhex(accept[0].channel_id), unhex(deposit.salt));
  same(nonce, deposit.nonce);
  const token = { address: `0x${where.token}`, ...deposit.token };
  const data = typedDeposit({ chainId: where.chain_id, token, payer: unhex(accept[0].config.payer), amount: deposit.amount, validBefore: deposit.valid_before, nonce });
  same(typedDigest(JSON.parse(JSON.stringify(data))), deposit.digest);
  same(signDigest(secretOf(INFER.client), typedDigest(data)), deposit.signature);
});

test("what a wallet sends to take a channel back is what the contract reads", () => {
  const { abi } = JSON.parse(readFileSync(new URL("../../proofs/chain/artifacts/Channels.json", import.meta.url), "utf8"));
  const typeOf = ({ type, components }) => (type === "tuple" ? `(${components.map(typeOf).join(",")})` : type);
  const headOf = (name) => {
    const { inputs } = abi.find((one) => one.type === "function" && one.name === name);
    return hex(keccak(utf8(`${name}(${inputs.map(typeOf).join(",")})`)).subarray(0, 4));
  };
  const { deposit, accept } = golden("channel");
  const words = deposit.call.slice(8, 8 + 7 * 64);
  const one = config(accept[0].config);
  assert.equal(withdrawCall(one, 258n), `0x${headOf("initiateWithdraw")}${words}${"102".padStart(64, "0")}`);
  assert.equal(finishCall(one), `0x${headOf("finalizeWithdraw")}${words}`);
  for (const name of ["channels", "pendingWithdrawals"]) assert.equal(callOf(`${name}(bytes32)`, new Uint8Array(32)), `0x${headOf(name)}${"0".repeat(64)}`);
});
