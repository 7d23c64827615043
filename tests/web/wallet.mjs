// A wallet for tests: hashes typed data as EIP-712 has it, and signs with a key that everybody knows. With
// a chain it sends transactions, too, as a wallet's own connection does.

import { big, concat, hex, unhex, utf8 } from "../../web/src/bytes.js";
import { addressOfKey, keccak, publicKeyOf, signDigest } from "../../web/src/keys.js";
import { told } from "../../web/src/wallet.js";

const GAS = 500_000n;
const TIP_WEI = 10n ** 9n;
const READS = ["eth_chainId", "eth_call", "eth_getTransactionReceipt"];

const word = (bytes) => concat(new Uint8Array(32 - bytes.length), bytes);
const number = (value) => unhex(BigInt(value).toString(16).padStart(64, "0"));

function hashOf(type, fields, values) {
  const signature = `${type}(${fields.map((one) => `${one.type} ${one.name}`).join(",")})`;
  const words = fields.map(({ name, type: kind }) => (kind === "string" ? keccak(utf8(values[name])) : kind === "uint256" ? number(values[name]) : word(unhex(values[name]))));
  return keccak(concat(keccak(utf8(signature)), ...words));
}

export function typedDigest({ domain, primaryType, types, message }) {
  return keccak(concat(new Uint8Array([0x19, 0x01]), hashOf("EIP712Domain", types.EIP712Domain, domain), hashOf(primaryType, types[primaryType], message)));
}

// RLP of bytes, whole numbers and lists of them.
function rlp(value) {
  if (Array.isArray(value)) return headed(0xc0, concat(...value.map(rlp)));
  const bytes = value instanceof Uint8Array ? value : bare(value);
  return bytes.length === 1 && bytes[0] < 0x80 ? bytes : headed(0x80, bytes);
}

const bare = (value) => big(value, 32).subarray(32 - Math.ceil(BigInt(value).toString(16).length / 2) * Number(BigInt(value) > 0n));

function headed(kind, bytes) {
  if (bytes.length < 56) return concat(new Uint8Array([kind + bytes.length]), bytes);
  const length = bare(bytes.length);
  return concat(new Uint8Array([kind + 55 + length.length]), length, bytes);
}

export async function askChain(rpc, method, params = []) {
  const answer = await fetch(rpc, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }) });
  const { result, error } = await answer.json();
  if (error) throw new Error(`${method}: ${error.message}`);
  return result;
}

// Answers what a page asks of window.ethereum; notes what was asked.
export class TestWallet {
  // `rpc`: where its chain is; without one it only signs.
  constructor(secret, rpc = null) {
    this.secret = unhex(secret);
    this.rpc = rpc;
    this.asked = [];
  }

  get address() {
    return told(addressOfKey(publicKeyOf(this.secret)));
  }

  request({ method, params }) {
    this.asked.push(method);
    if (method === "eth_requestAccounts") return [this.address];
    if (method === "eth_signTypedData_v4") return told(signDigest(this.secret, typedDigest(JSON.parse(params[1]))));
    if (this.rpc && READS.includes(method)) return askChain(this.rpc, method, params);
    if (this.rpc && method === "eth_sendTransaction") return this.send(params[0]);
    throw new Error(`a page may not ask for ${method}`);
  }

  // A transaction of type 2, signed and sent.
  async send({ from, to, data }) {
    if (from !== this.address) throw new Error(`${from} is no account of this wallet`);
    const [chainId, nonce, price] = await Promise.all([["eth_chainId"], ["eth_getTransactionCount", [from, "pending"]], ["eth_gasPrice"]].map(([method, params]) => askChain(this.rpc, method, params)));
    const fields = [BigInt(chainId), BigInt(nonce), TIP_WEI, 2n * BigInt(price), GAS, unhex(to), 0n, unhex(data), []];
    const signature = signDigest(this.secret, keccak(concat(new Uint8Array([2]), rlp(fields))));
    const signed = [...fields, signature[64] - 27, BigInt(told(signature.subarray(0, 32))), BigInt(told(signature.subarray(32, 64)))];
    return askChain(this.rpc, "eth_sendRawTransaction", [told(concat(new Uint8Array([2]), rlp(signed)))]);
  }
}
