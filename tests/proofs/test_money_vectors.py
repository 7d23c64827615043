"""The vectors of channels, deposits, shares, manifests and epochs, computed without our code.

Each is written down once more in the plainest way, from docs/protocols alone.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from math import floor
from typing import Any

import msgpack
import pytest
from eth_abi import decode as abi_decode
from eth_abi import encode as abi_encode
from eth_account import Account
from eth_keys import keys
from eth_utils import keccak
from x402.mechanisms.evm.batch_settlement import compute_channel_id
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as X402Config

from proofs.batch import EpochState, recompute
from proofs.errors import BatchError, ManifestError
from proofs.manifest import parse_manifest
from tests.golden import other
from tests.golden.world import NETWORK

CHANNELS = other.load("channel")
SHARES = other.load("shares")
MANIFEST = other.load("manifest")
EPOCHS = other.load("batch")
CONFIG_KEYS = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token")
CONFIG_TYPE = "(address,address,address,address,address,uint40,bytes32)"
CONFIGS = [
    *CHANNELS["accept"],
    *CHANNELS["refuse"],
    *CHANNELS["refused_by_the_contract"],
    *(opened for epoch in EPOCHS["epochs"] for opened in epoch["opened"]),
]


# --- channels ---


@pytest.mark.parametrize("vector", CONFIGS)
def test_a_channels_id_is_the_one_of_x402(vector: dict[str, Any]) -> None:
    config = vector["config"]
    theirs = X402Config(
        *("0x" + config[key] for key in CONFIG_KEYS),
        config["withdraw_delay"],
        "0x" + config["salt"],
    )
    chain_id = CHANNELS["network"]["chain_id"]
    assert compute_channel_id(theirs, chain_id) == "0x" + vector["channel_id"]


def test_a_deposit_is_signed_and_laid_out_as_the_page_says() -> None:
    deposit = CHANNELS["deposit"]
    usual = CHANNELS["accept"][0]
    network = CHANNELS["network"]
    data = abi_decode(["uint256", "uint256", "uint256", "bytes"], other.unhex(deposit["data"]))
    salt = other.unhex(deposit["salt"])
    assert data == (
        deposit["valid_after"],
        deposit["valid_before"],
        int.from_bytes(salt, "big"),
        other.unhex(deposit["signature"]),
    )
    nonce = keccak(other.unhex(usual["channel_id"]) + salt)
    assert deposit["nonce"] == nonce.hex()
    signed = other.typed(
        (deposit["token"]["name"], network["chain_id"], network["token"]),
        "ReceiveWithAuthorization",
        {
            "from": "address",
            "to": "address",
            "value": "uint256",
            "validAfter": "uint256",
            "validBefore": "uint256",
            "nonce": "bytes32",
        },
        "0x" + usual["config"]["payer"],
        "0x" + deposit["collector"],
        deposit["amount"],
        deposit["valid_after"],
        deposit["valid_before"],
        nonce,
    )
    assert other.digest_of(signed) == deposit["digest"]
    assert other.sign(CHANNELS["client"]["secret"], signed) == deposit["signature"]


def test_the_call_of_a_deposit_is_that_of_the_abi() -> None:
    deposit = CHANNELS["deposit"]
    config = CHANNELS["accept"][0]["config"]
    types = [CONFIG_TYPE, "uint128", "address", "bytes"]
    values = [
        (
            *("0x" + config[key] for key in CONFIG_KEYS),
            config["withdraw_delay"],
            other.unhex(config["salt"]),
        ),
        deposit["amount"],
        "0x" + deposit["collector"],
        other.unhex(deposit["data"]),
    ]
    selector = keccak(f"deposit({','.join(types)})".encode())[:4]
    assert deposit["call"] == (selector + abi_encode(types, values)).hex()


# --- manifests and shares ---


def test_the_manifest_is_the_array_that_the_page_describes() -> None:
    data = other.unhex(MANIFEST["manifest"])
    fields = other.plain(MANIFEST["fields"])
    assert other.pack(fields) == data
    signed = hashlib.sha256(b"lorikeet manifest 1\0" + other.pack(fields[:-1])).digest()
    assert MANIFEST["signed_digest"] == signed.hex()
    signature = fields[-1][:64] + bytes([fields[-1][64] - 27])
    signer = keys.Signature(signature).recover_public_key_from_msg_hash(signed)
    assert (
        signer.to_compressed_bytes() == fields[8] == other.unhex(MANIFEST["creator"]["public_key"])
    )
    assert Account.from_key(MANIFEST["creator"]["secret"]).address.lower() == (
        "0x" + MANIFEST["creator"]["address"]
    )


def test_the_manifests_blocks_are_the_files_cut_every_256_kib() -> None:
    contents = [b"{}", bytes(262_144) + b"the last block is shorter"]
    for file, content in zip(MANIFEST["fields"]["files"], contents, strict=True):
        blocks = [content[start : start + 262_144] for start in range(0, len(content), 262_144)]
        assert file["size"] == len(content)
        assert file["blocks"] == [
            [hashlib.sha256(block).hexdigest(), len(block)] for block in blocks
        ]


def test_a_manifest_with_one_changed_byte_is_refused() -> None:
    data = other.unhex(MANIFEST["manifest"])
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(ManifestError):
            parse_manifest(bytes(changed))
    for form in (*other.longer_forms(data), data + b"\xc0", data[:-1]):
        with pytest.raises(ManifestError):
            parse_manifest(form)


def divide(amount: int, weights: list[int]) -> list[int]:
    """The largest remainder, in exact fractions."""
    exact = [Fraction(amount * weight, sum(weights)) for weight in weights]
    parts = [floor(part) for part in exact]
    left = amount - sum(parts)
    largest = sorted(range(len(exact)), key=lambda place: (parts[place] - exact[place], place))
    return [part + (place in largest[:left]) for place, part in enumerate(parts)]


@pytest.mark.parametrize("vector", SHARES["split"], ids=lambda vector: str(vector["bps"]))
def test_amounts_are_divided_by_the_largest_remainder(vector: dict[str, Any]) -> None:
    parts = divide(int(vector["amount"]), vector["bps"])
    assert list(map(str, parts)) == vector["parts"]


@pytest.mark.parametrize("vector", SHARES["shares"], ids=lambda vector: vector["why"])
def test_shares_follow_from_the_manifest(vector: dict[str, Any]) -> None:
    people = vector["contributors"]
    rows: dict[tuple[str, int], int] = {(vector["owner"], 0): 10_000 if people is None else 6_000}
    if people is not None:
        rows[vector["creator"], 1] = 2_500 if people else 4_000
    parts = divide(1_500, [one["weight"] for one in people]) if people else []
    for one, part in zip(people or [], parts, strict=True):
        if part:
            rows[one["address"], 2] = rows.get((one["address"], 2), 0) + part
    assert vector["shares"] == [
        {"address": address, "role": role, "bps": bps}
        for (address, role), bps in sorted(rows.items())
    ]


# --- epochs ---


def tree(hashed: list[bytes]) -> bytes:
    """RFC 9162's root, written down naively."""
    if len(hashed) == 1:
        return hashed[0]
    half = max(1 << bit for bit in range(10) if 1 << bit < len(hashed))
    return hashlib.sha256(b"\1" + tree(hashed[:half]) + tree(hashed[half:])).digest()


