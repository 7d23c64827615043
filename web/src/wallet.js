// What a wallet signs, and how a page asks one: ERC-3009 deposits into a channel (docs/protocols/chain.md).
// One signature is one deposit; vouchers are signed by the page's own key.

import { concat, hex } from "./bytes.js";
import { keccak } from "./keys.js";

export const COLLECTOR = "0x4020806089470a89826cb9fb1f4059150b550004"; // the same on every chain
const VALID_S = 3_600;
const FIELDS = [
  ["from", "address"], ["to", "address"], ["value", "uint256"], ["validAfter", "uint256"], ["validBefore", "uint256"], ["nonce", "bytes32"],
];

export const told = (bytes) => `0x${hex(bytes)}`;
export const nonceOf = (channelId, salt) => keccak(concat(channelId, salt));

// What eth_signTypedData_v4 takes. `token` is {address, name, version}.
export function typedDeposit({ chainId, token, payer, amount, validBefore, nonce }) {
  return {
    domain: { name: token.name, version: token.version, chainId, verifyingContract: token.address },
    primaryType: "ReceiveWithAuthorization",
    types: {
      EIP712Domain: [["name", "string"], ["version", "string"], ["chainId", "uint256"], ["verifyingContract", "address"]].map(([name, type]) => ({ name, type })),
      ReceiveWithAuthorization: FIELDS.map(([name, type]) => ({ name, type })),
    },
    message: { from: told(payer), to: COLLECTOR, value: String(amount), validAfter: "0", validBefore: String(validBefore), nonce: told(nonce) },
  };
}

// A channel's config as JSON has it.
export function configJson(config) {
  const { withdrawDelay, ...rest } = config;
  return { ...Object.fromEntries(Object.entries(rest).map(([name, bytes]) => [name, told(bytes)])), withdrawDelay };
}

export class Wallet {
  // `provider` is window.ethereum, or nothing.
  constructor(provider, paidIn) {
    Object.assign(this, { provider, paidIn });
  }

  get isHere() {
    return Boolean(this.provider);
  }

  async address() {
    if (!this.isHere) throw new Error("answers are paid in this network; install a wallet in this browser, and reload");
    const [account] = await this.provider.request({ method: "eth_requestAccounts" });
    if (!/^0x[0-9a-fA-F]{40}$/.test(account ?? "")) throw new Error("the wallet named no account");
    return account.toLowerCase();
  }

  // A signed deposit into a channel, for anybody to relay within the hour.
  async sign(channelId, payer, amount, now) {
    const salt = crypto.getRandomValues(new Uint8Array(32));
    const validBefore = Math.floor(now) + VALID_S;
    const token = { address: this.paidIn.token, name: this.paidIn.token_name, version: this.paidIn.token_version };
    const data = typedDeposit({ chainId: this.paidIn.chain_id, token, payer, amount, validBefore, nonce: nonceOf(channelId, salt) });
    const signature = await this.provider.request({ method: "eth_signTypedData_v4", params: [told(payer), JSON.stringify(data)] });
    const erc3009Authorization = { validAfter: "0", validBefore: String(validBefore), salt: String(BigInt(told(salt))), signature };
    return { amount: String(amount), authorization: { erc3009Authorization } };
  }
}
