"""A small made-up economy: keys, channels, chains of receipts, and the outsiders' implementations
that ours are compared with.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import msgspec

from proofs.aggregator import NEVER, ChannelView
from proofs.attribution.shares import (
    POLICY,
    AdapterTerms,
    fee,
    parties_of,
    shares_for,
    terms_of,
)
from proofs.channel import ChannelTip
from proofs.cocktail import parse_adapter
from proofs.codec import encode
from proofs.digest import Network
from proofs.envelope import VerifiedEnvelope, open_envelope, seal_envelope
from proofs.manifest import Contributor, File, build_manifest, parse_manifest
from proofs.policies import UNGOVERNED, Policies
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    VERSION,
    Receipt,
    SignedReceipt,
    VerifiedReceipt,
    encode_body,
    sign_receipt,
)
from proofs.signing import Signer
from proofs.voucher import ChannelConfig, channel_id, operator_salt, sign_voucher

NETWORK = Network(31_337, bytes.fromhex("5e" * 20), bytes.fromhex("70" * 20))


PLENTY = ChannelView(1 << 40, NEVER)
"""A channel on chain that is claimed as far as anybody could want."""


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


BASE = bytes([1]) * 32
PROMPT_PRICE = 100
TOKEN_PRICE = 500


def manifest(
    *contributors: tuple[str, int], creator: str = "creator", num_blocks: int = 1
) -> bytes:
    """An adapter's manifest; contributors with their weights."""
    return build_manifest(
        signer(creator),
        name="law",
        adapter_version="1",
        base=BASE,
        tokenizer_hash=bytes(32),
        template_hash=bytes(32),
        licence="CC0",
        source="",
        created_at=1,
        contributors=[
            Contributor(address(name), name, "source", "CC0", weight)
            for name, weight in contributors
        ],
        files=[File("a", num_blocks, [(bytes(32), 1)] * num_blocks)],
    )


MANIFEST = manifest(("data", 1))
ADAPTER = hashlib.sha256(MANIFEST).digest()
TERMS = terms_of(parse_manifest(MANIFEST))
MANIFESTS = {ADAPTER: MANIFEST}
"""What a mirror fetched: every adapter that this economy's receipts may name."""


def publish(number: int) -> bytes:
    """One more adapter, by its digest."""
    data = manifest(("data", number + 2))
    digest = hashlib.sha256(data).digest()
    MANIFESTS[digest] = data
    return digest


def terms_for(adapter: bytes) -> AdapterTerms | None:
    """What attribution reads in an adapter's manifest; None for the bare base."""
    return None if adapter == BARE_BASE else terms_of(parse_adapter(MANIFESTS[adapter]))


def receipt(
    tip: ChannelTip,
    *,
    parties: tuple[str, str] = ("client", "node"),
    tokens: int = 7,
    adapter: bytes = ADAPTER,
    network: Network = NETWORK,
    policies: Policies = UNGOVERNED,
    **changes: object,
) -> Receipt:
    """The next receipt of a channel; `changes` make it wrong, or other."""
    client, node = parties
    plain = Receipt(
        version=VERSION,
        chain_id=network.chain_id,
        settlement=network.settlement,
        channel_id=channel_id(tip.config, network),
        sequence=tip.sequence + 1,
        previous=tip.previous,
        operator=signer(node).address,
        client=signer(client).address,
        base=BASE,
        adapter=adapter,
        owner=address("owner"),
        prompt_commitment=bytes([2]) * 32,
        answer_commitment=bytes([3]) * 32,
        prompt_tokens=3,
        completion_tokens=tokens,
        prompt_price=PROMPT_PRICE,
        completion_price=TOKEN_PRICE,
        amount=0,
        cumulative=0,
        seed=bytes([4]) * 32,
        dtype=b"float32",
        started_at=1_795_000_000,
        payouts=bytes(32),
    )
    told = {name: value for name, value in changes.items() if name not in _DERIVED}
    body = msgspec.structs.replace(plain, **told)
    return msgspec.structs.replace(_settle(tip, body, policies), **changes)


_DERIVED = ("amount", "cumulative", "payouts")


def _settle(tip: ChannelTip, body: Receipt, policies: Policies) -> Receipt:
    """Write what the tokens cost and who is paid, by the terms that everybody derives."""
    terms = terms_for(body.adapter)
    policy = policies.of(body.parameters) if body.parameters else POLICY
    shares = shares_for(policy, body.owner, terms, body.drawn)
    amount = fee(policy, body.price, parties_of(policy, body.owner, terms))
    return msgspec.structs.replace(
        body,
        amount=amount,
        cumulative=tip.cumulative + amount,
        payouts=tip.payouts.award(shares, amount).commitment,
    )


def follow(tip: ChannelTip, taken: VerifiedReceipt) -> ChannelTip:
    """The channel after its next receipt."""
    return tip.follow(taken, NETWORK, terms_for(taken.receipt.adapter))


def sign(
    body: Receipt,
    client: str | None = "client",
    node: str = "node",
    network: Network = NETWORK,
) -> SignedReceipt:
    """Sign as both; without a client the receipt is unilateral."""
    return SignedReceipt(
        encode_body(body),
        sign_receipt(signer(node), body, network),
        sign_receipt(signer(client), body, network) if client else NO_SIGNATURE,
    )


def envelope(
    body: Receipt,
    channel: ChannelConfig,
    *,
    client: str = "client",
    node: str = "node",
    spare: int = 0,
    cosigned: bool = True,
) -> bytes:
    """A receipt with the voucher that pays for it; one that the client did not sign, too."""
    voucher = sign_voucher(signer(client), body.channel_id, body.cumulative + spare, NETWORK)
    return seal_envelope(sign(body, client if cosigned else None, node), voucher, channel)


@cache
def chain(
    length: int,
    client: str = "client",
    node: str = "node",
    nonce: int = 0,
    *,
    cosigned: bool = True,
    adapter: bytes = ADAPTER,
) -> tuple[VerifiedEnvelope, ...]:
    """The first receipts of one channel, verified."""
    tip = ChannelTip(config(client, node, nonce))
    found = []
    for number in range(length):
        body = receipt(tip, parties=(client, node), tokens=number % 5, adapter=adapter)
        data = envelope(body, tip.config, client=client, node=node, cosigned=cosigned)
        found.append(open_envelope(data, NETWORK))
        tip = follow(tip, found[-1].receipt)
    return tuple(found)


def resigned(
    tip: ChannelTip,
    *,
    client: str = "client",
    node: str = "node",
    cosigned: bool = True,
    **changes: object,
) -> VerifiedEnvelope:
    """A receipt for a place, with another body."""
    body = receipt(tip, parties=(client, node), **changes)
    return open_envelope(
        envelope(body, tip.config, client=client, node=node, cosigned=cosigned), NETWORK
    )


def replace_network(**changes: object) -> Network:
    return replace(NETWORK, **changes)


def encoded(signed: SignedReceipt) -> bytes:
    return encode(signed)
