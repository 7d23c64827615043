"""The vectors of channels, deposits, shares, manifests and epochs, computed without our code.

Each is written down once more in the plainest way, from docs/protocols alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
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

from proofs.batch import recompute
from proofs.cocktail import parse_adapter
from proofs.errors import BatchError, ManifestError
from proofs.manifest import parse_manifest
from proofs.state import EpochState
from tests.golden import other
from tests.golden.receipts import POLICIES
from tests.golden.world import NETWORK

CHANNELS = other.load("channel")
SHARES = other.load("shares")
MANIFEST = other.load("manifest")
MANIFEST_TWO = other.load("manifest2")
MERGED = other.load("manifest3")
COCKTAIL = other.load("cocktail")
EPOCHS = other.load("batch")
DECIDED = other.load("receipt")["parameters"]
VALUES = {0: other.USUAL} | {one["version"]: one["values"] for one in DECIDED}
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


@pytest.mark.parametrize(
    ("vector", "domain"),
    [
        (MANIFEST, b"lorikeet manifest 1\0"),
        (MANIFEST_TWO, b"lorikeet manifest 2\0"),
        (MERGED, b"lorikeet manifest 3\0"),
    ],
    ids=["version 1", "version 2", "version 3"],
)
def test_the_manifest_is_the_array_that_the_page_describes(
    vector: dict[str, Any], domain: bytes
) -> None:
    data = other.unhex(vector["manifest"])
    fields = other.plain(vector["fields"])
    assert other.pack(fields) == data
    signed = hashlib.sha256(domain + other.pack(fields[:-1])).digest()
    assert vector["signed_digest"] == signed.hex()
    signature = fields[-1][:64] + bytes([fields[-1][64] - 27])
    signer = keys.Signature(signature).recover_public_key_from_msg_hash(signed)
    assert signer.to_compressed_bytes() == fields[8] == other.unhex(vector["creator"]["public_key"])
    assert Account.from_key(vector["creator"]["secret"]).address.lower() == (
        "0x" + vector["creator"]["address"]
    )


def test_the_manifests_blocks_are_the_files_cut_every_256_kib() -> None:
    contents = [b"{}", bytes(262_144) + b"the last block is shorter"]
    for file, content in zip(MANIFEST["fields"]["files"], contents, strict=True):
        blocks = [content[start : start + 262_144] for start in range(0, len(content), 262_144)]
        assert file["size"] == len(content)
        assert file["blocks"] == [
            [hashlib.sha256(block).hexdigest(), len(block)] for block in blocks
        ]


@pytest.mark.parametrize(
    ("vector", "step"),
    [(MANIFEST, 1), (MANIFEST_TWO, 7), (MERGED, 13)],
    ids=["version 1", "version 2", "version 3"],
)
def test_a_manifest_with_one_changed_byte_is_refused(vector: dict[str, Any], step: int) -> None:
    data = other.unhex(vector["manifest"])
    for position in range(0, len(data), step):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(ManifestError):
            parse_manifest(bytes(changed))
    for form in (*other.longer_forms(data), data + b"\xc0", data[:-1]):
        with pytest.raises(ManifestError):
            parse_manifest(form)


@pytest.mark.parametrize("vector", SHARES["split"], ids=lambda vector: str(vector["bps"]))
def test_amounts_are_divided_by_the_largest_remainder(vector: dict[str, Any]) -> None:
    parts = other.divide(int(vector["amount"]), vector["bps"])
    assert list(map(str, parts)) == vector["parts"]


@pytest.mark.parametrize("vector", SHARES["shares"], ids=lambda vector: vector["why"])
def test_shares_and_fees_follow_from_the_manifest(vector: dict[str, Any]) -> None:
    creator = vector["creator"] and other.unhex(vector["creator"])
    people = [(other.unhex(one["address"]), one["weight"]) for one in vector["contributors"] or []]
    rows = other.shares(
        other.unhex(vector["owner"]), creator, people, vector["lambda_eighths"], vector["drawn"]
    )
    parties = {(who, role) for who, role, _ in rows}
    if vector["lambda_eighths"]:
        parties |= {(who, 2) for who, _ in people}
    assert vector["num_parties"] == len(parties)
    assert vector["shares"] == [
        {"address": who.hex(), "role": role, "weight": weight} for who, role, weight in rows
    ]
    for shown in vector["fees"]:
        assert shown["fee"] == max(shown["price"], 100 * len(parties))
        assert shown["awards"] == [
            {"account": who.hex(), "amount": part}
            for who, part in other.awards(shown["fee"], rows).items()
        ]


# --- cocktails ---


def test_a_cocktail_is_its_fields_and_its_parents_shares() -> None:
    data = other.unhex(COCKTAIL["cocktail"])
    rows = [[other.unhex(one["manifest"]), one["weight"]] for one in COCKTAIL["fields"]["parents"]]
    assert other.pack([1, rows]) == data
    digests = [hashlib.sha256(manifest).hexdigest() for manifest, _ in rows]
    assert digests == sorted(digests) == [one["digest"] for one in COCKTAIL["parents"]]
    shares = other.cocktail_shares(other.unhex(COCKTAIL["owner"]), data)
    assert COCKTAIL["shares"] == [
        {"address": who.hex(), "role": role, "weight": weight} for who, role, weight in shares
    ]
    assert sum(weight for _, _, weight in shares) == 10_000 * 10_000
    for shown in COCKTAIL["fees"]:
        assert shown["fee"] == max(shown["price"], 100 * len(shares))
        assert shown["awards"] == [
            {"account": who.hex(), "amount": part}
            for who, part in other.awards(shown["fee"], shares).items()
        ]


def test_a_merged_adapter_pays_its_parents_as_the_cocktail_of_them_does() -> None:
    data = other.unhex(MERGED["manifest"])
    owner = other.unhex(MERGED["owner"])
    for name, drawn in (("shares", ()), ("drawn_shares", MERGED["drawn"])):
        shares = other.merged_shares(owner, data, drawn)
        assert MERGED[name] == [
            {"address": who.hex(), "role": role, "weight": weight} for who, role, weight in shares
        ]
        assert sum(weight for _, _, weight in shares) == 10_000 * 10_000
    cocktail = other.unhex(MERGED["cocktail_of_its_parents"])
    assert other.cocktail_shares(owner, cocktail) == other.merged_shares(owner, data)
    assert MERGED["shares"] != MERGED["drawn_shares"]


@pytest.mark.parametrize("vector", COCKTAIL["refuse"], ids=lambda vector: vector["why"])
def test_a_cocktail_that_nobody_may_make_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        parse_adapter(other.unhex(vector["cocktail"]))


# --- epochs ---


def log_root(hashed: list[bytes]) -> bytes:
    """RFC 9162's root, written down naively."""
    if len(hashed) == 1:
        return hashed[0]
    half = max(1 << bit for bit in range(10) if 1 << bit < len(hashed))
    return hashlib.sha256(b"\1" + log_root(hashed[:half]) + log_root(hashed[half:])).digest()


