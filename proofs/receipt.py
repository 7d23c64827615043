"""Signs and checks the receipt of one answer, by the node and, mostly, by the client too.

Normative text: docs/protocols/receipt.md.

    bytes  → decode_receipt → SignedReceipt      has the right form, nothing more
           → verify_receipt → VerifiedReceipt    keeps every invariant that it can prove by itself

The node's signature alone makes a receipt: what the client vouched for is its consent. What a
receipt cannot prove alone is for others: who shares the fee (derive_shares, with the manifest), is
this the channel's next receipt (channel.py), was it claimed (aggregator.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec

from .attribution.credit import NOTHING, Drawn, find_fault
from .attribution.shares import (
    POLICY,
    AdapterTerms,
    Share,
    SharePolicy,
    fee,
    parties_of,
    shares_for,
)
from .codec import Address, Amount, Count, Digest, NotCanonical, Record, decode, encode
from .digest import Network, keccak, struct_hash, typed_digest
from .errors import BadSignature, ReceiptError
from .merkle import leaf_hash
from .signing import SIGNATURE_BYTES, Signer, recover

VERSION = 4
FIRST_PREVIOUS = bytes(32)  # what a channel's first receipt names as previous
BARE_BASE = bytes(32)  # the adapter of an answer without one
NO_SIGNATURE = b""  # the client's, where it gave none
NO_OWNER = bytes(20)
MAX_BODY_BYTES = 640
MAX_RECEIPT_BYTES = MAX_BODY_BYTES + 160

_RECEIPT_TYPE = keccak(
    b"Receipt(bytes32 channelId,uint64 sequence,uint128 cumulative,bytes32 payouts,bytes32 body)"
)


class Receipt(Record, frozen=True):
    """The body of a receipt.

    Prices per token; amounts in the fee token's smallest unit; `started_at` in Unix seconds.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    chain_id: Amount
    settlement: Address
    channel_id: Digest
    sequence: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    previous: Digest  # sha-256 of the channel's previous body
    operator: Address
    client: Address
    base: Digest
    adapter: Digest  # sha-256 of the manifest, from which everybody derives the shares
    owner: Address  # who is paid the node's share
    prompt_commitment: Digest
    answer_commitment: Digest
    prompt_tokens: Count
    completion_tokens: Count
    prompt_price: Count
    completion_price: Count
    amount: Amount
    cumulative: Amount  # of the channel, this receipt included
    seed: Digest
    dtype: Annotated[bytes, msgspec.Meta(max_length=16)]
    started_at: Amount
    payouts: Digest  # commitment of all that the channel paid whom, this receipt included
    parameters: Amount = 0  # the version of the network's parameters by which its fee is divided
    drawn: Drawn = (
        NOTHING  # whose text the answer drew on; last, since contracts read what is first
    )

    @property
    def price(self) -> int:
        """Return what the tokens cost at these prices."""
        return (
            self.prompt_tokens * self.prompt_price + self.completion_tokens * self.completion_price
        )


class SignedReceipt(Record, frozen=True):
    """A body's bytes and its signatures, none of them checked.

    `client_signature` is 65 bytes, or empty where the client gave none.
    """

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY_BYTES)]
    node_signature: Annotated[
        bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)
    ]
    client_signature: Annotated[bytes, msgspec.Meta(max_length=SIGNATURE_BYTES)]


@dataclass(frozen=True)
class VerifiedReceipt:
    """A receipt that keeps every invariant. Only `verify_receipt` makes one (a test holds that)."""

    receipt: Receipt
    signed: SignedReceipt

    @property
    def is_cosigned(self) -> bool:
        """Return whether the client signed too."""
        return self.signed.client_signature != NO_SIGNATURE

    @cached_property
    def encoded(self) -> bytes:
        """Return the signed receipt's bytes, as gossiped and published."""
        return encode(self.signed)

    @cached_property
    def leaf(self) -> bytes:
        """Return the receipt's leaf in the log, which does not depend on who signed how."""
        return leaf_of(self.signed.body)

    @cached_property
    def digest(self) -> bytes:
        """Return the digest that the channel's next receipt names as previous."""
        return digest_of(self.signed.body)


def encode_body(receipt: Receipt) -> bytes:
    """Encode a body."""
    return encode(receipt)


def digest_of(body: bytes) -> bytes:
    """Return the sha-256 of a body's bytes: its name in the chain of its channel."""
    return hashlib.sha256(body).digest()


def leaf_of(body: bytes) -> bytes:
    """Return the hash of a body's leaf in the log of receipts."""
    return leaf_hash(body)


def commit(salt: bytes, token_ids: Sequence[int]) -> bytes:
    """Commit to token ids without showing them: sha-256 of a 16-byte salt and their canonical
    MessagePack.
    """
    return hashlib.sha256(salt + encode(list(token_ids))).digest()


def receipt_digest(receipt: Receipt, network: Network) -> bytes:
    """Return the 32 bytes that node and client sign (EIP-712)."""
    return _digest(receipt, encode_body(receipt), network)


def signed_digest(
    channel_id: bytes,
    sequence: int,
    cumulative: int,
    payouts: bytes,
    *,
    body: bytes,
    network: Network,
) -> bytes:
    """Return the 32 bytes that are signed, of all that a contract sees of a receipt."""
    fields = (channel_id, sequence, cumulative, payouts, body)
    return typed_digest(network.receipts_domain, struct_hash(_RECEIPT_TYPE, *fields))


def sign_receipt(signer: Signer, receipt: Receipt, network: Network) -> bytes:
    """Sign as node or as client."""
    return signer.sign_digest(receipt_digest(receipt, network))


