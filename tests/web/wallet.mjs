// A wallet for tests: hashes typed data as EIP-712 has it, and signs with a key that everybody knows.

import { concat, hex, unhex, utf8 } from "../../web/src/bytes.js";
import { addressOfKey, keccak, publicKeyOf, signDigest } from "../../web/src/keys.js";

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

// Answers what a page asks of window.ethereum; notes what was asked.
export class TestWallet {
  constructor(secret) {
    this.secret = unhex(secret);
    this.asked = [];
  }

  request({ method, params }) {
    this.asked.push(method);
    if (method === "eth_requestAccounts") return [`0x${hex(addressOfKey(publicKeyOf(this.secret)))}`];
    if (method === "eth_signTypedData_v4") return `0x${hex(signDigest(this.secret, typedDigest(JSON.parse(params[1]))))}`;
    throw new Error(`a page may not ask for ${method}`);
  }
}
