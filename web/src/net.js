// The page as a libp2p peer that serves nothing: WebSocket, Noise, Yamux, identify. Dials, and speaks
// in frames; does not know what they say.

import { noise } from "@chainsafe/libp2p-noise";
import { yamux } from "@chainsafe/libp2p-yamux";
import { privateKeyFromRaw } from "@libp2p/crypto/keys";
import { identify } from "@libp2p/identify";
import { webSockets } from "@libp2p/websockets";
import { multiaddr } from "@multiformats/multiaddr";
import { createLibp2p } from "libp2p";
import { Frames, frame } from "./frames.js";

const DIAL_MS = 8_000;
const MAX_ADDRESSES = 4; // of one peer, so that nobody makes a page knock at many doors

export class Silent extends Error {}

export class Net {
  static async open(secret, isSecure) {
    const node = await createLibp2p({
      privateKey: privateKeyFromRaw(secret),
      addresses: { listen: [] },
      transports: [webSockets()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      // The library's own gater forbids ws:// and private addresses to every page.
      connectionGater: { denyDialMultiaddr: (address) => !mayDial(address.toString(), isSecure) },
      connectionManager: { maxConnections: 20, reconnectRetries: 0 },
      services: { identify: identify() },
    });
    await node.start();
    return new Net(node, isSecure);
  }

  constructor(node, isSecure) {
    this.node = node;
    this.isSecure = isSecure;
    this.dialling = new Map();
  }

  connection(peerId) {
    return this.node.getConnections().find((one) => one.remotePeer.toString() === peerId && one.status === "open");
  }

  get peers() {
    return this.node.getConnections().map((one) => ({ peerId: one.remotePeer.toString(), address: one.remoteAddr.toString() }));
  }

  canDial(addresses) {
    return addresses.some((one) => mayDial(one, this.isSecure));
  }

  // Connects by the first of the addresses that answers; one dial of a peer at a time.
  connect(peerId, addresses) {
    const open = this.connection(peerId);
    if (open) return Promise.resolve(open);
    if (!this.dialling.has(peerId)) this.dialling.set(peerId, this.dial(peerId, addresses).finally(() => this.dialling.delete(peerId)));
    return this.dialling.get(peerId);
  }

  async dial(peerId, addresses) {
    const usable = addresses.filter((one) => mayDial(one, this.isSecure)).slice(0, MAX_ADDRESSES);
    if (!usable.length) throw new Error("it has no address that a browser can dial");
    const full = usable.map((one) => multiaddr(one.includes("/p2p/") ? one : `${one}/p2p/${peerId}`));
    const connection = await this.node.dial(full, { signal: AbortSignal.timeout(DIAL_MS) });
    if (connection.remotePeer.toString() !== peerId) throw new Error("another peer answered there");
    return connection;
  }

  async talk(peerId, protocol, maxBytes) {
    const connection = this.connection(peerId);
    if (!connection) throw new Error("not connected");
    return new Talk(await connection.newStream(protocol, { signal: AbortSignal.timeout(DIAL_MS) }), maxBytes);
  }

  close() {
    return this.node.stop();
  }
}

// One stream, in frames.
export class Talk {
  constructor(stream, maxBytes) {
    this.stream = stream;
    this.chunks = stream[Symbol.asyncIterator]();
    this.frames = new Frames(maxBytes);
    this.whole = [];
  }

  async send(payload) {
    if (!this.stream.send(frame(payload))) await this.stream.onDrain?.();
  }

  // The next payload; null where the other side has ended. Throws Silent after so long, BadFrame.
  async receive(ms) {
    const late = timer(ms);
    try {
      while (!this.whole.length) {
        const { value, done } = await Promise.race([this.chunks.next(), late.promise]);
        if (done) return null;
        this.whole.push(...this.frames.add(value.subarray()));
      }
      return this.whole.shift();
    } finally {
      late.cancel();
    }
  }

  async close() {
    await this.stream.close({ signal: AbortSignal.timeout(2_000) }).catch(() => this.abort());
  }

  abort() {
    this.stream.abort(new Error("the page left"));
  }
}

function timer(ms) {
  let id;
  const promise = new Promise((_, reject) => {
    id = setTimeout(() => reject(new Silent(`nothing came for ${Math.round(ms / 1000)} s`)), ms);
  });
  promise.catch(() => {});
  return { promise, cancel: () => clearTimeout(id) };
}

// A page over https may open wss alone; one over http (on this machine) either.
export function mayDial(address, isSecure) {
  const parts = address.split("/");
  const isWebSocket = parts.includes("ws") || parts.includes("wss");
  const hasTls = parts.includes("tls") || parts.includes("wss");
  return isWebSocket && !parts.includes("p2p-circuit") && (hasTls || !isSecure);
}

// Where the page came from, as a multiaddress.
export function addressOf({ protocol, hostname, port }, peerId) {
  const isSecure = protocol === "https:";
  const bare = hostname.replace(/^\[|\]$/g, "");
  const kind = bare.includes(":") ? "ip6" : /^\d+(\.\d+){3}$/.test(bare) ? "ip4" : "dns4";
  return `/${kind}/${bare}/tcp/${port || (isSecure ? 443 : 80)}${isSecure ? "/tls" : ""}/ws/p2p/${peerId}`;
}

// Where a node that browsers dial at this address gives its page; null for an address that names no port.
export function siteOf(address) {
  const [, , host, , port, ...rest] = address.split("/");
  const isSecure = rest.includes("tls") || rest.includes("wss");
  const named = address.startsWith("/ip6/") ? `[${host}]` : host;
  return /^\/(ip4|ip6|dns|dns4|dns6)\/[^/]+\/tcp\/[0-9]+\//.test(address) ? `${isSecure ? "https" : "http"}://${named}${port === (isSecure ? "443" : "80") ? "" : `:${port}`}` : null;
}