def decode_body(body: bytes) -> Receipt:
    """Decode a body from bytes nobody vouched for. Raises ReceiptError."""
    try:
        return decode(body, _BODY, MAX_BODY_BYTES)
    except NotCanonical as error:
        raise ReceiptError(error.rule, str(error)) from error


def decode_receipt(data: bytes) -> SignedReceipt:
    """Decode a signed receipt from bytes nobody vouched for, without reading its body. Raises
    ReceiptError.
    """
    try:
        signed = decode(data, _SIGNED, MAX_RECEIPT_BYTES)
    except NotCanonical as error:
        raise ReceiptError(error.rule, str(error)) from error
    if len(signed.client_signature) not in (0, SIGNATURE_BYTES):
        raise ReceiptError("schema", f"a client's signature has {SIGNATURE_BYTES} bytes, or none")
    return signed


def verify_receipt(signed: SignedReceipt, network: Network) -> VerifiedReceipt:
    """Check everything that a receipt proves by itself, cheapest first.

    Raises ReceiptError that names the first invariant that does not hold.
    """
    receipt = decode_body(signed.body)
    check_terms(receipt, network)
    digest = _digest(receipt, signed.body, network)
    check_signature("node signature", digest, signed.node_signature, receipt.operator)
    if signed.client_signature != NO_SIGNATURE:
        check_signature("client signature", digest, signed.client_signature, receipt.client)
    return VerifiedReceipt(receipt, signed)


def check_terms(receipt: Receipt, network: Network) -> None:
    """Check what needs neither signature nor manifest, so that both sides can before they sign.

    Raises ReceiptError.
    """
    if receipt.version != VERSION:
        raise ReceiptError("version", f"{receipt.version}; this network speaks {VERSION}")
    if (receipt.chain_id, receipt.settlement) != (network.chain_id, network.settlement):
        raise ReceiptError(
            "network",
            f"made for chain {receipt.chain_id} and settlement {receipt.settlement.hex()}",
        )
    if receipt.amount < receipt.price:
        raise ReceiptError(
            "amount", f"{receipt.amount}; its tokens at its prices cost {receipt.price}"
        )
    if receipt.amount == 0:
        raise ReceiptError("amount", "0; a receipt is for something that was paid")
    if (receipt.sequence == 1) != (receipt.previous == FIRST_PREVIOUS):
        raise ReceiptError(
            "previous", "zeros belong to the first receipt of a channel, and only to it"
        )
    if receipt.cumulative < receipt.amount or (
        receipt.sequence == 1 and receipt.cumulative != receipt.amount
    ):
        raise ReceiptError(
            "cumulative",
            f"{receipt.cumulative} does not fit amount {receipt.amount} at sequence"
            f" {receipt.sequence}",
        )
    if receipt.owner == NO_OWNER:
        raise ReceiptError("owner", "nobody can be paid at the zero address")


def derive_shares(
    receipt: Receipt, terms: AdapterTerms | None, policy: SharePolicy = POLICY
) -> tuple[Share, ...]:
    """Return who shares the fee, by the policy of the parameters that the receipt names, the terms
    of the manifest that `adapter` names, and what the answer drew on.

    None stands for the bare base. Raises ReceiptError when these cannot be the receipt's.
    """
    _check_version(receipt, policy)
    if (terms is None) != (receipt.adapter == BARE_BASE):
        raise ReceiptError(
            "adapter", "a receipt for an adapter needs its manifest, one for the bare base none"
        )
    if terms is not None and terms.base != receipt.base:
        raise ReceiptError(
            "base", f"{receipt.base.hex()}; the adapter was made for {terms.base.hex()}"
        )
    check_drawn(receipt, terms)
    return shares_for(policy, receipt.owner, terms, receipt.drawn)


def check_drawn(receipt: Receipt, terms: AdapterTerms | None) -> None:
    """Raise ReceiptError unless an answer with this adapter can have drawn on what is said. Whether
    it did, whoever has its tokens and the adapter's index recomputes.
    """
    fault = find_fault(receipt.drawn, terms.num_attributed if terms else ())
    if fault is not None:
        raise ReceiptError("drawn", fault)


def check_fee(receipt: Receipt, terms: AdapterTerms | None, policy: SharePolicy = POLICY) -> None:
    """Raise ReceiptError unless the amount is exactly what the tokens cost, or the least fee."""
    _check_version(receipt, policy)
    parties = parties_of(policy, receipt.owner, terms)
    due = fee(policy, receipt.price, parties)
    if receipt.amount != due:
        raise ReceiptError(
            "amount",
            f"{receipt.amount}; its tokens at its prices, at least the fee of {len(parties)}"
            f" shares, cost {due}",
        )


def _check_version(receipt: Receipt, policy: SharePolicy) -> None:
    if receipt.parameters != policy.version:
        raise ReceiptError(
            "parameters",
            f"version {receipt.parameters} of the network's parameters; its fee would be divided by"
            f" version {policy.version}",
        )


def check_signature(invariant: str, digest: bytes, signature: bytes, address: bytes) -> None:
    """Raise ReceiptError unless `address` signed `digest`."""
    try:
        signer = recover(digest, signature)
    except BadSignature as error:
        raise ReceiptError(invariant, str(error)) from error
    if signer != address:
        raise ReceiptError(invariant, f"not made by {address.hex()}")


def _digest(receipt: Receipt, body: bytes, network: Network) -> bytes:
    return signed_digest(
        receipt.channel_id,
        receipt.sequence,
        receipt.cumulative,
        receipt.payouts,
        body=digest_of(body),
        network=network,
    )


_BODY = msgspec.msgpack.Decoder(Receipt)
_SIGNED = msgspec.msgpack.Decoder(SignedReceipt)