def sums(leaves: list[tuple[bytes, int]]) -> tuple[int, bytes]:
    """The payout tree's root, written down naively."""
    if len(leaves) == 1:
        account, amount = leaves[0]
        return amount, keccak(b"\0" + account + amount.to_bytes(16, "big"))
    half = max(1 << bit for bit in range(10) if 1 << bit < len(leaves))
    (left, left_hash), (right, right_hash) = sums(leaves[:half]), sums(leaves[half:])
    content = left.to_bytes(16, "big") + left_hash + right.to_bytes(16, "big") + right_hash
    return left + right, keccak(b"\1" + content)


def signer_of(body: bytes, signature: bytes) -> str:
    """Who signed a receipt."""
    digest = other.digest_of(other.receipt_data(EPOCHS["network"], body.hex()))
    found = keys.Signature(signature[:64] + bytes([signature[64] - 27]))
    key = found.recover_public_key_from_msg_hash(other.unhex(digest))
    return key.to_canonical_address().hex()


def test_two_epochs_in_a_row_follow_from_their_receipts() -> None:
    previous = bytes(32)
    log: list[bytes] = []
    totals: dict[bytes, int] = {}
    tips: dict[bytes, tuple[int, bytes, int]] = {}
    configs: dict[bytes, list[Any]] = {}
    for number, epoch in enumerate(EPOCHS["epochs"], 1):
        data = other.unhex(epoch["batch"])
        batch = msgpack.unpackb(data)
        assert other.pack(batch) == data
        network = other.plain(EPOCHS["network"])
        assert batch[:7] == [1, *network, number, previous]
        assert batch[7] == [other.plain(opened["config"]) for opened in epoch["opened"]]
        ids = [other.unhex(opened["channel_id"]) for opened in epoch["opened"]]
        assert ids == sorted(ids)
        configs |= dict(zip(ids, batch[7], strict=True))
        changed: set[bytes] = set()
        places = []
        for entry, shown in zip(batch[8], epoch["receipts"], strict=True):
            body, *signatures = msgpack.unpackb(entry)
            fields = msgpack.unpackb(body)
            channel, sequence, hash_before, operator, client = fields[3:8]
            amount, cumulative, shares = fields[16], fields[17], fields[21]
            places.append((channel, sequence))
            assert [signer_of(body, each) for each in signatures] == [operator.hex(), client.hex()]
            config = configs[channel]
            assert (config[2], config[4]) == (network[1], network[2])
            assert config[6][:20] == operator
            assert client in config[:2]
            last, digest, so_far = tips.get(channel, (0, bytes(32), 0))
            assert (sequence, hash_before) == (last + 1, digest)
            assert cumulative == so_far + amount
            tips[channel] = (sequence, hashlib.sha256(body).digest(), cumulative)
            parts = divide(amount, [bps for _, _, bps in shares])
            assert [share["part"] for share in shown["shares"]] == parts
            for (account, _, _), part in zip(shares, parts, strict=True):
                if part:
                    totals[account] = totals.get(account, 0) + part
                    changed.add(account)
            log.append(hashlib.sha256(b"\0" + entry).digest())
            assert shown["leaf"] == log[-1].hex()
        assert places == sorted(places)
        assert batch[9] == [[account, totals[account]] for account in sorted(changed)]
        assert other.plain(epoch["payouts"]) == batch[9]
        total, root = sums(sorted(totals.items()))
        header = epoch["header"]
        words = [number, previous, tree(log), len(log), root, total, hashlib.sha256(data).digest()]
        types = ["uint64", "bytes32", "bytes32", "uint64", "bytes32", "uint128", "bytes32"]
        previous = keccak(abi_encode(types, words))
        shown_words = [word.hex() if isinstance(word, bytes) else str(word) for word in words]
        assert list(header.values()) == [*shown_words, previous.hex()]


