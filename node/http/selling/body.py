"""Reads the PAYMENT-SIGNATURE header: x402, version 2, schemes batch-settlement and exact.

Pure. What it reads is bounded and has a form; whether it is paid decides money/selling.py.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proofs.chain.structs import DepositAuthorization
from proofs.chain.token import Transfer
from proofs.hextext import from_hex
from proofs.voucher import ChannelConfig, Voucher

from ...api.sales import Payment, Refund, SaleTerms, SignedTransfer
from ..fields import BadField, convert

HEADER = "payment-signature"
SCHEME = "batch-settlement"
OUTRIGHT = "exact"
MAX_AMOUNT = (1 << 63) - 1
MAX_WORD = (1 << 256) - 1

Address = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{40}$")]
Digest = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{64}$")]
Signature = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{130}$")]
Digits = Annotated[str, Meta(pattern="^[0-9]{1,78}$")]
Number = Annotated[str, Meta(pattern="^([0-9]{1,78}|0x[0-9a-fA-F]{1,64})$")]


class Config(msgspec.Struct, frozen=True, rename="camel"):
    """A channel's config."""

    payer: Address
    payer_authorizer: Address
    receiver: Address
    receiver_authorizer: Address
    token: Address
    withdraw_delay: Annotated[int, Meta(ge=0, lt=1 << 40)]
    salt: Digest


class SignedVoucher(msgspec.Struct, frozen=True, rename="camel"):
    """A voucher."""

    channel_id: Digest
    max_claimable_amount: Digits
    signature: Signature


class Erc3009(msgspec.Struct, frozen=True, rename="camel"):
    """A transfer that the payer signed."""

    valid_after: Digits
    valid_before: Digits
    salt: Number
    signature: Signature


class Authorization(msgspec.Struct, frozen=True, rename="camel"):
    """How a deposit is authorised; of x402's two ways one is taken."""

    erc3009_authorization: Erc3009


class Deposit(msgspec.Struct, frozen=True, rename="camel"):
    """A deposit, to be relayed."""

    amount: Digits
    authorization: Authorization


class Payload(msgspec.Struct, frozen=True, rename="camel"):
    """The scheme's own part."""

    type: Literal["deposit", "voucher", "refund"]
    channel_config: Config
    voucher: SignedVoucher
    deposit: Deposit | None = None
    amount: Digits | None = None


class Accepted(msgspec.Struct, frozen=True, rename="camel"):
    """What of the requirements that are paid is looked at."""

    scheme: str
    network: str


class Authorized(msgspec.Struct, frozen=True, rename="camel"):
    """A transfer, as ERC-3009 has it."""

    payer: Address = msgspec.field(name="from")
    to: Address
    value: Digits
    valid_after: Digits
    valid_before: Digits
    nonce: Digest


class Outright(msgspec.Struct, frozen=True):
    """The part of the scheme exact."""

    signature: Signature
    authorization: Authorized


class Header(msgspec.Struct, frozen=True):
    """The header's JSON, but for the scheme's own part."""

    version: Literal[2] = msgspec.field(name="x402Version")
    accepted: Accepted


class ChannelHeader(Header, frozen=True):
    """Of batch-settlement."""

    payload: Payload


class OutrightHeader(Header, frozen=True):
    """Of exact."""

    payload: Outright


def read_payment(text: str, terms: SaleTerms) -> Payment | Refund | SignedTransfer:
    """Read a payment, or what wants its rest back. Raises BadField."""
    try:
        fields = msgspec.json.decode(base64.b64decode(text, validate=True))
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise BadField(HEADER, f"PAYMENT-SIGNATURE is not base64 of JSON: {error}") from None
    accepted = convert(fields, Header).accepted
    schemes = (SCHEME, OUTRIGHT) if terms.takes_channels else (OUTRIGHT,)
    for field, given, wanted in (
        ("scheme", accepted.scheme, schemes),
        ("network", accepted.network, (network_of(terms),)),
    ):
        if given not in wanted:
            told = " or ".join(wanted)
            raise BadField(f"accepted.{field}", f"the {field} is {given[:80]!r}; pay by {told}")
    if accepted.scheme == OUTRIGHT:
        return transfer_of(convert(fields, OutrightHeader).payload)
    return _channel_payment(convert(fields, ChannelHeader).payload)


def _channel_payment(payload: Payload) -> Payment | Refund:
    config = config_of(payload.channel_config)
    voucher = voucher_of(payload.voucher)
    if payload.type == "refund":
        amount = None if payload.amount is None else _amount("amount", payload.amount)
        return Refund(config, voucher, amount)
    if payload.type == "deposit" and payload.deposit is None:
        raise BadField("payload.deposit", "the payload is a deposit, and has none")
    deposit = payload.deposit if payload.type == "deposit" else None
    return Payment(config, voucher, None if deposit is None else deposit_of(deposit))


def network_of(terms: SaleTerms) -> str:
    """Name the chain as x402 does (CAIP-2)."""
    return f"eip155:{terms.chain_id}"


def config_of(given: Config) -> ChannelConfig:
    """Return a channel's config."""
    return ChannelConfig(
        from_hex(given.payer),
        from_hex(given.payer_authorizer),
        from_hex(given.receiver),
        from_hex(given.receiver_authorizer),
        from_hex(given.token),
        withdraw_delay=given.withdraw_delay,
        salt=from_hex(given.salt),
    )


def voucher_of(given: SignedVoucher) -> Voucher:
    """Return a voucher. Raises BadField."""
    return Voucher(
        from_hex(given.channel_id),
        _amount("voucher.maxClaimableAmount", given.max_claimable_amount),
        from_hex(given.signature),
    )


def deposit_of(given: Deposit) -> DepositAuthorization:
    """Return a signed deposit. Raises BadField."""
    signed = given.authorization.erc3009_authorization
    numbers = [int(text, 0 if "x" in text else 10) for text in (signed.valid_before, signed.salt)]
    if max(*numbers, int(signed.valid_after)) > MAX_WORD:
        raise BadField("payload.deposit", "a number of the deposit has more than 256 bits")
    return DepositAuthorization(
        _amount("deposit.amount", given.amount),
        int(signed.valid_after),
        valid_before=numbers[0],
        salt=numbers[1],
        signature=from_hex(signed.signature),
    )


def transfer_of(given: Outright) -> SignedTransfer:
    """Return a signed transfer. Raises BadField."""
    told = given.authorization
    window = (int(told.valid_after), int(told.valid_before))
    if max(window) > MAX_WORD:
        raise BadField("payload.authorization", "a time of the transfer has more than 256 bits")
    transfer = Transfer(
        from_hex(told.payer),
        from_hex(told.to),
        _amount("authorization.value", told.value),
        *window,
        nonce=from_hex(told.nonce),
    )
    return SignedTransfer(transfer, from_hex(given.signature))


def _amount(field: str, text: str) -> int:
    if int(text) > MAX_AMOUNT:
        raise BadField(f"payload.{field}", f"{field} is more than {MAX_AMOUNT}")
    return int(text)
