// The infer protocol's messages (docs/protocols/infer.md): what a page sends, and what a node may. Pure.

import { concat, utf8 } from "./bytes.js";
import { AMOUNT, Malformed, is } from "./form.js";
import { sha256 } from "./keys.js";
import { decode, encode, float } from "./msgpack.js";
import { MAX_BODY_BYTES } from "./receipts.js";

export const VERSION = 7;
export const PROTOCOL = `/lorikeet/infer/${VERSION}`;
export const MAX_FRAME_BYTES = 1 << 20;
export const MAX_PROMPT_TOKENS = 32_768;
export const MAX_TOKENS = 8_192;
export const BARE_BASE = new Uint8Array(32);

const TOKEN = is.whole(0, 2 ** 24 - 1);
const SIGNATURE = is.bytes(65);
const BODY = is.bytes(0, MAX_BODY_BYTES);
const FROM_NODE = {
  Refusal: { code: is.text(40), message: is.text(1000) },
  Pending: { body: BODY, nodeSignature: SIGNATURE },
  Offer: {
    nodeSeed: is.bytes(32), paid: is.yesNo, promptPrice: is.whole(0, AMOUNT), completionPrice: is.whole(0, AMOUNT),
    owner: is.bytes(20), dtype: is.bytes(0, 16), startedAt: is.whole(0, AMOUNT), attributed: is.yesNo, parameters: is.whole(0, AMOUNT),
  },
  Output: { tokenIds: is.list(TOKEN, MAX_TOKENS), logprobs: is.list(is.tuple(is.number, is.list(is.tuple(TOKEN, is.number), 20)), MAX_TOKENS) },
  Done: {
    reason: is.one("stop", "length", "cancelled"), neighbours: is.whole(0, 65_535), timings: is.list(is.tuple(is.text(32), is.number), 16),
    body: BODY, nodeSignature: is.maybe(SIGNATURE),
  },
  Settled: {},
};
const FORMS = Object.fromEntries(Object.entries(FROM_NODE).map(([name, fields]) => [name, is.record({ kind: is.one(name), ...fields })]));

// What the node said, by field, its name as `kind`. Throws Malformed or BadBytes.
export function readFromNode(bytes) {
  const value = decode(bytes, MAX_FRAME_BYTES);
  const form = Array.isArray(value) && Object.hasOwn(FORMS, value[0]) ? FORMS[value[0]] : null;
  if (!form) throw new Malformed("the node sent no message of this protocol");
  return form(value);
}

export const CHANNEL_FIELDS = ["payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token", "withdrawDelay", "salt"];
export const listOf = (config) => CHANNEL_FIELDS.map((name) => config[name]);

// How tokens are chosen; what is not given does nothing.
export function termsOf({ temperature = 0, topK = 0, topP = 1, minP = 0, repetition = 1, presence = 0, frequency = 0, bias = [], grammar = null } = {}) {
  return [float(temperature), topK, float(topP), float(minP), float(repetition), float(presence), float(frequency), bias.map(([id, by]) => [id, float(by)]), grammar];
}

// `channel` null: nothing is to be paid. `resumed` is null, or [seed, how many of promptIds are the answer's].
// `attributed`: what the answer draws on can be computed here.
export function ask({ base, adapter, promptIds, maxTokens, terms, stopIds, seedCommitment, client, channel, cocktail = new Uint8Array(0), logprobs = null, resumed = null, attributed = false }) {
  const config = channel && listOf(channel);
  return encode(["Ask", VERSION, base, adapter, cocktail, promptIds, maxTokens, terms, logprobs, stopIds, seedCommitment, client, config, resumed, attributed]);
}

export const begin = (clientSeed, salt, pay) => encode(["Begin", clientSeed, salt, pay && ["Pay", pay.limit, pay.amount, pay.signature]]);
export const payMore = (pay) => encode(["Pay", pay.limit, pay.amount, pay.signature]);
export const stop = () => encode(["Stop"]);
export const settle = (signature) => encode(["Settle", signature]);

// The sampling seed, which neither side can choose alone; `asked` are the bytes of the Ask.
export const seedOf = (asked, nodeSeed, clientSeed) => sha256(concat(utf8("lorikeet seed"), clientSeed, nodeSeed, sha256(asked)));
