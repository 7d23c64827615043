"""The installed x402 client and facilitator, as they are, against our contracts: deposit, voucher,
claim, settle, refund.
"""

from __future__ import annotations

import pytest

from tests.proofs.chain.world import NAMES, World, secret

pytest.importorskip("x402.mechanisms.evm.batch_settlement")

from eth_account import Account
from eth_utils import to_checksum_address
from x402.mechanisms.evm.batch_settlement.authorizer_signer import (
    LocalAuthorizerSigner,
    sign_claim_batch,
    sign_refund,
)
from x402.mechanisms.evm.batch_settlement.client.scheme import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.client.storage import BatchSettlementClientContext
from x402.mechanisms.evm.batch_settlement.facilitator import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as X402Config
from x402.mechanisms.evm.batch_settlement.types import VoucherClaim as X402Claim
from x402.mechanisms.evm.signers import EthAccountSigner, FacilitatorWeb3Signer
from x402.schemas import PaymentPayload, PaymentRequirements

from proofs.voucher import ChannelConfig, channel_id, verify_voucher
from proofs.voucher import Voucher as OurVoucher

NETWORK = "eip155:31337"
assert "payer" in NAMES


def requirements_of(served: World, amount: int = 100) -> PaymentRequirements:
    return PaymentRequirements(
        scheme="batch-settlement",
        network=NETWORK,
        asset=to_checksum_address(served.deployment.token),
        amount=str(amount),
        pay_to=to_checksum_address(served.deployment.settlement),
        max_timeout_seconds=600,
        extra={
            "receiverAuthorizer": Account.from_key(secret("operator")).address,
            "withdrawDelay": 900,
            "name": "Dev Dollar",
            "version": "1",
        },
    )


def pay(client: BatchSettlementEvmScheme, requirements: PaymentRequirements) -> PaymentPayload:
    return PaymentPayload(
        payload=client.create_payment_payload(requirements), accepted=requirements
    )


def ours(config: X402Config) -> ChannelConfig:
    parties = (
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
    )
    salt = bytes.fromhex(config.salt[2:])
    return ChannelConfig(
        *(bytes.fromhex(party[2:]) for party in parties), config.withdraw_delay, salt
    )


@pytest.fixture
def facilitator(served: World) -> BatchSettlementEvmFacilitator:
    signer = FacilitatorWeb3Signer(
        secret("anybody").hex(), served.rpc.url, confirmation_timeout_seconds=20
    )
    return BatchSettlementEvmFacilitator(
        signer, LocalAuthorizerSigner("0x" + secret("operator").hex())
    )


def test_a_whole_life_of_a_channel(served: World, facilitator: BatchSettlementEvmFacilitator):
    client = BatchSettlementEvmScheme(EthAccountSigner(Account.from_key(secret("payer"))))
    requirements = requirements_of(served)
    chain = served.client("operator")
    config = client.build_channel_config(requirements)
    channel = chain.channels.id_of(ours(config))

    first = pay(client, requirements)
    assert first.payload["type"] == "deposit"
    assert first.payload["voucher"]["channelId"] == "0x" + channel.hex(), (
        "x402 and we name the channel alike"
    )
    verified = facilitator.verify(first, requirements)
    assert verified.is_valid, (verified.invalid_reason, verified.invalid_message)
    deposited = facilitator.settle(first, requirements)
    assert deposited.success, (deposited.error_reason, deposited.error_message)
    assert chain.channels.read(channel).balance == 500

    client._storage.set(
        first.payload["voucher"]["channelId"].lower(),
        BatchSettlementClientContext(charged_cumulative_amount="100", balance="500"),
    )
    second = pay(client, requirements)
    assert second.payload["type"] == "voucher"
    voucher = second.payload["voucher"]
    assert voucher["maxClaimableAmount"] == "200"
    assert facilitator.verify(second, requirements).is_valid
    verify_voucher(
        OurVoucher(channel, 200, bytes.fromhex(voucher["signature"][2:])),
        ours(config),
        chain.network,
    )

    claims = [
        X402Claim(
            channel=config,
            max_claimable_amount="200",
            signature=voucher["signature"],
            total_claimed="150",
        )
    ]
    settled_before = chain.token.balance_of(served.deployment.settlement)
    claim = {"type": "claim", "claims": [one.to_dict() for one in claims]}
    for payload in (
        claim,
        {"type": "settle", "receiver": requirements.pay_to, "token": requirements.asset},
    ):
        done = facilitator.settle(
            PaymentPayload(payload=payload, accepted=requirements), requirements
        )
        assert done.success, (done.error_reason, done.error_message)
    assert chain.channels.read(channel).total_claimed == 150
    assert chain.token.balance_of(served.deployment.settlement) - settled_before == 150

    signer = LocalAuthorizerSigner("0x" + secret("operator").hex())
    again = [
        X402Claim(
            channel=config,
            max_claimable_amount="200",
            signature=voucher["signature"],
            total_claimed="200",
        )
    ]
    refund = {
        "type": "refund",
        "channelConfig": config.to_dict(),
        "voucher": voucher,
        "amount": "1000",
        "refundNonce": "0",
        "claims": [one.to_dict() for one in again],
        "refundAuthorizerSignature": sign_refund(signer, "0x" + channel.hex(), 1000, 0, NETWORK),
        "claimAuthorizerSignature": sign_claim_batch(signer, again, NETWORK),
    }
    done = facilitator.settle(PaymentPayload(payload=refund, accepted=requirements), requirements)
    assert done.success, (done.error_reason, done.error_message)
    state = chain.channels.read(channel)
    assert (state.balance, state.total_claimed, state.refund_nonce) == (200, 200, 1)


def test_the_facilitator_sees_why_a_deposit_fails(
    served: World, facilitator: BatchSettlementEvmFacilitator
):
    client = BatchSettlementEvmScheme(EthAccountSigner(Account.from_key(secret("penniless"))))
    requirements = requirements_of(served)
    verified = facilitator.verify(pay(client, requirements), requirements)
    assert not verified.is_valid
    assert verified.invalid_reason == "invalid_batch_settlement_evm_insufficient_balance"


def test_channel_ids_agree_for_a_zero_authorizer_too(served: World):
    chain = served.client("operator")
    for changes in (
        {},
        {"payer_authorizer": bytes(20)},
        {"withdraw_delay": 2**40 - 1},
        {"salt": b"\xff" * 32},
    ):
        config = served.config(**changes)
        from proofs.chain.structs import config_values

        on_chain = chain.rpc.read(
            "Channels", served.deployment.channels, "getChannelId", config_values(config)
        )[0]
        assert channel_id(config, chain.network) == on_chain
