"""Writes and checks what costs stake: bytes from which anybody sees that a key signed what it must
not. One byte form for each offence, whoever wrote it down.

Normative text: docs/protocols/stake.md. Twin of contracts/src/stake/Stake.sol and
contracts/src/libraries/Verdicts.sol. Knows no chain; what the court convicted is on it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .attestation.record import Attestation, attester, check_opening, is_consistent
from .codec import Address, Amount, Digest, NotCanonical, Record, Signature, decode, encode
from .digest import Network
from .errors import AttestationError, BadSignature, EvidenceError, ReceiptError, VoucherError
from .receipt import SignedReceipt, decode_body, digest_of, signed_digest
from .signing import recover
from .voucher import ChannelConfig, channel_id, check_channel

VERSION = 1
MAX_EVIDENCE_BYTES = 96 << 10  # a transaction that carries more is refused by most nodes of chains


class Placed(Record, frozen=True):
    """What a node signed of a receipt, without its channel and its place there. `body` is the
    sha-256 of the receipt's body.
    """

    cumulative: Amount
    payouts: Digest
    body: Digest
    signature: Signature


class TwoReceipts(Record, frozen=True, tag="receipts"):
    """Two receipts of one node for one place in a channel that pays it; the one whose body has the
    lower digest comes first.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    chain_id: Amount
    settlement: Address
    config: ChannelConfig
    sequence: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    first: Placed
    second: Placed


class FalseVerdict(Record, frozen=True, tag="verdict"):
    """An attestation that contradicts itself: its outcome is not what its score and limit say, or
    what it shows is not what its receipt commits to.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    chain_id: Amount
    settlement: Address
    attestation: Annotated[bytes, msgspec.Meta(max_length=MAX_EVIDENCE_BYTES)]


Evidence = TwoReceipts | FalseVerdict


def show_two_receipts(
    config: ChannelConfig, one: SignedReceipt, other: SignedReceipt, network: Network
) -> TwoReceipts:
    """Write down that a node signed both, in its channel of this config. Raises EvidenceError where
    that is no offence, ReceiptError for what is no receipt.
    """
    first, second = sorted((one, other), key=lambda signed: digest_of(signed.body))
    receipt = decode_body(first.body)
    found = TwoReceipts(
        VERSION,
        network.chain_id,
        network.settlement,
        config,
        receipt.sequence,
        first=_place(first),
        second=_place(second),
    )
    place = channel_id(config, network), receipt.sequence
    for signed in (first, second):
        body = decode_body(signed.body)
        if (body.channel_id, body.sequence) != place:
            raise EvidenceError("place", "the receipts stand in different places")
    check_evidence(found, network)
    return found


def show_false_verdict(attestation: bytes, network: Network) -> FalseVerdict:
    """Write down that an attestation contradicts itself. Raises EvidenceError where it does not."""
    found = FalseVerdict(VERSION, network.chain_id, network.settlement, attestation)
    check_evidence(found, network)
    return found


def read_evidence(data: bytes, network: Network) -> Evidence:
    """Read evidence from bytes nobody vouched for; it shows an offence in this network. Raises
    EvidenceError.
    """
    try:
        found = decode(data, _DECODER, MAX_EVIDENCE_BYTES)
    except NotCanonical as error:
        raise EvidenceError(error.rule, str(error)) from error
    check_evidence(found, network)
    return found


def check_evidence(found: Evidence, network: Network) -> bytes:
    """Return whose stake it costs, by address. Raises EvidenceError where it shows no offence."""
    if found.version != VERSION:
        raise EvidenceError("version", f"{found.version}; this program reads {VERSION}")
    if (found.chain_id, found.settlement) != (network.chain_id, network.settlement):
        raise EvidenceError(
            "network", f"of chain {found.chain_id} and settlement {found.settlement.hex()}"
        )
    if isinstance(found, TwoReceipts):
        return _check_receipts(found, network)
    return _check_verdict(found, network)


def read_false(data: bytes) -> tuple[bytes, bytes]:
    """Return what the contract is shown of an attestation: all but its signature, and that. Raises
    EvidenceError.
    """
    values = msgspec.structs.astuple(_read_attestation(data))
    return encode(list(values[:-1])), values[-1]


def _check_receipts(found: TwoReceipts, network: Network) -> bytes:
    operator = found.config.operator
    try:
        check_channel(found.config, operator, found.config.payer, network)
    except VoucherError as error:
        raise EvidenceError("channel", str(error)) from error
    if found.first.body >= found.second.body:
        raise EvidenceError("order", "two different bodies, the one with the lower digest first")
    for placed in (found.first, found.second):
        digest = signed_digest(
            channel_id(found.config, network),
            found.sequence,
            placed.cumulative,
            placed.payouts,
            body=placed.body,
            network=network,
        )
        try:
            is_his = recover(digest, placed.signature) == operator
        except BadSignature as error:
            raise EvidenceError("signature", str(error)) from error
        if not is_his:
            raise EvidenceError("signature", "not made by the node that the channel pays")
    return operator


def _check_verdict(found: FalseVerdict, network: Network) -> bytes:
    told = _read_attestation(found.attestation)
    try:
        receipt = told.receipt
    except ReceiptError as error:
        raise EvidenceError("receipt", str(error)) from error
    if (receipt.chain_id, receipt.settlement) != (network.chain_id, network.settlement):
        raise EvidenceError("network", "the attestation is about a receipt of another network")
    if is_consistent(told) and not _shows_other(told):
        raise EvidenceError("attestation", "nothing in it contradicts itself")
    try:
        return attester(told)
    except BadSignature as error:
        raise EvidenceError("signature", str(error)) from error


def _shows_other(told: Attestation) -> bool:
    """Whether it shows a question or an answer that is not its receipt's. That the prompt is
    another one no contract reads.
    """
    if told.opening is None:
        return False
    try:
        check_opening(told.opening, told.receipt)
    except AttestationError as error:
        return error.rule in ("seed", "answer")
    return False


def _read_attestation(data: bytes) -> Attestation:
    try:
        return decode(data, _ATTESTATION, MAX_EVIDENCE_BYTES)
    except NotCanonical as error:
        raise EvidenceError(error.rule, f"the attestation: {error}") from error


def _place(signed: SignedReceipt) -> Placed:
    body = decode_body(signed.body)
    return Placed(body.cumulative, body.payouts, digest_of(signed.body), signed.node_signature)


_DECODER: msgspec.msgpack.Decoder[Evidence] = msgspec.msgpack.Decoder(Evidence)
_ATTESTATION = msgspec.msgpack.Decoder(Attestation)
