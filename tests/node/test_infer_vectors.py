"""Every message of the infer protocol and of the delivery of receipts, byte by byte.

Our code reads and writes the vectors; so does a stranger's; and no other bytes pass for them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, get_args

import base58
import msgpack
import msgspec
import pytest
from eth_account import Account
from x402.mechanisms.evm.batch_settlement import compute_channel_id
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as X402Config

from node.wire import infer as wire
from node.wire.receipts import Deliver, Taken
from proofs.envelope import open_envelope
from proofs.errors import ProofError, ReceiptError
from proofs.receipt import decode_receipt, verify_receipt
from tests.golden import other
from tests.golden.world import NETWORK, named, named_taken

VECTOR = other.load("infer")
TALKS = {talk["name"]: talk for talk in VECTOR["talks"]}
PAID = ("paid", "broken", "pending")
MESSAGES = [
    pytest.param(message, id=f"{talk['name']}-{place}-{message['message']}")
    for talk in VECTOR["talks"]
    for place, message in enumerate(talk["messages"])
]
DELIVERY = list(zip(VECTOR["delivery"]["messages"], (Deliver, Taken), strict=True))


def decode(message: dict[str, Any], frame: bytes) -> wire.Message:
    """As the other side reads it."""
    if message["from"] == "client":
        return wire.decode_from_client(frame)
    return wire.decode_from_node(frame)


def first(talk: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields of the first message of a kind."""
    return next(each["fields"] for each in talk["messages"] if each["message"] == name)


def answer_of(talk: dict[str, Any]) -> list[int]:
    """All tokens that came."""
    outputs = (each["fields"] for each in talk["messages"] if each["message"] == "Output")
    return [token for output in outputs for token in output["token_ids"]]


def test_every_message_of_the_protocol_has_a_vector() -> None:
    known = {kind.__name__ for kind in (*get_args(wire.FromClient), *get_args(wire.FromNode))}
    assert {each["message"] for talk in VECTOR["talks"] for each in talk["messages"]} == known


@pytest.mark.parametrize("message", MESSAGES)
def test_our_code_reads_and_writes_it(message: dict[str, Any]) -> None:
    found = decode(message, other.unhex(message["hex"]))
    assert type(found).__name__ == message["message"]
    assert json.loads(json.dumps(named(found))) == message["fields"]
    assert wire.encode(found).hex() == message["hex"]


@pytest.mark.parametrize("message", MESSAGES)
def test_another_messagepack_reads_and_writes_it(message: dict[str, Any]) -> None:
    fields = [message["message"], *payment_named(other.plain(message["fields"]), message)]
    assert other.pack(fields).hex() == message["hex"]
    assert msgpack.unpackb(other.unhex(message["hex"])) == fields


def payment_named(fields: list[Any], message: dict[str, Any]) -> list[Any]:
    """`Begin` holds a whole `Pay`, name and all."""
    if message["message"] != "Begin" or fields[2] is None:
        return fields
    return [*fields[:2], ["Pay", *fields[2]]]


@pytest.mark.parametrize("message", MESSAGES)
def test_no_other_bytes_are_the_same_message(message: dict[str, Any]) -> None:
    frame = other.unhex(message["hex"])
    original = decode(message, frame)
    for position in range(len(frame)):
        for bit in range(8):
            changed = bytearray(frame)
            changed[position] ^= 1 << bit
            try:
                found = decode(message, bytes(changed))
            except wire.WireError:
                continue
            assert position > len(message["message"]), "the name and the array's length are fixed"
            assert repr(found) != repr(original)  # 0.0 == -0.0, but they are told apart
            assert wire.encode(found) == changed


@pytest.mark.parametrize("message", MESSAGES)
def test_longer_forms_and_what_is_cut_or_added_are_refused(message: dict[str, Any]) -> None:
    frame = other.unhex(message["hex"])
    lower = frame.replace(message["message"].encode(), message["message"].lower().encode(), 1)
    forms = [*other.longer_forms(frame), frame + b"\xc0", frame[:-1], lower, b""]
    assert len(forms) > 5, "at least the array and the name have a longer form"
    for form in forms:
        if form != frame[:-1]:
            assert form == lower or form == b"" or msgpack_reads(form, frame)
        with pytest.raises(wire.WireError):
            decode(message, form)


