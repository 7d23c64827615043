"""What keys sign that they must not, in the network of a chain."""

from __future__ import annotations

from proofs.attestation.record import Attestation, Measured
from proofs.channel import ChannelTip
from proofs.court import Missummed
from proofs.digest import Network
from proofs.receipt import NO_SIGNATURE, SignedReceipt, encode_body, sign_receipt
from proofs.signed import sign_record
from proofs.voucher import ChannelConfig
from tests.proofs.chain.world import World
from tests.proofs.scene import receipt, signer


def sign_twice(config: ChannelConfig, network: Network, node: str = "operator") -> tuple:
    """Two receipts of a node for the first place in its channel with the payer."""
    return tuple(_signed(config, network, node, tokens) for tokens in (7, 8))


def false_attestation(auditor: str, config: ChannelConfig, network: Network) -> bytes:
    """An attestation that agrees where its own score exceeds its limit."""
    signed = _signed(config, network, "operator", 64)
    measured = Measured(64, 60, 71_000, 9_000, cap=100_000, mean=314, variance=29, one_in=10_000)
    draft = Attestation(
        1,
        signed.body,
        signed.node_signature,
        "agrees",
        measured,
        opening=None,
        judged_at=1,
        auditor=signer(auditor).public_key,
        signature=bytes(65),
    )
    return sign_record(signer(auditor), draft, b"lorikeet attestation 1\0")


def _signed(config: ChannelConfig, network: Network, node: str, tokens: int) -> SignedReceipt:
    body = receipt(ChannelTip(config), parties=("payer", node), tokens=tokens, network=network)
    return SignedReceipt(encode_body(body), sign_receipt(signer(node), body, network), NO_SIGNATURE)


def convict(world: World) -> None:
    """The aggregator posts a header that awards what no channel owes, and is convicted."""
    world.earn(1_000)
    posted = world.post(world.next_header())
    opening = world.books().channel_tree.opening
    world.client("anybody").settlement.court.prove(posted, None, Missummed(opening))
