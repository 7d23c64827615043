"""The golden vectors are what our code computes, and what other people's code computes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from eth_abi import encode as abi_encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from x402.mechanisms.evm.batch_settlement import compute_channel_id
from x402.mechanisms.evm.batch_settlement.constants import CHANNEL_CONFIG_TYPES, VOUCHER_TYPES
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as X402Config
from x402.mechanisms.evm.batch_settlement.utils import (
    channel_config_to_signing_message,
    get_batch_settlement_eip712_domain,
)

from proofs.sumtree import Proof, SumNode, verify
from tests.golden.generate import FOLDER, VECTORS


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def digest_of(domain: dict[str, Any], types: dict[str, Any], message: dict[str, Any]) -> bytes:
    signable = encode_typed_data(domain_data=domain, message_types=types, message_data=message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def x402_config(vector: dict[str, Any]) -> X402Config:
    config = vector["config"]
    parties = [
        "0x" + config[name]
        for name in ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token")
    ]
    return X402Config(*parties, config["withdraw_delay"], "0x" + config["salt"])


@pytest.mark.parametrize("name", VECTORS)
def test_our_code_computes_the_vectors(name: str) -> None:
    assert VECTORS[name]() == load(name)


def test_channel_id_is_the_one_of_x402() -> None:
    vector = load("digests")
    config = x402_config(vector)
    assert compute_channel_id(config, vector["chain_id"]) == "0x" + vector["channel_id"]
    domain = get_batch_settlement_eip712_domain(vector["chain_id"])
    assert (
        digest_of(domain, CHANNEL_CONFIG_TYPES, channel_config_to_signing_message(config)).hex()
        == vector["channel_id"]
    )


def test_voucher_is_signed_as_the_x402_types_and_eth_account_sign_it() -> None:
    vector = load("digests")
    domain = get_batch_settlement_eip712_domain(vector["chain_id"])
    message = {
        "channelId": bytes.fromhex(vector["channel_id"]),
        "maxClaimableAmount": vector["voucher_amount"],
    }
    assert digest_of(domain, VOUCHER_TYPES, message).hex() == vector["voucher_digest"]
    signature = Account.sign_typed_data(
        bytes.fromhex(vector["client_secret"]), domain, VOUCHER_TYPES, message
    ).signature
    assert bytes(signature).hex() == vector["voucher_signature"]


def test_header_hash_is_that_of_the_abi_encoding() -> None:
    for vector in load("header"):
        hashes = {
            name: bytes.fromhex(vector[name])
            for name in (
                "previous",
                "receipts_root",
                "channels_root",
                "payout_root",
                "batch_digest",
            )
        }
        epoch, num_receipts, total = (
            int(vector[name]) for name in ("epoch", "num_receipts", "payout_total")
        )
        values = (
            epoch,
            hashes["previous"],
            hashes["receipts_root"],
            num_receipts,
            hashes["channels_root"],
            hashes["payout_root"],
            total,
            hashes["batch_digest"],
        )
        types = (
            "uint64",
            "bytes32",
            "bytes32",
            "uint64",
            "bytes32",
            "bytes32",
            "uint128",
            "bytes32",
        )
        assert keccak(abi_encode(types, values)).hex() == vector["hash"]


def test_sum_trees_are_those_of_a_tree_written_down_naively() -> None:
    def bytes16(amount: int) -> bytes:
        return amount.to_bytes(16, "big")

    def root(leaves: list[tuple[int, bytes]]) -> tuple[int, bytes]:
        if len(leaves) < 2:
            return leaves[0] if leaves else (0, bytes(32))
        half = max(1 << bit for bit in range(10) if 1 << bit < len(leaves))
        left, left_hash = root(leaves[:half])
        right, right_hash = root(leaves[half:])
        joined = bytes16(left) + left_hash + bytes16(right) + right_hash
        return left + right, keccak(b"\1" + joined)

    def plain(shown: dict[str, str]) -> tuple[int, bytes]:
        return int(shown["sum"]), bytes.fromhex(shown["hash"])

    vectors = load("sumtree")
    for shown, content in zip(vectors["leaves"], vectors["contents"], strict=True):
        data = bytes.fromhex(content)
        assert plain(shown) == (int.from_bytes(data[20:], "big"), keccak(b"\0" + data))
    for number, tree in enumerate([*vectors["grown"], vectors["changed"], vectors["largest_sum"]]):
        leaves = [plain(proof["leaf"]) for proof in tree["proofs"]]
        if number < len(vectors["grown"]):
            assert leaves == [plain(shown) for shown in vectors["leaves"][: tree["size"]]]
        total, digest = root(leaves)
        assert (total, digest) == plain(tree["root"])
        head = b"\2" + tree["size"].to_bytes(8, "big")
        assert keccak(head + bytes16(total) + digest).hex() == tree["commitment"]
        for proof in tree["proofs"]:
            siblings = tuple(SumNode(*plain(other)) for other in proof["siblings"])
            own = SumNode(*plain(proof["leaf"]))
            path = Proof(proof["index"], tree["size"], siblings)
            assert verify(own, path, bytes.fromhex(tree["commitment"]))


def test_log_vectors_include_the_roots_that_rfc_9162_implementations_publish() -> None:
    assert load("merkle")[0]["root"] == hashlib.sha256(b"").hexdigest()
    assert load("merkle")[1]["root"] == hashlib.sha256(b"\0\0").hexdigest()
