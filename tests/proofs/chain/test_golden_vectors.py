"""The golden vectors that Python computes, computed by the contracts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from proofs.chain.deploy import CHANNELS, placed_code
from proofs.chain.evm import MemoryChain
from proofs.chain.structs import config_values, header_values
from proofs.epoch import EpochHeader
from proofs.voucher import ChannelConfig
from tests.proofs.chain.world import World, memory_rpc

GOLDEN = Path(__file__).parents[2] / "golden"


def load(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def test_payout_trees(world: World):
    client = world.client("anybody")
    num_checked = 0
    for tree in load("sumtree.json"):
        for leaf in tree["accounts"]:
            siblings = [
                (int(other["sum"]), bytes.fromhex(other["hash"]), other["is_left"])
                for other in leaf["siblings"]
            ]
            values = (bytes.fromhex(leaf["account"]), int(leaf["amount"]), siblings)
            root = client._read("Settlement", world.deployment.settlement, "payoutRootOf", *values)
            assert root == (int(tree["root"]["sum"]), bytes.fromhex(tree["root"]["hash"]))
            num_checked += 1
    assert num_checked > 30


def test_headers(world: World):
    for entry in load("header.json"):
        digest = entry.pop("hash")
        counts = ("epoch", "num_receipts", "payout_total")
        header = EpochHeader(
            **{
                name: int(value) if name in counts else bytes.fromhex(value)
                for name, value in entry.items()
            }
        )
        assert (
            world.client("anybody")
            ._read("Settlement", world.deployment.settlement, "headerHash", header_values(header))[
                0
            ]
            .hex()
            == digest
        )


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
