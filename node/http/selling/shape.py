"""Writes x402's headers, PAYMENT-REQUIRED and PAYMENT-RESPONSE, and what the price and usage routes
say.

Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec

from proofs.digest import checksummed
from proofs.hextext import to_hex
from proofs.offers import Offer, Served

from ...api.sales import SaleTerms, Settled, SignedTransfer, Standing
from .body import OUTRIGHT, SCHEME, network_of

TIMEOUT_S = 600  # how long a signed deposit stays valid
USUAL_REQUESTS = 5  # so many answers a client is told to deposit for at once
EXTENSION = "offer-receipt"


def required(
    terms: SaleTerms,
    url: str,
    amount: int,
    error: str,
    standing: Standing | None = None,
) -> dict[str, Any]:
    """Write what has to be paid, in each way that is taken, and why what was paid is not taken;
    `standing` lets the payer sign anew.
    """
    accepts = [_by_channel(terms, amount, standing)] if terms.takes_channels else []
    return {
        "x402Version": 2,
        "error": error,
        "resource": {"url": url, "mimeType": "application/json"},
        "accepts": [*accepts, outright(terms, amount)],
    }


def _by_channel(terms: SaleTerms, amount: int, standing: Standing | None) -> dict[str, Any]:
    extra: dict[str, Any] = {
        "receiverAuthorizer": to_hex(terms.operator),
        "withdrawDelay": terms.withdraw_delay_s,
        "name": terms.token_name,
        "version": terms.token_version,
        "assetTransferMethod": "eip3009",
        "minDeposit": str(max(terms.min_deposit, USUAL_REQUESTS * amount)),
    }
    if standing is not None:
        extra["channelState"] = channel_state(standing)
        if standing.signature:
            extra["voucherState"] = {
                "signedMaxClaimable": str(standing.signed),
                "signature": to_hex(standing.signature),
            }
    return {
        "scheme": SCHEME,
        "network": network_of(terms),
        "amount": str(amount),
        "asset": to_hex(terms.token),
        "payTo": to_hex(terms.receiver),
        "maxTimeoutSeconds": TIMEOUT_S,
        "extra": extra,
    }


def outright(terms: SaleTerms, amount: int) -> dict[str, Any]:
    """Write what an outright payment must be, as x402's PaymentRequirements."""
    return {
        "scheme": OUTRIGHT,
        "network": network_of(terms),
        "amount": str(terms.outright(amount)),
        "asset": checksummed(terms.token),
        "payTo": checksummed(terms.payee),
        "maxTimeoutSeconds": TIMEOUT_S,
        "extra": {
            "name": terms.token_name,
            "version": terms.token_version,
            "assetTransferMethod": "eip3009",
        },
    }


def outright_payload(accepted: dict[str, Any], signed: SignedTransfer) -> dict[str, Any]:
    """Write an outright payment, as x402's PaymentPayload."""
    transfer = signed.transfer
    authorization = {
        "from": checksummed(transfer.payer),
        "to": checksummed(transfer.to),
        "value": str(transfer.amount),
        "validAfter": str(transfer.valid_after),
        "validBefore": str(transfer.valid_before),
        "nonce": to_hex(transfer.nonce),
    }
    payload = {"signature": to_hex(signed.signature), "authorization": authorization}
    return {"x402Version": 2, "payload": payload, "accepted": accepted}


def offers_of(told: dict[str, Any]) -> list[Offer]:
    """Return what of a 402 is signed: an offer for each way to pay."""
    names = ("scheme", "network", "asset", "payTo", "amount")
    url = told["resource"]["url"]
    return [Offer(url, *(accepted[name] for name in names)) for accepted in told["accepts"]]


def served(terms: SaleTerms, url: str, payer: bytes, now: int) -> Served:
    """Return what is signed when a request was paid and served."""
    return Served(network_of(terms), url, to_hex(payer), now)


Sign = Callable[[Offer | Served], bytes]


def signed_offers(offers: list[Offer], sign: Sign) -> dict[str, Any]:
    """Write offers as x402's extension has them in `extensions`."""
    shown = [_signed(one, sign) | {"acceptIndex": place} for place, one in enumerate(offers)]
    return _extension("offers", shown)


def signed_receipt(said: Served, sign: Sign) -> dict[str, Any]:
    """Write a receipt so."""
    return _extension("receipt", _signed(said, sign))


def _signed(said: Offer | Served, sign: Sign) -> dict[str, Any]:
    payload = msgspec.to_builtins(said)
    return {"format": "eip712", "payload": payload, "signature": to_hex(sign(said))}


def _extension(kind: str, info: object) -> dict[str, Any]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {kind: {"type": "array" if kind == "offers" else "object"}},
        "required": [kind],
    }
    return {EXTENSION: {"info": {kind: info}, "schema": schema}}


def settled(terms: SaleTerms, paid: Settled, *, failed: bool) -> dict[str, Any]:
    """Write what became of an outright payment; where the answer failed it is given back."""
    return {
        "success": not failed,
        "transaction": paid.transaction,
        "network": network_of(terms),
        "payer": to_hex(paid.payer),
        "amount": str(paid.amount),
    } | ({"errorReason": "given_back"} if failed else {})


def response(terms: SaleTerms, standing: Standing, charged: int | None) -> dict[str, Any]:
    """Write what became of a voucher; `charged` None is not known yet: the answer streams."""
    extra: dict[str, Any] = {} if charged is None else {"chargedAmount": str(charged)}
    extra["channelState"] = channel_state(standing)
    if charged is None:
        del extra["channelState"]["chargedCumulativeAmount"]
    return {
        "success": True,
        "transaction": standing.transaction,
        "network": network_of(terms),
        "payer": to_hex(standing.payer),
        "amount": str(standing.moved) if standing.moved else "",
        "extra": extra,
    }


def channel_state(standing: Standing) -> dict[str, Any]:
    """Write where a channel stands."""
    return {
        "channelId": to_hex(standing.channel_id),
        "balance": str(standing.balance),
        "totalClaimed": str(standing.total_claimed),
        "withdrawRequestedAt": standing.withdraw_requested_at,
        "refundNonce": str(standing.refund_nonce),
        "chargedCumulativeAmount": str(standing.charged),
    }


def prices(terms: SaleTerms) -> dict[str, Any]:
    """Write what tokens cost; the price of one request is what its 402 says."""
    return {
        "schemes": [SCHEME, OUTRIGHT] if terms.takes_channels else [OUTRIGHT],
        "network": network_of(terms),
        "asset": to_hex(terms.token),
        "prompt_token": str(terms.prompt_price),
        "completion_token": str(terms.completion_price),
        "least_for_each_who_is_paid": str(terms.least_fee),
        "min_deposit": str(terms.min_deposit),
        "least_outright": str(terms.least_transfer),
        "max_amount": str(terms.max_amount),
    }


def header(value: object) -> bytes:
    """Write a header's value: base64 of JSON."""
    return base64.b64encode(msgspec.json.encode(value))
