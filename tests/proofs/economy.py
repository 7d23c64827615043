"""A small made-up economy of version 2: adapters with manifests, channels, and their receipts in a
row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache

import msgspec

from proofs.attribution.shares import POLICY, AdapterTerms, fee, terms_of
from proofs.batch import compose, recompute
from proofs.channel import ChannelTip
from proofs.digest import Network
from proofs.manifest import Contributor, File, build_manifest, parse_manifest
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    VERSION,
    Receipt,
    SignedReceipt,
    VerifiedReceipt,
    derive_shares,
    encode_body,
    sign_receipt,
    verify_receipt,
)
from proofs.signing import Signer
from proofs.state import EpochState, Transition
from proofs.voucher import ChannelConfig, channel_id, operator_salt

NETWORK = Network(31_337, bytes.fromhex("5e" * 20), bytes.fromhex("70" * 20))
BASE = bytes([1]) * 32
STARTED_AT = 1_795_000_000


@cache
def signer(name: str) -> Signer:
    return Signer(hashlib.sha256(name.encode()).digest())


@cache
def address(name: str) -> bytes:
    return hashlib.sha256(b"address of " + name.encode()).digest()[:20]


@cache
def manifest(name: str, *contributors: str) -> bytes:
    """An adapter's manifest: its creator and contributors are named after it, or as they say."""
    return build_manifest(
        signer(f"creator of {name}"),
        name=name,
        adapter_version="1",
        base=BASE,
        tokenizer_hash=bytes(32),
        template_hash=bytes(32),
        licence="CC0-1.0",
        source="",
        created_at=STARTED_AT,
        contributors=[
            Contributor(address(who), who, "", "", weight=place + 1)
            for place, who in enumerate(contributors)
        ],
        files=[File("a", 1, [(bytes(32), 1)])],
    )


def config(client: str = "client", node: str = "node", nonce: int = 0) -> ChannelConfig:
    payer = signer(client).address
    operator = signer(node).address
    salt = operator_salt(operator, nonce.to_bytes(12, "big"))
    return ChannelConfig(payer, payer, NETWORK.settlement, operator, NETWORK.token, 86_400, salt)


@dataclass
class Economy:
    """Channels and adapters by name; remembers how far each channel is.

    A channel's name is (client, node, nonce), an adapter's is that of its manifest, or None: bare.
    """

    tips: dict[bytes, ChannelTip] = field(default_factory=dict)
    configs: dict[bytes, ChannelConfig] = field(default_factory=dict)
    manifests: dict[bytes, bytes] = field(default_factory=dict)
    adapters: dict[str, bytes] = field(default_factory=dict)

    def publish(self, name: str, *contributors: str) -> bytes:
        data = manifest(name, *contributors)
        digest = hashlib.sha256(data).digest()
        self.manifests[digest] = data
        self.adapters[name] = digest
        return digest

    def terms(self, adapter: bytes) -> AdapterTerms | None:
        if adapter == BARE_BASE:
            return None
        return terms_of(parse_manifest(self.manifests[adapter]))

    def open(self, client: str = "client", node: str = "node", nonce: int = 0) -> bytes:
        made = config(client, node, nonce)
        channel = channel_id(made, NETWORK)
        self.configs.setdefault(channel, made)
        self.tips.setdefault(channel, ChannelTip(made))
        return channel

    def draft(
        self,
        client: str = "client",
        node: str = "node",
        nonce: int = 0,
        adapter: str | None = None,
        tokens: int = 7,
        **changes: object,
    ) -> Receipt:
        """The next receipt of a channel; `changes` make it wrong, or other."""
        channel = self.open(client, node, nonce)
        tip = self.tips[channel]
        body = Receipt(
            version=VERSION,
            chain_id=NETWORK.chain_id,
            settlement=NETWORK.settlement,
            channel_id=channel,
            sequence=tip.sequence + 1,
            previous=tip.previous,
            operator=signer(node).address,
            client=signer(client).address,
            base=BASE,
            adapter=self.adapters[adapter] if adapter else BARE_BASE,
            owner=address(f"owner of {node}"),
            prompt_commitment=bytes([2]) * 32,
            answer_commitment=bytes([3]) * 32,
            prompt_tokens=3,
            completion_tokens=tokens,
            prompt_price=10,
            completion_price=50,
            amount=0,
            cumulative=0,
            seed=bytes([4]) * 32,
            dtype=b"float32",
            started_at=STARTED_AT,
            payouts=bytes(32),
        )
        shares = derive_shares(body, self.terms(body.adapter))
        amount = fee(POLICY, body.price, shares)
        right = msgspec.structs.replace(
            body,
            amount=amount,
            cumulative=tip.cumulative + amount,
            payouts=tip.payouts.award(shares, amount).commitment,
        )
        return msgspec.structs.replace(right, **changes)

    def sign(
        self,
        body: Receipt,
        client: str = "client",
        node: str = "node",
        is_cosigned: bool = True,
    ) -> SignedReceipt:
        return SignedReceipt(
            encode_body(body),
            sign_receipt(signer(node), body, NETWORK),
            sign_receipt(signer(client), body, NETWORK) if is_cosigned else NO_SIGNATURE,
        )

    def serve(
        self,
        client: str = "client",
        node: str = "node",
        nonce: int = 0,
        adapter: str | None = None,
        tokens: int = 7,
        is_cosigned: bool = True,
    ) -> VerifiedReceipt:
        """One answer, with which its channel goes on."""
        body = self.draft(client, node, nonce, adapter, tokens=tokens)
        signed = self.sign(body, client, node, is_cosigned=is_cosigned)
        verified = verify_receipt(signed, NETWORK)
        tip = self.tips[body.channel_id]
        self.tips[body.channel_id] = tip.follow(verified, NETWORK, self.terms(body.adapter))
        return verified

    def batch(self, state: EpochState, *receipts: VerifiedReceipt) -> bytes:
        return compose(receipts, self.configs, state)

    def seal(self, state: EpochState, *receipts: VerifiedReceipt) -> Transition:
        """One epoch on, of right receipts."""
        transition = recompute(self.batch(state, *receipts), state, self.manifests)
        state.apply(transition)
        return transition