def msgpack_reads(form: bytes, frame: bytes) -> bool:
    """Whether these bytes say the same to a reader that is not strict."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(form)
    return bool(next(unpacker) == msgpack.unpackb(frame))


def test_the_parties_are_who_their_keys_say() -> None:
    for party in (VECTOR["node"], VECTOR["client"], VECTOR["delivery"]["aggregator"]):
        key = other.unhex(party["public_key"])
        account = Account.from_key(other.unhex(party["secret"]))
        assert account.address.lower() == "0x" + party["address"]
        assert account._key_obj.public_key.to_compressed_bytes() == key
        assert base58.b58encode(bytes.fromhex("002508021221") + key).decode() == party["peer_id"]


def test_the_channel_is_the_one_of_x402() -> None:
    config = VECTOR["channel"]["config"]
    keys = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token")
    theirs = X402Config(
        *("0x" + config[key] for key in keys), config["withdraw_delay"], "0x" + config["salt"]
    )
    chain_id = VECTOR["network"]["chain_id"]
    assert compute_channel_id(theirs, chain_id) == "0x" + VECTOR["channel"]["channel_id"]


@pytest.mark.parametrize("name", [name for name in TALKS if name != "resumed"])
def test_the_seed_is_made_of_both_halves_and_the_question(name: str) -> None:
    talk = TALKS[name]
    derived = talk["derived"]
    client_seed = other.unhex(first(talk, "Begin")["client_seed"])
    node_seed = other.unhex(first(talk, "Offer")["node_seed"])
    question = hashlib.sha256(other.unhex(talk["messages"][0]["hex"])).digest()
    assert derived["ask_sha256"] == question.hex()
    assert derived["seed_commitment"] == first(talk, "Ask")["seed_commitment"]
    assert derived["seed_commitment"] == hashlib.sha256(client_seed).hexdigest()
    mixed = b"lorikeet seed" + client_seed + node_seed + question
    assert derived["seed"] == hashlib.sha256(mixed).hexdigest()


def test_an_answer_goes_on_with_the_seed_of_its_first_part() -> None:
    lost = TALKS["unpaid"]
    goes_on = first(TALKS["resumed"], "Ask")
    before = first(lost, "Ask")
    assert goes_on["resumed"]["seed"] == lost["derived"]["seed"]
    assert goes_on["prompt_ids"] == before["prompt_ids"] + answer_of(lost)
    assert goes_on["resumed"]["num_answered"] == len(answer_of(lost))
    assert goes_on["max_tokens"] == before["max_tokens"] - len(answer_of(lost))
    assert goes_on["terms"] == before["terms"]


@pytest.mark.parametrize("name", PAID)
def test_the_receipt_follows_from_the_talk(name: str) -> None:
    talk = TALKS[name]
    derived = talk["derived"]
    asked, offered = first(talk, "Ask"), first(talk, "Offer")
    salt = other.unhex(first(talk, "Begin")["salt"])
    answer = answer_of(talk)
    price = len(asked["prompt_ids"]) * offered["prompt_price"]
    price += len(answer) * offered["completion_price"]
    amount = max(price, 100 * len(PARTS))
    before = TALKS[PAID[PAID.index(name) - 1]]["derived"] if name != "paid" else None
    receipt = {
        "version": 4,
        "chain_id": VECTOR["network"]["chain_id"],
        "settlement": VECTOR["network"]["settlement"],
        "channel_id": VECTOR["channel"]["channel_id"],
        "sequence": PAID.index(name) + 1,
        "previous": before["body_sha256"] if before else bytes(32).hex(),
        "operator": VECTOR["node"]["address"],
        "client": VECTOR["client"]["address"],
        "base": asked["base"],
        "adapter": asked["adapter"],
        "owner": offered["owner"],
        "prompt_commitment": commit(salt, asked["prompt_ids"]),
        "answer_commitment": commit(salt, answer),
        "prompt_tokens": len(asked["prompt_ids"]),
        "completion_tokens": len(answer),
        "prompt_price": offered["prompt_price"],
        "completion_price": offered["completion_price"],
        "amount": amount,
        "cumulative": amount + (before["receipt"]["cumulative"] if before else 0),
        "seed": derived["seed"],
        "dtype": offered["dtype"],
        "started_at": offered["started_at"],
        "payouts": payouts_up_to(name).hex(),
        "parameters": offered["parameters"],
        "drawn": [],
    }
    assert derived["payouts"] == receipt["payouts"]
    assert derived["receipt"] == receipt
    assert other.pack(other.plain(receipt)).hex() == derived["body"]
    assert hashlib.sha256(other.unhex(derived["body"])).hexdigest() == derived["body_sha256"]
    assert receipt["prompt_commitment"] == derived["prompt_commitment"]
    assert receipt["answer_commitment"] == derived["answer_commitment"]


PARTS = {"owner": 6_000, "creator": 2_500, "first": 1_000, "second": 500}
"""The golden adapter's manifest: its contributors weigh 2 and 1."""


def payouts_up_to(name: str) -> bytes:
    """What the channel paid whom after this request: the tree of settlement.md, written anew."""
    paid: dict[bytes, int] = {}
    for each in PAID[: PAID.index(name) + 1]:
        amount = TALKS[each]["derived"]["receipt"]["amount"]
        before = dict(paid)
        for row in TALKS[each]["derived"]["paid"]:
            paid[bytes.fromhex(row["account"])] = row["amount"]
        gained = sorted(paid[account] - before.get(account, 0) for account in paid)
        exact = sorted(amount * bps / 10_000 for bps in PARTS.values())
        assert sum(gained) == amount
        assert all(abs(got - due) < 1 for got, due in zip(gained, exact, strict=True))
    return other.payouts_commitment(paid)


