"""The vectors of receipts, envelopes, promises and payouts, computed without our code.

Each is written down once more in the plainest way, from docs/protocols/receipt.md alone.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import msgspec
import pytest
from eth_utils import keccak

from proofs.channel import ChannelTip
from proofs.envelope import open_envelope
from proofs.errors import ProofError, ReceiptError
from proofs.promise import Evidence, Promise, verify_evidence, verify_promise
from proofs.receipt import decode_receipt, verify_receipt
from tests.golden import other
from tests.golden.receipts import POLICIES, TERMS, terms_for
from tests.golden.world import CONFIG, NETWORK

VECTOR = other.load("receipt")
PAYOUTS = other.load("payouts")
MANIFEST = other.unhex(VECTOR["manifest"])
ATTRIBUTED = other.unhex(VECTOR["attributed_manifest"])
NETWORK_FIELDS = VECTOR["network"]
VALUES = {0: other.USUAL} | {one["version"]: one["values"] for one in VECTOR["parameters"]}


def manifest_of(adapter: bytes) -> bytes | None:
    """The manifest that a receipt names; None for the bare base."""
    if not any(adapter):
        return None
    return {hashlib.sha256(data).digest(): data for data in (MANIFEST, ATTRIBUTED)}[adapter]


def test_receipts_in_a_row_follow_from_their_fields_and_the_manifest() -> None:
    previous = bytes(32)
    cumulative = 0
    paid: dict[bytes, int] = {}
    for sequence, vector in enumerate(VECTOR["receipts"], 1):
        fields = other.plain(vector["fields"])
        body = other.pack(fields)
        assert body.hex() == vector["body"]
        assert len(fields) == 25
        values = VALUES[fields[23]]
        assert fields[:4] == [4, *other.plain(NETWORK_FIELDS)[:2], other.unhex(channel_id())]
        assert fields[4:6] == [sequence, previous]
        manifest = manifest_of(fields[9])
        [drawn] = fields[24] or [()]
        rows = other.manifest_shares(fields[10], manifest, drawn, values)
        assert vector["shares"] == [
            {"address": who.hex(), "role": role, "weight": weight} for who, role, weight in rows
        ]
        price = fields[13] * fields[15] + fields[14] * fields[16]
        least = values["fees.least-for-a-share"]
        amount = max(price, least * other.num_parties(fields[10], manifest, values))
        assert fields[17:19] == [amount, cumulative + amount]
        awarded = other.awards(amount, rows)
        for who, part in awarded.items():
            paid[who] = paid.get(who, 0) + part
        assert vector["awards"] == shown(awarded)
        assert vector["payouts"] == shown(paid)
        assert fields[22] == other.payouts_commitment(paid)
        cumulative += amount
        previous = hashlib.sha256(body).digest()
        assert vector["body_sha256"] == previous.hex()
        assert vector["leaf"] == hashlib.sha256(b"\0" + body).hexdigest()


def channel_id() -> str:
    found: str = VECTOR["channel"]["channel_id"]
    return found


def shown(paid: dict[bytes, int]) -> list[dict[str, Any]]:
    return [{"account": who.hex(), "amount": amount} for who, amount in paid.items()]


@pytest.mark.parametrize("vector", VECTOR["receipts"], ids=lambda vector: vector["why"])
def test_both_sides_sign_as_eth_account_signs(vector: dict[str, Any]) -> None:
    data = other.receipt_data(NETWORK_FIELDS, vector["body"])
    assert other.digest_of(data) == vector["digest"]
    assert other.sign(VECTOR["node"]["secret"], data) == vector["node_signature"]
    if vector["client_signature"]:
        assert other.sign(VECTOR["client"]["secret"], data) == vector["client_signature"]
    parts = [vector["body"], vector["node_signature"], vector["client_signature"]]
    assert other.pack([other.unhex(part) for part in parts]).hex() == vector["signed"]


def test_some_receipts_bear_one_signature_and_some_two() -> None:
    assert {bool(vector["client_signature"]) for vector in VECTOR["receipts"]} == {True, False}


@pytest.mark.parametrize("vector", VECTOR["receipts"], ids=lambda vector: vector["why"])
def test_an_envelope_is_receipt_voucher_and_channel(vector: dict[str, Any]) -> None:
    data = other.unhex(vector["envelope"])
    signed, amount, voucher_signature, config = msgpack.unpackb(data)
    assert other.pack([signed, amount, voucher_signature, config]) == data
    assert signed.hex() == vector["signed"]
    assert amount == vector["fields"]["cumulative"] + 1_600
    assert config == other.plain(VECTOR["channel"]["config"])
    voucher = other.voucher_data(NETWORK_FIELDS, channel_id(), amount)
    assert other.sign(VECTOR["client"]["secret"], voucher) == voucher_signature.hex()
    opened = open_envelope(data, NETWORK)
    assert opened.encoded == data
    assert opened.receipt.is_cosigned == bool(vector["client_signature"])


@pytest.mark.parametrize("vector", VECTOR["receipts"], ids=lambda vector: vector["why"])
def test_a_promise_is_signed_as_eth_account_signs_it(vector: dict[str, Any]) -> None:
    promise = vector["promise"]
    data = other.promise_data(NETWORK_FIELDS, vector["body"], promise["deadline"])
    assert other.digest_of(data) == promise["digest"]
    assert other.sign(VECTOR["aggregator"]["secret"], data) == promise["signature"]
    names = ("channel_id", "sequence", "cumulative", "body", "deadline", "signature")
    fields = other.plain({name: promise[name] for name in names})
    assert other.pack(fields).hex() == promise["encoded"]
    assert verify_promise(
        msgspec_promise(promise),
        other.unhex(vector["body"]),
        other.unhex(VECTOR["aggregator"]["address"]),
        NETWORK,
    )


def msgspec_promise(promise: dict[str, Any]) -> Promise:
    return msgspec.msgpack.decode(other.unhex(promise["encoded"]), type=Promise)


@pytest.mark.parametrize("vector", VECTOR["refuse"], ids=lambda vector: vector["why"])
def test_what_nobody_may_forward_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ProofError):
        open_envelope(other.unhex(vector["envelope"]), NETWORK)


def test_the_refused_envelopes_break_one_rule_each() -> None:
    rules = set()
    for vector in VECTOR["refuse"]:
        try:
            open_envelope(other.unhex(vector["envelope"]), NETWORK)
        except ProofError as error:
            rules.add(str(error).partition(":")[0])
    assert rules == {
        "version",
        "network",
        "amount",
        "previous",
        "cumulative",
        "owner",
        "schema",
        "node signature",
        "client signature",
        "voucher amount",
        "voucher signature",
        "receiver authorizer",
    }


def test_what_does_not_follow_is_refused_though_both_signed_it() -> None:
    first, second = (
        verify_receipt(decode_receipt(other.unhex(vector["signed"])), NETWORK)
        for vector in VECTOR["receipts"][:2]
    )
    tip = ChannelTip(CONFIG).follow(first, NETWORK, TERMS)
    for vector in VECTOR["do_not_follow"]:
        stray = verify_receipt(decode_receipt(other.unhex(vector["signed"])), NETWORK)
        with pytest.raises(ReceiptError):
            tip.follow(stray, NETWORK, terms_for(stray.receipt.adapter), POLICIES)
    assert tip.follow(second, NETWORK, TERMS).sequence == 2


def test_evidence_convicts_the_node_alone() -> None:
    evidence = VECTOR["evidence"]
    pair = Evidence(other.unhex(evidence["first"]), other.unhex(evidence["second"]))
    assert verify_evidence(pair, NETWORK) == (other.unhex(channel_id()), 1)


@pytest.mark.parametrize("vector", PAYOUTS, ids=lambda vector: vector["why"])
def test_payouts_are_those_of_a_tree_written_down_naively(vector: dict[str, Any]) -> None:
    paid: dict[bytes, int] = {}
    commitments = [other.payouts_commitment(paid).hex()]
    for fee in vector["fees"]:
        rows = [(other.unhex(row["address"]), row["role"], row["weight"]) for row in fee["shares"]]
        for who, part in other.awards(fee["amount"], rows).items():
            paid[who] = paid.get(who, 0) + part
        commitments.append(other.payouts_commitment(paid).hex())
    assert vector["commitments"] == commitments
    assert vector["rows"] == shown(paid)
    assert vector["total"] == sum(paid.values())
    for proof in vector["proofs"]:
        row = vector["rows"][proof["index"]]
        content = other.unhex(row["account"]) + row["amount"].to_bytes(16, "big")
        assert proof["leaf"] == keccak(b"\0" + content).hex()
        total, root = climb(proof, row["amount"], keccak(b"\0" + content))
        head = b"\2" + proof["size"].to_bytes(8, "big") + total.to_bytes(16, "big")
        assert keccak(head + root).hex() == commitments[-1]


def climb(proof: dict[str, Any], total: int, node: bytes) -> tuple[int, bytes]:
    """RFC 9162, 2.1.3.2, with sums."""
    first = proof["index"]
    last = proof["size"] - 1
    for sibling in proof["siblings"]:
        own = total.to_bytes(16, "big") + node
        beside = sibling["sum"].to_bytes(16, "big") + other.unhex(sibling["hash"])
        if first & 1 or first == last:
            node = keccak(b"\1" + beside + own)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            node = keccak(b"\1" + own + beside)
        total += sibling["sum"]
        first >>= 1
        last >>= 1
    assert last == 0
    return total, node
