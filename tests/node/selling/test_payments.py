"""What a PAYMENT-SIGNATURE header may be."""

from __future__ import annotations

import base64
import json
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.sales import Payment, Refund, SaleTerms, SignedTransfer
from node.http.fields import BadField
from node.http.selling.body import MAX_AMOUNT, read_payment
from proofs.chain.token import Transfer
from proofs.voucher import channel_id, sign_voucher
from tests.proofs.scene import NETWORK, config, signer

TERMS = SaleTerms(
    NETWORK.chain_id,
    NETWORK.settlement,
    signer("node").address,
    NETWORK.token,
    token_name="Dev Dollar",
    token_version="1",
    withdraw_delay_s=86_400,
    prompt_price=10,
    completion_price=50,
    least_fee=100,
    min_deposit=20_000,
    max_amount=100_000,
    payee=bytes([7]) * 20,
    least_transfer=2_000,
)
VOUCHER = sign_voucher(signer("client"), channel_id(config(), NETWORK), 2_570, NETWORK)


def told(**payload: Any) -> dict[str, Any]:
    """A payment, as x402 words it."""
    channel = config()
    shown = {
        "payer": channel.payer,
        "payerAuthorizer": channel.payer_authorizer,
        "receiver": channel.receiver,
        "receiverAuthorizer": channel.receiver_authorizer,
        "token": channel.token,
        "salt": channel.salt,
    }
    given = {
        "type": "voucher",
        "channelConfig": {name: "0x" + data.hex() for name, data in shown.items()}
        | {"withdrawDelay": channel.withdraw_delay},
        "voucher": {
            "channelId": "0x" + VOUCHER.channel_id.hex(),
            "maxClaimableAmount": str(VOUCHER.max_claimable_amount),
            "signature": "0x" + VOUCHER.signature.hex().upper(),
        },
    }
    accepted = {
        "scheme": "batch-settlement",
        "network": f"eip155:{NETWORK.chain_id}",
        "amount": "1",
    }
    return {"x402Version": 2, "payload": given | payload, "accepted": accepted, "resource": None}


def header(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


SIGNED = {
    "validAfter": "0",
    "validBefore": "4000000000",
    "salt": "0xff",
    "signature": "0x" + "1b" * 65,
}
DEPOSIT = {"amount": "50000", "authorization": {"erc3009Authorization": SIGNED}}


def test_a_voucher_a_deposit_and_a_refund_are_read() -> None:
    paid = read_payment(header(told()), TERMS)
    assert paid == Payment(config(), VOUCHER)
    first = read_payment(header(told(type="deposit", deposit=DEPOSIT)), TERMS)
    assert isinstance(first, Payment)
    assert first.deposit is not None
    assert (first.deposit.amount, first.deposit.salt) == (50_000, 255)
    assert read_payment(header(told(type="refund", amount="7")), TERMS) == Refund(
        config(), VOUCHER, 7
    )


AUTHORIZED = {
    "from": "0x" + "Ab" * 20,
    "to": "0x" + "07" * 20,
    "value": "2570",
    "validAfter": "0",
    "validBefore": "4000000000",
    "nonce": "0x" + "05" * 32,
}


def outright(**changes: str) -> dict[str, Any]:
    """An outright payment, as x402 words it."""
    payload = {"signature": "0x" + "1b" * 65, "authorization": AUTHORIZED | changes}
    accepted = {"scheme": "exact", "network": f"eip155:{NETWORK.chain_id}"}
    return {"x402Version": 2, "payload": payload, "accepted": accepted}


def test_an_outright_payment_is_read_also_where_no_voucher_is_taken() -> None:
    read = SignedTransfer(
        Transfer(
            bytes([0xAB]) * 20,
            bytes([7]) * 20,
            2_570,
            0,
            valid_before=4_000_000_000,
            nonce=bytes([5]) * 32,
        ),
        bytes([0x1B]) * 65,
    )
    alone = replace(TERMS, takes_channels=False)
    assert read_payment(header(outright()), TERMS) == read
    assert read_payment(header(outright()), alone) == read
    with pytest.raises(BadField, match="pay by exact"):
        read_payment(header(told()), alone)


@pytest.mark.parametrize(
    "value",
    [
        outright(value="-1"),
        outright(value=str(MAX_AMOUNT + 1)),
        outright(validBefore="9" * 78),
        outright(nonce="0x"),
        outright() | {"payload": {"permit2Authorization": {}}},
        told(type="deposit"),
        told(type="claim"),
        told(voucher={}),
        told(type="deposit", deposit=DEPOSIT | {"amount": "-1"}),
        told(type="deposit", deposit=DEPOSIT | {"amount": str(MAX_AMOUNT + 1)}),
        told(type="deposit", deposit=DEPOSIT | {"authorization": {"permit2Authorization": {}}}),
        told(
            type="deposit",
            deposit={
                "amount": "1",
                "authorization": {"erc3009Authorization": SIGNED | {"salt": "9" * 78}},
            },
        ),
        told() | {"x402Version": 1},
        told() | {"accepted": {"scheme": "exact", "network": f"eip155:{NETWORK.chain_id}"}},
        told() | {"accepted": {"scheme": "batch-settlement", "network": "eip155:1"}},
        [],
        None,
        7,
    ],
)
def test_what_has_another_form_is_refused_by_its_field(value: object) -> None:
    with pytest.raises(BadField) as caught:
        read_payment(header(value), TERMS)
    assert caught.value.field


def test_another_chain_is_another_network() -> None:
    with pytest.raises(BadField, match="eip155:8453"):
        read_payment(header(told()), replace(TERMS, chain_id=8453))


@given(st.integers(0, 2**32))
def test_a_mutated_header_is_read_or_refused(seed: int) -> None:
    dice = random.Random(seed)
    data = bytearray(json.dumps(told(type="deposit", deposit=DEPOSIT)).encode())
    for _ in range(dice.randint(1, 3)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    with suppress(BadField):
        read_payment(base64.b64encode(bytes(data)).decode(), TERMS)


@given(st.text(max_size=200))
def test_any_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadField):
        read_payment(text, TERMS)