def commit(salt: bytes, token_ids: list[int]) -> str:
    return hashlib.sha256(salt + other.pack(token_ids)).hexdigest()


@pytest.mark.parametrize("name", PAID)
def test_receipts_and_vouchers_are_signed_as_eth_account_signs_them(name: str) -> None:
    derived = TALKS[name]["derived"]
    data = other.receipt_data(VECTOR["network"], derived["body"])
    assert other.digest_of(data) == derived["digest"]
    for side in ("node", "client"):
        assert other.sign(VECTOR[side]["secret"], data) == derived[f"{side}_signature"]
    for voucher in derived["vouchers"]:
        channel = VECTOR["channel"]["channel_id"]
        data = other.voucher_data(VECTOR["network"], channel, voucher["amount"])
        assert other.digest_of(data) == voucher["digest"]
        assert other.sign(VECTOR["client"]["secret"], data) == voucher["signature"]


@pytest.mark.parametrize("name", PAID)
def test_a_signed_receipt_with_one_changed_byte_is_refused(name: str) -> None:
    signed = other.unhex(TALKS[name]["derived"]["signed"])
    verify_receipt(decode_receipt(signed), NETWORK)
    for data in (signed, other.unhex(TALKS[name]["derived"]["unilateral"])):
        verify_receipt(decode_receipt(data), NETWORK)
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1
            with pytest.raises(ReceiptError):
                verify_receipt(decode_receipt(bytes(changed)), NETWORK)
    with pytest.raises(ReceiptError):
        decode_receipt(signed + b"\xc0")


def test_what_is_shown_and_signed_is_the_derived_receipt() -> None:
    shown = {"paid": first(TALKS["paid"], "Done"), "broken": first(TALKS["pending"], "Pending")}
    shown["pending"] = first(TALKS["pending"], "Done")
    settled = [first(TALKS["paid"], "Settle")]
    settled += [
        each["fields"] for each in TALKS["pending"]["messages"] if each["message"] == "Settle"
    ]
    for name, settle in zip(PAID, settled, strict=True):
        derived = TALKS[name]["derived"]
        assert shown[name]["body"] == derived["body"]
        assert shown[name]["node_signature"] == derived["node_signature"]
        assert settle["signature"] == derived["client_signature"]


@pytest.mark.parametrize(("message", "kind"), DELIVERY)
def test_a_delivery_is_read_and_written_alike_by_everybody(
    message: dict[str, Any], kind: type[msgspec.Struct]
) -> None:
    frame = other.unhex(message["hex"])
    found = msgspec.msgpack.decode(frame, type=kind)
    fields = named_taken(found) if isinstance(found, Taken) else named(found)
    assert json.loads(json.dumps(fields)) == message["fields"]
    assert msgspec.msgpack.encode(found) == frame
    assert other.pack(plain_delivery(message["fields"])) == frame
    for wrong in (frame + b"\xc0", frame[:-1], frame[1:], b"\x92" + frame[1:] + b"\xc0"):
        with pytest.raises(msgspec.MsgspecError):
            msgspec.msgpack.decode(wrong, type=kind)


def plain_delivery(fields: dict[str, Any]) -> list[Any]:
    if "envelopes" in fields:
        return [[other.unhex(envelope) for envelope in fields["envelopes"]]]
    return [[plain_outcome(**outcome) for outcome in fields["outcomes"]]]


def plain_outcome(
    outcome: str, promise: Any = None, reason: str = "", retryable: bool = False
) -> list[Any]:
    """The array of one outcome, its name first."""
    rest = {
        "Accepted": [other.plain(promise)],
        "Waiting": [reason],
        "Rejected": [reason, retryable],
    }
    return [outcome, *rest[outcome]]


def test_the_delivered_envelopes_hold_but_for_the_forged_one() -> None:
    given, taken = (message["fields"] for message in VECTOR["delivery"]["messages"])
    envelopes = [other.unhex(envelope) for envelope in given["envelopes"]]
    assert [open_envelope(data, NETWORK).receipt.receipt.sequence for data in envelopes[:2]] == [
        1,
        3,
    ]
    with pytest.raises(ProofError) as refused:
        open_envelope(envelopes[2], NETWORK)
    assert str(refused.value) == taken["outcomes"][2]["reason"]


def test_the_promise_is_signed_as_eth_account_signs_it() -> None:
    promise = VECTOR["delivery"]["messages"][1]["fields"]["outcomes"][0]["promise"]
    body = TALKS["paid"]["derived"]["body"]
    data = other.promise_data(VECTOR["network"], body, promise["deadline"])
    assert other.sign(VECTOR["delivery"]["aggregator"]["secret"], data) == promise["signature"]
