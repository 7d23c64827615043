"""A small made-up economy: keys, channels, chains of receipts, and the outsiders' implementations
that ours are compared with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache

import msgspec

from proofs.attribution.shares import Share
from proofs.channel import ChannelTip
from proofs.codec import encode
from proofs.digest import Network
from proofs.envelope import VerifiedEnvelope, open_envelope, seal_envelope
from proofs.receipt import Receipt, SignedReceipt, encode_body, sign_receipt
from proofs.signing import Signer
from proofs.voucher import ChannelConfig, channel_id, operator_salt, sign_voucher

NETWORK = Network(31_337, bytes.fromhex("5e" * 20), bytes.fromhex("70" * 20))


@dataclass(frozen=True)
class View:
    """A channel on chain."""

    balance: int = 1 << 40
    total_claimed: int = 0


@cache
def signer(name: str) -> Signer:
    return Signer(hashlib.sha256(name.encode()).digest())


def address(name: str) -> bytes:
    return hashlib.sha256(b"address of " + name.encode()).digest()[:20]


def config(
    client: str = "client", node: str = "node", nonce: int = 0, network: Network = NETWORK
) -> ChannelConfig:
    payer = signer(client).address
    salt = operator_salt(signer(node).address, nonce.to_bytes(12, "big"))
    return ChannelConfig(
        payer, payer, network.settlement, signer(node).address, network.token, 86_400, salt
    )


def shares(*entries: tuple[str, int, int]) -> tuple[Share, ...]:
    found = [Share(address(name), role, bps) for name, role, bps in entries]
    return tuple(sorted(found, key=lambda share: (share.address, share.role)))


DIVIDED = shares(("owner", 0, 6_000), ("creator", 1, 2_500), ("data", 2, 1_500))


def receipt(
    tip: ChannelTip,
    *,
    parties: tuple[str, str] = ("client", "node"),
    tokens: int = 7,
    network: Network = NETWORK,
    **changes: object,
) -> Receipt:
    """The next receipt of a channel; `changes` make it wrong, or other."""
    client, node = parties
    amount = 3 * 10 + tokens * 50
    plain = Receipt(
        version=1,
        chain_id=network.chain_id,
        settlement=network.settlement,
        channel_id=channel_id(tip.config, network),
        sequence=tip.sequence + 1,
        previous=tip.previous,
        operator=signer(node).address,
        client=signer(client).address,
        base=bytes([1]) * 32,
        adapter=bytes(32),
        prompt_commitment=bytes([2]) * 32,
        answer_commitment=bytes([3]) * 32,
        prompt_tokens=3,
        completion_tokens=tokens,
        prompt_price=10,
        completion_price=50,
        amount=amount,
        cumulative=tip.cumulative + amount,
        seed=bytes([4]) * 32,
        dtype=b"float32",
        started_at=1_795_000_000,
        shares=DIVIDED,
    )
    return msgspec.structs.replace(plain, **changes)


def sign(
    body: Receipt, client: str = "client", node: str = "node", network: Network = NETWORK
) -> SignedReceipt:
    return SignedReceipt(
        encode_body(body),
        sign_receipt(signer(node), body, network),
        sign_receipt(signer(client), body, network),
    )


def envelope(
    body: Receipt,
    channel: ChannelConfig,
    *,
    client: str = "client",
    node: str = "node",
    spare: int = 0,
) -> bytes:
    voucher = sign_voucher(signer(client), body.channel_id, body.cumulative + spare, NETWORK)
    return seal_envelope(sign(body, client, node), voucher, channel)


@cache
def chain(
    length: int, client: str = "client", node: str = "node", nonce: int = 0
) -> tuple[VerifiedEnvelope, ...]:
    """The first receipts of one channel, verified."""
    tip = ChannelTip(config(client, node, nonce))
    found = []
    for number in range(length):
        body = receipt(tip, parties=(client, node), tokens=number % 5)
        found.append(open_envelope(envelope(body, tip.config, client=client, node=node), NETWORK))
        tip = tip.follow(found[-1].receipt, NETWORK)
    return tuple(found)


def resigned(tip: ChannelTip, **changes: object) -> VerifiedEnvelope:
    """A receipt for a place, with another body."""
    return open_envelope(envelope(receipt(tip, **changes), tip.config), NETWORK)


def replace_network(**changes: object) -> Network:
    return replace(NETWORK, **changes)


def encoded(signed: SignedReceipt) -> bytes:
    return encode(signed)
