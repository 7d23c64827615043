from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement import compute_channel_id
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as X402Config

from proofs.errors import VoucherError
from proofs.voucher import (
    ChannelConfig,
    Voucher,
    channel_id,
    check_channel,
    sign_voucher,
    verify_voucher,
)
from tests.proofs.scene import NETWORK, config, replace_network, signer

addresses = st.binary(min_size=20, max_size=20)
configs = st.builds(
    ChannelConfig,
    addresses,
    addresses,
    addresses,
    addresses,
    addresses,
    st.integers(0, 2**40 - 1),
    st.binary(min_size=32, max_size=32),
)


@given(configs, st.integers(1, 2**53))
@settings(max_examples=50)
def test_channel_id_equals_x402s_for_any_config_and_chain(
    given_config: ChannelConfig, chain_id: int
) -> None:
    parties = (
        given_config.payer,
        given_config.payer_authorizer,
        given_config.receiver,
        given_config.receiver_authorizer,
        given_config.token,
    )
    theirs = X402Config(
        *["0x" + party.hex() for party in parties],
        given_config.withdraw_delay,
        "0x" + given_config.salt.hex(),
    )
    ours = channel_id(given_config, replace_network(chain_id=chain_id))
    assert "0x" + ours.hex() == compute_channel_id(theirs, chain_id)


def test_voucher_of_the_payer_verifies_where_no_authorizer_is_named() -> None:
    plain = msgspec.structs.replace(config(), payer_authorizer=bytes(20))
    verify_voucher(
        sign_voucher(signer("client"), channel_id(plain, NETWORK), 5, NETWORK), plain, NETWORK
    )


def test_voucher_of_the_payer_is_refused_where_an_authorizer_is_named() -> None:
    other = msgspec.structs.replace(config(), payer_authorizer=signer("authorizer").address)
    channel = channel_id(other, NETWORK)
    verify_voucher(sign_voucher(signer("authorizer"), channel, 5, NETWORK), other, NETWORK)
    with pytest.raises(VoucherError, match="voucher signature"):
        verify_voucher(sign_voucher(signer("client"), channel, 5, NETWORK), other, NETWORK)


def test_voucher_is_worth_nothing_with_another_amount_channel_or_network() -> None:
    channel = channel_id(config(), NETWORK)
    good = sign_voucher(signer("client"), channel, 100, NETWORK)
    verify_voucher(good, config(), NETWORK)
    elsewhere = replace_network(chain_id=1)
    for voucher, network in (
        (Voucher(channel, 101, good.signature), NETWORK),
        (Voucher(channel, 100, bytes(65)), NETWORK),
        (Voucher(channel_id(config(nonce=1), NETWORK), 100, good.signature), NETWORK),
        (good, elsewhere),
        (Voucher(channel_id(config(), elsewhere), 100, good.signature), elsewhere),
    ):
        with pytest.raises(VoucherError):
            verify_voucher(voucher, config(), network)


@pytest.mark.parametrize(
    ("invariant", "changes"),
    [
        ("receiver", {"receiver": bytes(20)}),
        ("token", {"token": bytes(20)}),
        # The client names itself and could refund everything at once.
        ("receiver authorizer", {"receiver_authorizer": signer("client").address}),
        ("receiver authorizer", {"receiver_authorizer": bytes(20)}),
        ("client", {"payer": bytes(20), "payer_authorizer": bytes([1]) * 20}),
    ],
)
def test_channel_that_does_not_pay_this_operator_for_this_client_is_named(
    invariant: str, changes: dict[str, bytes]
) -> None:
    check_channel(config(), signer("node").address, signer("client").address, NETWORK)
    with pytest.raises(VoucherError) as caught:
        check_channel(
            msgspec.structs.replace(config(), **changes),
            signer("node").address,
            signer("client").address,
            NETWORK,
        )
    assert caught.value.invariant == invariant
