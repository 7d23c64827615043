"""Makes what an aggregator signs when it takes a receipt, what reminds it of that, and what
convicts a node that signed two for one place.

Both stand alone; knows no state, no clock and no chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from .codec import Amount, Digest, Record, Signature
from .digest import Network, keccak, struct_hash, typed_digest
from .errors import BadSignature, ReceiptError
from .receipt import (
    SignedReceipt,
    VerifiedReceipt,
    decode_body,
    decode_receipt,
    digest_of,
    verify_receipt,
)
from .signing import Signer, recover
from .voucher import ChannelConfig

_PROMISE_TYPE = keccak(
    b"Promise(bytes32 channelId,uint64 sequence,uint128 cumulative,bytes32 body,uint64 deadline)"
)


class Promise(Record, frozen=True):
    """The promise that the channel's leaf in a header posted by `deadline`, or in the first one
    after it, has reached this receipt.

    `body` is the digest of the receipt's body; `deadline` in Unix seconds of the chain.
    """

    channel_id: Digest
    sequence: Amount
    cumulative: Amount
    body: Digest
    deadline: Amount
    signature: Signature


@dataclass(frozen=True)
class Reminder:
    """A promise with everything that is needed to keep it, whatever its giver has forgotten.

    `signed` carries the node's signature alone, `manifest` is empty for the bare base.
    """

    promise: Promise
    config: ChannelConfig
    signed: SignedReceipt
    manifest: bytes


class Evidence(Record, frozen=True):
    """Two signed receipts of one node for one place in one channel, with different bodies."""

    first: bytes
    second: bytes


def make_promise(
    signer: Signer, receipt: VerifiedReceipt, deadline: int, network: Network
) -> Promise:
    """Promise to include a receipt in a header that is posted by `deadline`."""
    body = receipt.receipt
    place = body.channel_id, body.sequence, body.cumulative
    digest = _digest(*place, body=receipt.digest, deadline=deadline, network=network)
    return Promise(
        *place, body=receipt.digest, deadline=deadline, signature=signer.sign_digest(digest)
    )


def promise_digest(promise: Promise, network: Network) -> bytes:
    """Return the 32 bytes that the aggregator signs (EIP-712)."""
    return _digest(
        promise.channel_id,
        promise.sequence,
        promise.cumulative,
        promise.body,
        deadline=promise.deadline,
        network=network,
    )


def verify_promise(promise: Promise, body: bytes, aggregator: bytes, network: Network) -> bool:
    """Return whether this aggregator (an address) promised to include the receipt with this body.

    `body` are the bytes of a body that the caller has checked.
    """
    receipt = decode_body(body)
    place = receipt.channel_id, receipt.sequence, receipt.cumulative
    if (promise.channel_id, promise.sequence, promise.cumulative) != place:
        return False
    if promise.body != digest_of(body):
        return False
    try:
        return recover(promise_digest(promise, network), promise.signature) == aggregator
    except BadSignature:
        return False


def verify_evidence(evidence: Evidence, network: Network) -> tuple[bytes, int]:
    """Return the channel and sequence that one node signed two bodies for.

    Raises ReceiptError when this proves nothing. Client signatures are not needed, but one that is
    there must be right.
    """
    first, second = (
        verify_receipt(decode_receipt(data), network) for data in (evidence.first, evidence.second)
    )
    place = first.receipt.channel_id, first.receipt.sequence
    if place != (second.receipt.channel_id, second.receipt.sequence):
        raise ReceiptError("evidence", "the two receipts stand in different places")
    if first.receipt.operator != second.receipt.operator:
        raise ReceiptError("evidence", "two nodes signed, of which one has no part in the channel")
    if first.digest == second.digest:
        raise ReceiptError("evidence", "the two receipts have the same body")
    return place


def _digest(
    channel_id: bytes,
    sequence: int,
    cumulative: int,
    body: bytes,
    *,
    deadline: int,
    network: Network,
) -> bytes:
    fields = (channel_id, sequence, cumulative, body, deadline)
    return typed_digest(network.receipts_domain, struct_hash(_PROMISE_TYPE, *fields))
