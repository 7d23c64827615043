// What a wallet signs and sends, and how a page asks one: ERC-3009 deposits into a channel, and the way
// back by the contract (docs/protocols/chain.md). One signature is one deposit; vouchers are signed by
// the page's own key.

import { big, concat, hex, utf8 } from "./bytes.js";
import { keccak } from "./keys.js";
import { CONFIG_TYPES } from "./receipts.js";

export const COLLECTOR = "0x4020806089470a89826cb9fb1f4059150b550004"; // the same on every chain
export const VALID_S = 3_600; // how long a signed deposit may be sent
const MINED_MS = 120_000;
const LOOK_MS = 1_000;
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

// A call of the contract of channels: what it is named, and its words of 32 bytes.
export const callOf = (signature, ...words) => told(concat(keccak(utf8(signature)).subarray(0, 4), ...words));
const word = (value) => (value instanceof Uint8Array ? concat(new Uint8Array(32 - value.length), value) : big(value, 32));
const configWords = (config) => ["payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token", "withdrawDelay", "salt"].map((name) => word(config[name]));
const TUPLE = `(${CONFIG_TYPES})`;
export const withdrawCall = (config, amount) => callOf(`initiateWithdraw(${TUPLE},uint128)`, ...configWords(config), word(amount));
export const finishCall = (config) => callOf(`finalizeWithdraw(${TUPLE})`, ...configWords(config));

// The numbers in what the contract answered.
export function readWords(said, count) {
  if (!/^0x[0-9a-fA-F]*$/.test(said) || said.length !== 2 + 64 * count) throw new Error("the wallet's chain has no such contract");
  return Array.from({ length: count }, (_, at) => BigInt(`0x${said.slice(2 + 64 * at, 66 + 64 * at)}`));
}

export class Wallet {
  // `find` gives window.ethereum, or nothing: some wallets come after the page.
  constructor(find, paidIn) {
    Object.assign(this, { find, paidIn });
  }

  get provider() {
    return this.find();
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

  // ---- by the contract, through the wallet's own node ----

  async onChain() {
    if (!this.isHere) throw new Error("this takes a wallet in this browser; install one, and reload");
    const wanted = this.paidIn.chain_id;
    if (Number(await this.ask("eth_chainId")) === wanted) return;
    await this.ask("wallet_switchEthereumChain", { chainId: `0x${wanted.toString(16)}` });
    if (Number(await this.ask("eth_chainId")) !== wanted) throw new Error(`the wallet is on another chain; choose chain ${wanted} in it`);
  }

  // What lies in a channel, what of it nodes took, and the withdrawal that is under way, or null.
  async channel(id) {
    await this.onChain();
    const [balance, claimed] = readWords(await this.look(callOf("channels(bytes32)", id)), 2);
    const [amount, at] = readWords(await this.look(callOf("pendingWithdrawals(bytes32)", id)), 2);
    return { balance, claimed, pending: at ? { amount, at: Number(at) } : null };
  }

  withdraw(config, amount) {
    return this.send(config, withdrawCall(config, amount));
  }

  finish(config) {
    return this.send(config, finishCall(config));
  }

  look(data) {
    return this.ask("eth_call", { to: this.paidIn.channels, data }, "latest");
  }

  // A transaction of the payer's, until it is in a block.
  async send(config, data) {
    await this.onChain();
    await this.address();
    const hash = await this.ask("eth_sendTransaction", { from: told(config.payer), to: this.paidIn.channels, data });
    for (const until = Date.now() + MINED_MS; Date.now() < until; await new Promise((wake) => setTimeout(wake, LOOK_MS))) {
      const done = await this.ask("eth_getTransactionReceipt", hash);
      if (done && Number(done.status) !== 1) throw new Error("the contract refused: the channel is not as this page thinks, or the delay is not over");
      if (done) return;
    }
    throw new Error("the transaction is not in a block yet; look again later");
  }

  async ask(method, ...params) {
    try {
      return await this.provider.request({ method, params });
    } catch (error) {
      throw error instanceof Error ? error : new Error(error?.message ?? `the wallet refused ${method}`);
    }
  }
}
