"""Writes the golden vectors, and their bytes into the page of conversations.

The tests compare them with independent implementations (eth_account, eth_abi, x402, a naive tree).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from proofs.epoch import NO_HEADER, EpochHeader
from proofs.merkle import Log, leaf_hash
from proofs.promise import make_promise, promise_digest
from proofs.receipt import receipt_digest, verify_receipt
from proofs.sumtree import MAX_SUM, SumNode, SumTree, leaf
from proofs.voucher import channel_id, sign_voucher, voucher_digest

from .attestations import attestations
from .claims import claims
from .cocktails import cocktails, merged
from .datanets import datanet
from .epochs import epochs
from .evidences import evidence
from .governance import parameters
from .intakes import intake
from .ladders import ladder
from .lookups import lookups
from .money import channels, shares
from .page import PAGE, with_bytes
from .quotes import quotes
from .receipts import DEADLINE, chain, payouts, receipts
from .talks import infer
from .weights import weights
from .world import (
    AGGREGATOR,
    CLIENT,
    CONFIG,
    FOLDER,
    NETWORK,
    account,
    base_card,
    manifest,
    manifest_two,
    named,
    named_header,
    network,
    secret,
)


def sumtree() -> dict[str, Any]:
    """Trees that only grow; one that changes; one whose sum is the largest that fits."""
    large = SumTree(_leaf(number) for number in range(2))
    large.update({1: leaf(_content(1, MAX_SUM - large.leaf(0).sum), MAX_SUM - large.leaf(0).sum)})
    changed = SumTree(_leaf(number) for number in range(11))
    changed.update({3: leaf(_content(3, 0), 0), 10: leaf(_content(10, 5), 5), 11: _leaf(11)})
    return {
        "content": "account 20 || amount 16",
        "grown": [
            _tree(SumTree(_leaf(number) for number in range(size)))
            for size in (0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 33)
        ],
        "changed": _tree(changed),
        "largest_sum": _tree(large),
        "leaves": [_sum_node(_leaf(number)) for number in range(33)],
        "contents": [_content(number, _amount(number)).hex() for number in range(33)],
    }


def _tree(tree: SumTree) -> dict[str, Any]:
    proofs = [tree.prove(index) for index in range(tree.size)]
    return {
        "size": tree.size,
        "root": _sum_node(tree.root),
        "commitment": tree.commitment.hex(),
        "proofs": [
            {
                "index": proof.index,
                "leaf": _sum_node(tree.leaf(proof.index)),
                "siblings": [_sum_node(node) for node in proof.siblings],
            }
            for proof in proofs
        ],
    }


def _sum_node(node: SumNode) -> dict[str, str]:
    return {"sum": str(node.sum), "hash": node.hash.hex()}


def _leaf(number: int) -> SumNode:
    return leaf(_content(number, _amount(number)), _amount(number))


def _content(number: int, amount: int) -> bytes:
    return account(number) + amount.to_bytes(16, "big")


def _amount(number: int) -> int:
    return 1_000_003 * (number + 1)


def headers() -> list[dict[str, Any]]:
    """A chain of three headers; the last has the largest values that fit."""
    found = []
    previous = NO_HEADER
    for epoch, num_receipts, total in (
        (1, 3, 7_710),
        (2, 1_003, 1 << 70),
        ((1 << 64) - 1, (1 << 64) - 1, (1 << 128) - 1),
    ):
        digests = [
            hashlib.sha256(b"%s %d" % (name, epoch)).digest()
            for name in (b"receipts", b"channels", b"payouts", b"batch")
        ]
        header = EpochHeader(
            epoch,
            previous,
            digests[0],
            num_receipts,
            channels_root=digests[1],
            payout_root=digests[2],
            payout_total=total,
            batch_digest=digests[3],
        )
        previous = header.hash
        found.append(named_header(header))
    return found


def digests() -> dict[str, Any]:
    """Everything EIP-712, of the first receipt of receipt.json."""
    channel = channel_id(CONFIG, NETWORK)
    _, signed, _ = chain()[0]
    verified = verify_receipt(signed, NETWORK)
    receipt = verified.receipt
    promise = make_promise(AGGREGATOR, verified, DEADLINE, NETWORK)
    return {
        **network(),
        "node_secret": secret("node").hex(),
        "client_secret": secret("client").hex(),
        "aggregator_secret": secret("aggregator").hex(),
        "receipts_domain": NETWORK.receipts_domain.hex(),
        "channels_domain": NETWORK.channels_domain.hex(),
        "config": named(CONFIG),
        "channel_id": channel.hex(),
        "voucher_amount": receipt.amount,
        "voucher_digest": voucher_digest(channel, receipt.amount, NETWORK).hex(),
        "voucher_signature": sign_voucher(CLIENT, channel, receipt.amount, NETWORK).signature.hex(),
        "sequence": receipt.sequence,
        "cumulative": receipt.cumulative,
        "payouts": receipt.payouts.hex(),
        "receipt_body_sha256": verified.digest.hex(),
        "receipt_digest": receipt_digest(receipt, NETWORK).hex(),
        "node_signature": signed.node_signature.hex(),
        "client_signature": signed.client_signature.hex(),
        "promise_deadline": DEADLINE,
        "promise_digest": promise_digest(promise, NETWORK).hex(),
        "promise_signature": promise.signature.hex(),
    }


def merkle() -> list[dict[str, Any]]:
    """Logs of one-byte entries."""
    log = Log(leaf_hash(bytes([i])) for i in range(16))
    found = []
    for size in (0, 1, 2, 3, 5, 7, 8, 13, 16):
        inclusion = [
            [node.hex() for node in log.prove_inclusion(index, size)] for index in range(size)
        ]
        consistency = [
            [node.hex() for node in log.prove_consistency(old, size)] for old in range(size + 1)
        ]
        found.append(
            {
                "size": size,
                "root": log.root(size).hex(),
                "inclusion": inclusion,
                "consistency": consistency,
            }
        )
    return found


VECTORS = {
    "sumtree": sumtree,
    "header": headers,
    "digests": digests,
    "receipt": receipts,
    "payouts": payouts,
    "merkle": merkle,
    "infer": infer,
    "quote": quotes,
    "channel": channels,
    "manifest": manifest,
    "manifest2": manifest_two,
    "manifest3": merged,
    "attestation": attestations,
    "cocktail": cocktails,
    "basecard": base_card,
    "shares": shares,
    "batch": epochs,
    "lookup": lookups,
    "datanet": datanet,
    "ladder": ladder,
    "intake": intake,
    "parameters": parameters,
    "weights": weights,
    "claim": claims,
    "evidence": evidence,
}

if __name__ == "__main__":
    for name, make in VECTORS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(make(), indent=1) + "\n")
    PAGE.write_text(with_bytes(PAGE.read_text(), infer()["talks"]))
