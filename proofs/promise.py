"""Makes what an aggregator signs when it takes a receipt, and what convicts those who signed two
for one place.

Both stand alone; knows no state and no chain.
"""

from __future__ import annotations

from .codec import Digest, Record, Signature
from .digest import Network, keccak, struct_hash, typed_digest
from .errors import BadSignature, ReceiptError
from .merkle import leaf_hash
from .receipt import decode_receipt, verify_receipt
from .signing import Signer, recover

_PROMISE_TYPE = keccak(b"Promise(bytes32 receipt)")


class Promise(Record, frozen=True):
    """The promise that an entry is in the log of the first epoch that is sealed after its voucher
    is claimed.
    """

    leaf: Digest
    signature: Signature


class Evidence(Record, frozen=True):
    """Two signed receipts for one place in one channel, with different bodies.

    Operator and client signed both.
    """

    first: bytes
    second: bytes


def make_promise(signer: Signer, entry: bytes, network: Network) -> Promise:
    """Promise to include a signed receipt."""
    leaf = leaf_hash(entry)
    return Promise(leaf, signer.sign_digest(_promise_digest(leaf, network)))


def verify_promise(promise: Promise, entry: bytes, aggregator: bytes, network: Network) -> bool:
    """Return whether this aggregator (an address) promised to include this signed receipt."""
    try:
        return (
            promise.leaf == leaf_hash(entry)
            and recover(_promise_digest(promise.leaf, network), promise.signature) == aggregator
        )
    except BadSignature:
        return False


def verify_evidence(evidence: Evidence, network: Network) -> tuple[bytes, int]:
    """Return the channel and sequence that two bodies were signed for.

    Raises ReceiptError when this proves nothing.
    """
    first, second = (
        verify_receipt(decode_receipt(data), network) for data in (evidence.first, evidence.second)
    )
    place = first.receipt.channel_id, first.receipt.sequence
    if place != (second.receipt.channel_id, second.receipt.sequence):
        raise ReceiptError("evidence", "the two receipts stand in different places")
    if first.digest == second.digest:
        raise ReceiptError("evidence", "the two receipts have the same body")
    return place


def _promise_digest(leaf: bytes, network: Network) -> bytes:
    return typed_digest(network.receipts_domain, struct_hash(_PROMISE_TYPE, leaf))
