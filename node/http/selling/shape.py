"""Writes x402's headers, PAYMENT-REQUIRED and PAYMENT-RESPONSE, and what the price and usage routes
say.

Pure.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from proofs.hextext import to_hex
from proofs.offers import Offer, Served

from ...sale_api import SaleTerms, Standing
from .body import SCHEME, network_of

TIMEOUT_S = 600  # how long a signed deposit stays valid
USUAL_REQUESTS = 5  # so many answers a client is told to deposit for at once
ERROR = "invalid_batch_settlement_evm_"
EXTENSION = "offer-receipt"


def required(
    terms: SaleTerms,
    url: str,
    amount: int,
    error: str,
    standing: Standing | None = None,
) -> dict[str, Any]:
    """Write what has to be paid, and why what was paid is not taken; `standing` lets the payer sign
    anew.
    """
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
    accepted = {
        "scheme": SCHEME,
        "network": network_of(terms),
        "amount": str(amount),
        "asset": to_hex(terms.token),
        "payTo": to_hex(terms.receiver),
        "maxTimeoutSeconds": TIMEOUT_S,
        "extra": extra,
    }
    return {
        "x402Version": 2,
        "error": error,
        "resource": {"url": url, "mimeType": "application/json"},
        "accepts": [accepted],
    }


def offer_of(told: dict[str, Any]) -> Offer:
    """Return what of a 402 is signed."""
    accepted = told["accepts"][0]
    names = ("scheme", "network", "asset", "payTo", "amount")
    return Offer(told["resource"]["url"], *(accepted[name] for name in names))


def served(terms: SaleTerms, url: str, payer: bytes, now: int) -> Served:
    """Return what is signed when a request was paid and served."""
    return Served(network_of(terms), url, to_hex(payer), now)


def signed(kind: str, said: Offer | Served, signature: bytes) -> dict[str, Any]:
    """Write a signed `offers` or `receipt` as x402's extension has it in `extensions`."""
    shown = {
        "format": "eip712",
        "payload": msgspec.to_builtins(said),
        "signature": to_hex(signature),
    }
    info: object = [shown | {"acceptIndex": 0}] if kind == "offers" else shown
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {kind: {"type": "array" if kind == "offers" else "object"}},
        "required": [kind],
    }
    return {EXTENSION: {"info": {kind: info}, "schema": schema}}


def response(terms: SaleTerms, standing: Standing, charged: int | None) -> dict[str, Any]:
    """Write what became of a payment; `charged` None is not known yet: the answer streams."""
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
        "scheme": SCHEME,
        "network": network_of(terms),
        "asset": to_hex(terms.token),
        "payTo": to_hex(terms.receiver),
        "prompt_token": str(terms.prompt_price),
        "completion_token": str(terms.completion_price),
        "least_for_each_who_is_paid": str(terms.least_fee),
        "min_deposit": str(terms.min_deposit),
        "max_amount": str(terms.max_amount),
    }


def header(value: object) -> bytes:
    """Write a header's value: base64 of JSON."""
    return base64.b64encode(msgspec.json.encode(value))