@dataclass
class Channel:
    """Where a channel stands."""

    config: list[Any]
    sequence: int = 0
    body: bytes = bytes(32)
    cumulative: int = 0
    evidence: bytes = b""
    paid: dict[bytes, int] = field(default_factory=dict)


@dataclass
class Books:
    """All that follows from the batches, in lists and dicts."""

    channels: dict[bytes, Channel] = field(default_factory=dict)
    accounts: dict[bytes, list[bytes]] = field(default_factory=dict)  # → channels of its entries
    manifests: dict[bytes, bytes] = field(default_factory=dict)
    log: list[bytes] = field(default_factory=list)
    header_hash: bytes = bytes(32)

    def take(self, batch: list[Any], network: list[Any]) -> None:
        """Every rule of the page for one batch."""
        opened, adapters, receipts = batch[7:]
        ids = [other.unhex(compute_id(config)) for config in opened]
        assert ids == sorted(ids)
        assert not self.channels.keys() & set(ids)
        self.channels |= {key: Channel(row) for key, row in zip(ids, opened, strict=True)}
        new = {msgpack.unpackb(msgpack.unpackb(entry)[0])[9] for entry in receipts}
        assert adapters == sorted(new - {bytes(32)} - self.manifests.keys())
        for digest in adapters:
            manifest = other.unhex(EPOCHS["manifests"][digest.hex()])
            assert hashlib.sha256(manifest).digest() == digest
            self.manifests[digest] = manifest
        places = []
        for entry in receipts:
            places.append(self.pay(entry, network))
        assert places == sorted(places)

    def pay(self, entry: bytes, network: list[Any]) -> tuple[bytes, int]:
        """Every rule of the page for one receipt."""
        body, node_signature, client_signature = msgpack.unpackb(entry)
        fields = msgpack.unpackb(body)
        key, sequence, previous, operator, client, base, adapter, owner = fields[3:11]
        channel = self.channels[key]
        assert fields[:3] == [4, *network[:2]]
        values = VALUES[fields[23]]
        digest = other.unhex(other.digest_of(other.receipt_data(EPOCHS["network"], body.hex())))
        assert other.signer_of(digest, node_signature) == operator
        if client_signature:
            assert other.signer_of(digest, client_signature) == client
        config = channel.config
        assert config[2:5] == [network[1], operator, network[2]]
        assert config[6][:20] == operator
        assert client in config[:2]
        assert (sequence, previous) == (channel.sequence + 1, channel.body)
        if any(adapter):
            assert msgpack.unpackb(self.manifests[adapter])[3] == base
        manifest = self.manifests.get(adapter)
        assert len(fields[24]) <= 1
        rows = other.manifest_shares(owner, manifest, fields[24][0] if fields[24] else (), values)
        tokens, prices, (amount, cumulative) = fields[13:15], fields[15:17], fields[17:19]
        price = tokens[0] * prices[0] + tokens[1] * prices[1]
        least = values["fees.least-for-a-share"]
        assert amount == max(price, least * other.num_parties(owner, manifest, values))
        assert cumulative == channel.cumulative + amount
        for who, part in other.awards(amount, rows).items():
            if who not in channel.paid:
                self.accounts.setdefault(who, []).append(key)
            channel.paid[who] = channel.paid.get(who, 0) + part
        assert other.payouts_commitment(channel.paid) == fields[22]
        channel.sequence = sequence
        channel.body = hashlib.sha256(body).digest()
        channel.cumulative = cumulative
        channel.evidence = keccak(node_signature)
        self.log.append(hashlib.sha256(b"\0" + body).digest())
        return key, sequence

    def channel_leaves(self) -> list[tuple[int, bytes]]:
        """(sum, content) of the tree of channels."""
        return [
            (
                channel.cumulative,
                key
                + channel.sequence.to_bytes(8, "big")
                + channel.cumulative.to_bytes(16, "big")
                + other.payouts_commitment(channel.paid)
                + channel.body
                + channel.evidence,
            )
            for key, channel in self.channels.items()
        ]

    def entry_leaves(self, who: bytes) -> list[tuple[int, bytes]]:
        """(sum, content) of an account's entries."""
        order = list(self.channels)
        found = []
        for key in self.accounts[who]:
            amount = self.channels[key].paid[who]
            place = list(self.channels[key].paid).index(who)
            index = order.index(key).to_bytes(8, "big") + place.to_bytes(8, "big")
            found.append((amount, key + amount.to_bytes(16, "big") + index))
        return found

    def account_leaves(self) -> list[tuple[int, bytes]]:
        """(sum, content) of the tree of accounts."""
        found = []
        for who in self.accounts:
            entries = self.entry_leaves(who)
            amount = sum(part for part, _ in entries)
            content = who + amount.to_bytes(16, "big") + other.sum_commitment(entries)
            found.append((amount, content))
        return found


