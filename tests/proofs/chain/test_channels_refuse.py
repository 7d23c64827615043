"""Every way in which the channels, their collector and the dollar refuse, by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proofs.chain.errors import ContractReverted
from proofs.chain.structs import VoucherClaim, claim_values, config_values
from proofs.hextext import to_hex
from proofs.signing import Signer
from tests.proofs.chain.world import START, World, address, secret


def refused(
    world: World, sender: str, contract: str, to: bytes, function: str, *values: object
) -> str:
    """The name of the error that this call ends with."""
    call = {
        "from": to_hex(address(sender)),
        "to": to_hex(to),
        "data": world.rpc.contract(contract, to).encode_abi(function, values),
    }
    with pytest.raises(ContractReverted) as reverted:
        world.rpc.call("eth_call", call, "latest")
    return reverted.value.error


def channels_refuse(world: World, sender: str, function: str, *values: object) -> str:
    return refused(world, sender, "Channels", world.deployment.channels, function, *values)


def deposit(
    world: World, sender: str = "payer", amount: int = 100, stated: int | None = None, **changes
) -> str:
    config = world.config(**changes)
    signed = world.client("payer").channels.authorize_deposit(world.config(), amount)
    from eth_abi import encode

    data = encode(
        ["uint256", "uint256", "uint256", "bytes"],
        [signed.valid_after, signed.valid_before, signed.salt, signed.signature],
    )
    values = (
        config_values(config),
        amount if stated is None else stated,
        world.deployment.collector,
        data,
    )
    return channels_refuse(world, sender, "deposit", *values)


def test_deposits(world: World):
    zero = bytes(20)
    for field in ("payer", "receiver", "receiver_authorizer", "token"):
        assert deposit(world, **{field: zero}) == "IncompleteConfig", field
    assert deposit(world, withdraw_delay=899) == "WithdrawDelayOutOfRange"
    assert deposit(world, withdraw_delay=30 * 86400 + 1) == "WithdrawDelayOutOfRange"
    assert deposit(world, stated=0) == "ZeroAmount"
    assert deposit(world, stated=99) == "ERC3009InvalidSignature"
    assert deposit(world, salt=b"\1" * 32) == "ERC3009InvalidSignature", (
        "a relayer sends the money to another channel"
    )
    assert deposit(world, amount=10**18) == "ERC20InsufficientBalance"


def test_an_authorisation_works_once_and_in_its_time(world: World):
    config = world.config()
    payer = world.client("payer")
    signed = payer.channels.authorize_deposit(config, 100)
    world.client("anybody").channels.relay_deposit(config, signed)  # a stranger may pay the gas
    with pytest.raises(ContractReverted, match="ERC3009UsedAuthorization"):
        payer.channels.relay_deposit(config, signed)
    late = payer.channels.authorize_deposit(config, 100)
    world.rpc.call("evm_increaseTime", 3700)
    with pytest.raises(ContractReverted, match="ERC3009InvalidAuthorizationTime"):
        payer.channels.relay_deposit(config, late)


def test_the_collector_serves_the_channels_only(world: World):
    collector = world.deployment.collector
    values = (address("payer"), world.deployment.token, 5, bytes(32), b"")
    assert (
        refused(world, "other", "Erc3009Collector", collector, "collect", *values) == "NotChannels"
    )
    short = replace(
        world.client("payer").channels.authorize_deposit(world.config(), 5), signature=b"\1" * 64
    )
    with pytest.raises(ContractReverted, match="BadSignatureLength"):
        world.client("payer").channels.relay_deposit(world.config(), short)


def place(world: World, code: bytes) -> bytes:
    """A contract with exactly this code."""
    size = bytes([len(code)])
    copy_and_return = b"\x60" + size + b"\x60\x0c\x60\x00\x39\x60" + size + b"\x60\x00\xf3"
    return world.client("other").wallet.send(b"", copy_and_return + code).contract


def test_a_collector_that_brings_nothing_opens_no_channel(world: World):
    does_nothing = place(world, b"\x00")
    assert (
        channels_refuse(
            world, "payer", "deposit", config_values(world.config()), 5, does_nothing, b""
        )
        == "WrongAmountCollected"
    )


def test_a_collector_cannot_call_back_into_the_channels(world: World):
    world.earn(50)  # so that there would be something to settle
    there = world.deployment
    settle = world.channels("payer").encode("settle", there.settlement, there.token)
    # copy the call data behind this code to memory; call back; pass on what came of it
    code = bytes.fromhex("6044601f60003960006000604460006000335af1503d600060003e3d6000fd") + settle
    values = (config_values(world.config()), 5, place(world, code), b"")
    assert channels_refuse(world, "payer", "deposit", *values) == "ReentrancyGuardReentrantCall"


def test_claims(world: World):
    config = world.config()
    payer = world.client("payer")
    payer.channels.deposit(config, 100)
    good = world.voucher(config, 60)

    def claim(*claims: VoucherClaim, sender: str = "operator") -> str:
        return channels_refuse(world, sender, "claim", [claim_values(one) for one in claims])

    assert claim() == "EmptyBatch"
    assert claim(good, sender="payer") == "NotReceiverSide"
    assert claim(replace(good, total_claimed=61)) == "ClaimExceedsVoucher"
    assert claim(world.voucher(config, 60, signer="other")) == "BadVoucherSignature"
    assert claim(replace(good, config=world.config(salt=b"\2" * 32))) == "BadVoucherSignature", (
        "a voucher of another channel"
    )
    assert claim(world.voucher(config, 101)) == "ClaimExceedsBalance"
    assert claim(good, world.voucher(config, 101)) == "ClaimExceedsBalance", (
        "one bad row undoes the batch"
    )
    high_s = int.from_bytes(good.voucher.signature[32:64], "big")
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    flipped = (
        good.voucher.signature[:32]
        + (order - high_s).to_bytes(32, "big")
        + bytes([55 - good.voucher.signature[64]])
    )
    other_form = type(good.voucher)(good.voucher.channel_id, 60, flipped)
    assert claim(replace(good, voucher=other_form)) == "BadVoucherSignature", "high s"


def test_a_zero_authorizer_means_that_the_payer_signs(world: World):
    config = world.config(payer_authorizer=bytes(20))
    world.client("payer").channels.deposit(config, 100)
    world.client("operator").channels.claim([world.voucher(config, 30)])
    assert (
        channels_refuse(
            world, "operator", "claim", [claim_values(world.voucher(config, 40, signer="other"))]
        )
        == "BadVoucherSignature"
    )


def test_signed_batches(world: World):
    config = world.config()
    other = world.config(to="other")
    for each in (config, other):
        world.client("payer").channels.deposit(each, 100)
    claims = [claim_values(world.voucher(config, 60)), claim_values(world.voucher(other, 60))]
    anybody = world.client("anybody")

    def sign(claims: list[object], signer: str) -> bytes:
        digest = anybody.rpc.read(
            "Channels", world.deployment.channels, "getClaimBatchDigest", claims
        )[0]
        return Signer(secret(signer)).sign_digest(digest)

    assert channels_refuse(world, "anybody", "claimWithSignature", [], b"") == "EmptyBatch"
    assert (
        channels_refuse(
            world, "anybody", "claimWithSignature", claims[:1], sign(claims[:1], "other")
        )
        == "BadAuthorizerSignature"
    )
    assert (
        channels_refuse(
            world, "anybody", "claimWithSignature", claims[:1], sign(claims, "operator")
        )
        == "BadAuthorizerSignature"
    )
    assert (
        channels_refuse(world, "anybody", "claimWithSignature", claims, sign(claims, "operator"))
        == "MixedReceiverAuthorizers"
    )
    world.channels("anybody").send("claimWithSignature", claims[:1], sign(claims[:1], "operator"))
    assert anybody.channels.read(anybody.channels.id_of(config)).total_claimed == 60


def test_withdrawals(world: World):
    config = world.config()
    payer = world.client("payer")
    operator = world.client("operator")
    payer.channels.deposit(config, 100)
    values = config_values(config)
    assert channels_refuse(world, "operator", "initiateWithdraw", values, 10) == "NotPayerSide"
    assert channels_refuse(world, "payer", "initiateWithdraw", values, 0) == "ZeroAmount"
    assert (
        channels_refuse(world, "payer", "initiateWithdraw", values, 101) == "InsufficientUnclaimed"
    )
    assert channels_refuse(world, "payer", "finalizeWithdraw", values) == "NoWithdrawalPending"
    payer.channels.initiate_withdraw(config, 80)
    state = payer.channels.read(payer.channels.id_of(config))
    assert state.withdraw_amount == 80
    assert 0 <= state.withdraw_requested_at - START < 60
    assert channels_refuse(world, "payer", "initiateWithdraw", values, 10) == "WithdrawalPending"
    assert channels_refuse(world, "payer", "finalizeWithdraw", values) == "WithdrawDelayNotOver"
    operator.channels.claim([world.voucher(config, 50)])  # the delay is there for this
    world.rpc.call("evm_increaseTime", 901)
    before = payer.token.balance_of(payer.address)
    assert channels_refuse(world, "operator", "finalizeWithdraw", values) == "NotPayerSide"
    payer.channels.finalize_withdraw(config)
    assert payer.token.balance_of(payer.address) - before == 50, (
        "80 were asked for, 50 were still unclaimed"
    )
    assert (
        channels_refuse(world, "operator", "claim", [claim_values(world.voucher(config, 60))])
        == "ClaimExceedsBalance"
    )


def test_refunds(world: World):
    config = world.config()
    payer = world.client("payer")
    operator = world.client("operator")
    payer.channels.deposit(config, 100)
    channel = payer.channels.id_of(config)
    values = config_values(config)

    def sign(nonce: int, amount: int, signer: str = "operator") -> bytes:
        digest = payer.rpc.read(
            "Channels", world.deployment.channels, "getRefundDigest", channel, nonce, amount
        )[0]
        return Signer(secret(signer)).sign_digest(digest)

    assert channels_refuse(world, "payer", "refund", values, 10) == "NotReceiverSide"
    assert channels_refuse(world, "operator", "refund", values, 0) == "ZeroAmount"
    assert (
        channels_refuse(world, "anybody", "refundWithSignature", values, 10, 1, sign(1, 10))
        == "WrongRefundNonce"
    )
    assert (
        channels_refuse(world, "anybody", "refundWithSignature", values, 10, 0, sign(0, 11))
        == "BadAuthorizerSignature"
    )
    assert (
        channels_refuse(
            world, "anybody", "refundWithSignature", values, 10, 0, sign(0, 10, "other")
        )
        == "BadAuthorizerSignature"
    )
    payer.channels.initiate_withdraw(config, 90)
    before = payer.token.balance_of(payer.address)
    world.channels("anybody").send("refundWithSignature", values, 10, 0, sign(0, 10))
    assert (
        channels_refuse(world, "anybody", "refundWithSignature", values, 10, 0, sign(0, 10))
        == "WrongRefundNonce"
    )
    assert payer.channels.read(channel).withdraw_amount == 80
    operator.channels.refund(config, 1_000)
    assert payer.token.balance_of(payer.address) - before == 100
    assert payer.channels.read(channel) == replace(
        payer.channels.read(channel), balance=0, withdraw_amount=0, refund_nonce=2
    )


def test_the_dollar_has_its_faucet_on_development_chains_only():
    from proofs.chain.deploy import deploy_dev_dollar
    from proofs.chain.devchain import FUND_WEI
    from proofs.chain.evm import MemoryChain
    from proofs.chain.local_rpc import memory_rpc
    from proofs.chain.wallet import Wallet

    rpc = memory_rpc(MemoryChain(1, {}, {address("deployer"): FUND_WEI}))
    with pytest.raises(ContractReverted, match="NotADevelopmentChain"):
        deploy_dev_dollar(Wallet(rpc, secret("deployer"), 1))
