// Receipts, channels and vouchers (docs/protocols/receipt.md): one byte form, and what is signed. Pure.

import { big, concat, utf8 } from "./bytes.js";
import { AMOUNT, COUNT, is } from "./form.js";
import { keccak, sha256 } from "./keys.js";
import { decode, encode } from "./msgpack.js";

export const VERSION = 4;
export const MAX_BODY_BYTES = 640;
const DIGEST = is.bytes(32);
const ADDRESS = is.bytes(20);
const PARTS = is.list(is.tuple(is.whole(0, 47), is.whole(1, 10_000)), 32);
const BODY = is.record({
  version: is.one(VERSION), chainId: is.whole(0, AMOUNT), settlement: ADDRESS, channelId: DIGEST, sequence: is.whole(1, AMOUNT),
  previous: DIGEST, operator: ADDRESS, client: ADDRESS, base: DIGEST, adapter: DIGEST, owner: ADDRESS,
  promptCommitment: DIGEST, answerCommitment: DIGEST, promptTokens: is.whole(0, COUNT), completionTokens: is.whole(0, COUNT),
  promptPrice: is.whole(0, COUNT), completionPrice: is.whole(0, COUNT), amount: is.whole(0, AMOUNT), cumulative: is.whole(0, AMOUNT),
  seed: DIGEST, dtype: is.bytes(0, 16), startedAt: is.whole(0, AMOUNT), payouts: DIGEST, parameters: is.whole(0, AMOUNT), drawn: is.list(PARTS, 8),
});

// Throws Malformed or BadBytes.
export const readBody = (bytes) => BODY(decode(bytes, MAX_BODY_BYTES));
export const writeBody = (receipt) => encode(Object.values(BODY(NAMES.map((name) => receipt[name]))));
const NAMES = [
  "version", "chainId", "settlement", "channelId", "sequence", "previous", "operator", "client", "base", "adapter", "owner",
  "promptCommitment", "answerCommitment", "promptTokens", "completionTokens", "promptPrice", "completionPrice", "amount", "cumulative",
  "seed", "dtype", "startedAt", "payouts", "parameters", "drawn",
];

export const commit = (salt, ids) => sha256(concat(salt, encode(ids)));

// ---- EIP-712: words of 32 bytes, hashed ----

const word = (value) => (value instanceof Uint8Array ? concat(new Uint8Array(32 - value.length), value) : big(value, 32));
const struct = (type, ...fields) => keccak(concat(keccak(utf8(type)), ...fields.map(word)));
const typed = (domain, hashed) => keccak(concat(new Uint8Array([0x19, 0x01]), domain, hashed));
const domain = (name, version, chainId, contract) =>
  struct("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)", keccak(utf8(name)), keccak(utf8(version)), chainId, contract);

// A network is {chainId, settlement, token, channels}.
export function receiptDigest({ chainId, settlement }, receipt, body) {
  const type = "Receipt(bytes32 channelId,uint64 sequence,uint128 cumulative,bytes32 payouts,bytes32 body)";
  const hashed = struct(type, receipt.channelId, receipt.sequence, receipt.cumulative, receipt.payouts, sha256(body));
  return typed(domain("Lorikeet", "2", chainId, settlement), hashed);
}

const CONFIG = "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)";
const channels = ({ chainId, channels }) => domain("x402 Batch Settlement", "1", chainId, channels);

export const CONFIG_TYPES = CONFIG.slice(CONFIG.indexOf("(") + 1, -1).split(",").map((one) => one.split(" ")[0]).join(",");

export function channelId(network, one) {
  return typed(channels(network), struct(CONFIG, one.payer, one.payerAuthorizer, one.receiver, one.receiverAuthorizer, one.token, one.withdrawDelay, one.salt));
}

export function voucherDigest(network, id, amount) {
  return typed(channels(network), struct("Voucher(bytes32 channelId,uint128 maxClaimableAmount)", id, amount));
}
