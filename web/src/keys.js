// Keys, and what follows from them: peer ids, addresses, signatures (docs/protocols/p2p.md). Pure.

import { secp256k1 } from "@noble/curves/secp256k1.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { keccak_256 } from "@noble/hashes/sha3.js";
import { base58, concat, equal, unbase58, unhex } from "./bytes.js";

export { sha256 };
export const keccak = keccak_256;

const PEER_ID_HEAD = unhex("002508021221"); // libp2p's identity multihash of a secp256k1 key

export const newSecret = () => secp256k1.utils.randomSecretKey();
export const publicKeyOf = (secret) => secp256k1.getPublicKey(secret, true);
export const peerIdOf = (publicKey) => base58(concat(PEER_ID_HEAD, publicKey));

// The compressed key in a peer id; null for another kind of key, and another spelling.
export function keyOfPeer(peerId) {
  const bytes = unbase58(peerId);
  if (bytes === null || bytes.length !== 39 || !equal(bytes.subarray(0, 6), PEER_ID_HEAD)) return null;
  const key = bytes.slice(6);
  return secp256k1.utils.isValidPublicKey(key, true) ? key : null;
}

export function addressOfKey(publicKey) {
  return keccak(secp256k1.Point.fromBytes(publicKey).toBytes(false).subarray(1)).slice(-20);
}

// r || s || v of a digest, v 27 or 28 (a name's record has 0 or 1 there).
export function signDigest(secret, digest) {
  const signed = secp256k1.sign(digest, secret, { prehash: false, format: "recovered" });
  return concat(signed.subarray(1), new Uint8Array([27 + signed[0]]));
}

// The compressed key that signed; null where the signature is none. `least` is the smaller v.
export function recover(digest, signature, least = 27) {
  const bit = signature[64] - least;
  if (signature.length !== 65 || (bit !== 0 && bit !== 1)) return null;
  try {
    const parsed = secp256k1.Signature.fromBytes(signature.subarray(0, 64), "compact");
    if (parsed.hasHighS()) return null;
    return parsed.addRecoveryBit(bit).recoverPublicKey(digest).toBytes(true);
  } catch {
    return null;
  }
}

export function signerOf(digest, signature) {
  const key = recover(digest, signature);
  return key && addressOfKey(key);
}