def test_the_epochs_hold_ties_and_a_share_that_is_nothing() -> None:
    receipts = [receipt for epoch in EPOCHS["epochs"] for receipt in epoch["receipts"]]
    parts = [share["part"] for receipt in receipts for share in receipt["shares"]]
    assert 0 in parts
    ties = [
        receipt
        for receipt in receipts
        if sorted(receipt["amount"] * share["bps"] % 10_000 for share in receipt["shares"])
        == [0, 5_000, 5_000]
    ]
    assert ties
    nobody = next(
        share["address"] for receipt in receipts for share in receipt["shares"] if not share["part"]
    )
    assert nobody not in [account for epoch in EPOCHS["epochs"] for account, _ in epoch["payouts"]]


def test_our_code_recomputes_the_epochs_and_refuses_any_other_bytes() -> None:
    state = EpochState(NETWORK)
    for epoch in EPOCHS["epochs"]:
        data = other.unhex(epoch["batch"])
        for position in range(0, len(data), 7):
            changed = bytearray(data)
            changed[position] ^= 1
            with pytest.raises(BatchError):
                recompute(bytes(changed), state)
        for form in (data + b"\xc0", data[:-1], next(other.longer_forms(data))):
            with pytest.raises(BatchError):
                recompute(form, state)
        state = recompute(data, state)
        assert state.header is not None
        assert state.header.hash.hex() == epoch["header"]["hash"]