def compute_id(config: list[Any]) -> str:
    """The channel's id, by x402's package."""
    parties = ["0x" + party.hex() for party in config[:5]]
    theirs = X402Config(*parties, config[5], "0x" + config[6].hex())
    return compute_channel_id(theirs, EPOCHS["network"]["chain_id"])[2:]


def test_two_epochs_in_a_row_follow_from_their_receipts_and_manifests() -> None:
    books = Books()
    network = other.plain(EPOCHS["network"])
    for number, epoch in enumerate(EPOCHS["epochs"], 1):
        data = other.unhex(epoch["batch"])
        batch = msgpack.unpackb(data)
        assert other.pack(batch) == data
        assert batch[:7] == [2, *network, number, books.header_hash]
        books.take(batch, network)
        channels = books.channel_leaves()
        accounts = books.account_leaves()
        assert [content.hex() for _, content in channels] == [
            shown["content"] for shown in epoch["channels"]
        ]
        assert [content.hex() for _, content in accounts] == [
            shown["content"] for shown in epoch["accounts"]
        ]
        for who, shown in zip(books.accounts, epoch["accounts"], strict=True):
            assert [content.hex() for _, content in books.entry_leaves(who)] == [
                entry["content"] for entry in shown["entries"]
            ]
        total = sum(amount for amount, _ in channels)
        assert total == sum(amount for amount, _ in accounts)
        types = ["uint64", "bytes32", "bytes32", "uint64", "bytes32", "bytes32", "uint128"]
        words = [
            number,
            books.header_hash,
            log_root(books.log),
            len(books.log),
            other.sum_commitment(channels),
            other.sum_commitment(accounts),
            total,
            hashlib.sha256(data).digest(),
        ]
        books.header_hash = keccak(abi_encode([*types, "bytes32"], words))
        shown_words = [word.hex() if isinstance(word, bytes) else str(word) for word in words]
        assert list(epoch["header"].values()) == [*shown_words, books.header_hash.hex()]


def test_the_epochs_hold_what_a_verifier_may_get_wrong() -> None:
    receipts = [
        msgpack.unpackb(entry)
        for epoch in EPOCHS["epochs"]
        for entry in msgpack.unpackb(other.unhex(epoch["batch"]))[9]
    ]
    assert any(not client for _, _, client in receipts), "a receipt that only its node signed"
    adapters = {msgpack.unpackb(body)[9] for body, _, _ in receipts}
    assert bytes(32) in adapters
    assert len(adapters) > 2
    accounts = EPOCHS["epochs"][1]["accounts"]
    assert any(len(account["entries"]) > 1 for account in accounts), "one paid by two channels"


def test_our_code_recomputes_the_epochs_and_refuses_any_other_bytes() -> None:
    state = EpochState(NETWORK)
    manifests = {
        other.unhex(digest): other.unhex(data) for digest, data in EPOCHS["manifests"].items()
    }
    for epoch in EPOCHS["epochs"]:
        data = other.unhex(epoch["batch"])
        for position in range(0, len(data), 7):
            changed = bytearray(data)
            changed[position] ^= 1
            with pytest.raises(BatchError):
                recompute(bytes(changed), state, manifests, POLICIES)
        for form in (data + b"\xc0", data[:-1], next(other.longer_forms(data))):
            with pytest.raises(BatchError):
                recompute(form, state, manifests, POLICIES)
        state.apply(recompute(data, state, manifests, POLICIES))
        assert state.header is not None
        assert state.header.hash.hex() == epoch["header"]["hash"]
