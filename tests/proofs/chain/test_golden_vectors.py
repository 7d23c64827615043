"""The golden vectors of channels and deposits, computed by the contracts.

Those of trees, headers and digests are computed by contracts/test/Golden.t.sol.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proofs.chain.deploy import CHANNELS, placed_code
from proofs.chain.devchain import CHAIN_ID, FUND_WEI
from proofs.chain.errors import ContractReverted
from proofs.chain.evm import MemoryChain
from proofs.chain.local_rpc import memory_rpc
from proofs.chain.structs import config_values
from proofs.chain.wallet import Wallet
from proofs.hextext import from_hex, to_hex
from proofs.voucher import ChannelConfig
from tests.proofs.chain.world import memory_world, secret

GOLDEN = Path(__file__).parents[2] / "golden"


def load(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def test_channel_ids_and_voucher_digests():
    golden = load("digests.json")
    rpc = memory_rpc(MemoryChain(golden["chain_id"], placed_code(), {}))
    assert golden["channels"] == CHANNELS.hex()

    def read(function: str, *values: object) -> str:
        return rpc.read("Channels", CHANNELS, function, *values)[0].hex()

    config = ChannelConfig(
        **{
            name: value if isinstance(value, int) else bytes.fromhex(value)
            for name, value in golden["config"].items()
        }
    )
    assert read("getChannelId", config_values(config)) == golden["channel_id"]
    assert (
        read("getVoucherDigest", bytes.fromhex(golden["channel_id"]), golden["voucher_amount"])
        == golden["voucher_digest"]
    )


class Golden:
    """A chain whose token stands where the golden network has it."""

    def __init__(self) -> None:
        self.vector = load("channel.json")
        token = bytes.fromhex(self.vector["network"]["token"])
        there = memory_world(())[0]
        code = there.rpc.call("eth_getCode", to_hex(there.deployment.token), "latest")
        sender = Wallet(there.rpc, secret("deployer"), CHAIN_ID).address
        chain = MemoryChain(CHAIN_ID, {**placed_code(), token: from_hex(code)}, {sender: FUND_WEI})
        self.rpc = memory_rpc(chain)
        self.wallet = Wallet(self.rpc, secret("deployer"), CHAIN_ID)
        payer = bytes.fromhex(self.vector["client"]["address"])
        mint = self.rpc.contract("DevDollar", token).encode_abi("mint", (payer, 5_000_000))
        self.wallet.send(token, from_hex(mint))

    def balance(self, config: dict[str, Any]) -> int:
        channel = bytes.fromhex(config["channel_id"])
        return int(self.rpc.read("Channels", CHANNELS, "channels", channel)[0])

    def refusal(self, config: dict[str, Any]) -> str:
        """What the contract says of the golden deposit into another channel."""
        call = bytes.fromhex(self.vector["deposit"]["call"])
        usual = encode_config(self.vector["accept"][0])
        assert usual in call
        with pytest.raises(ContractReverted) as reverted:
            self.wallet.send(CHANNELS, call.replace(usual, encode_config(config)))
        return reverted.value.error


def encode_config(vector: dict[str, Any]) -> bytes:
    """Seven words."""
    words = (
        value.to_bytes(32, "big") if isinstance(value, int) else bytes.fromhex(value)
        for value in vector["config"].values()
    )
    return b"".join(word.rjust(32, b"\0") for word in words)


def test_the_deposit_reaches_the_channel_it_was_signed_for_once_and_no_other():
    golden = Golden()
    deposit = golden.vector["deposit"]
    usual, *others = golden.vector["accept"]
    for config in others:
        assert golden.refusal(config) == "ERC3009InvalidSignature", config["why"]
    golden.wallet.send(CHANNELS, bytes.fromhex(deposit["call"]))
    assert golden.balance(usual) == deposit["amount"]
    assert golden.refusal(usual) == "ERC3009UsedAuthorization"


def test_the_contract_refuses_these_channels_whoever_deposits():
    golden = Golden()
    refused = [golden.refusal(config) for config in golden.vector["refused_by_the_contract"]]
    assert refused == ["IncompleteConfig", "WithdrawDelayOutOfRange"]
